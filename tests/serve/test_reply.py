"""Streams whose client does not read or goes away, without sockets: their buffers would hide it."""

import asyncio

import pytest

from opentar.serve.errors import ApiError
from opentar.serve.limits import Limits
from opentar.serve.reply import ClientGone, EventStream, until_gone


class Place:
    """Stands for an admission; only whether it was left matters here."""

    def __init__(self) -> None:
        self.left = 0

    def close(self) -> None:
        self.left += 1


async def events(count: int, error: Exception | None = None, closed: list[str] | None = None):
    try:
        for number in range(count):
            await asyncio.sleep(0)
            yield f"data: {number}\n\n".encode()
        if error is not None:
            raise error
    finally:
        if closed is not None:
            closed.append("closed")


def run(stream: EventStream, send, gone_after: float | None = None) -> None:
    async def receive() -> dict:
        await asyncio.sleep(100 if gone_after is None else gone_after)
        return {"type": "http.disconnect"}

    asyncio.run(asyncio.wait_for(stream({"type": "http"}, receive, send), 20))


def collector(sent: list[bytes]):
    async def send(message: dict) -> None:
        sent.append(message.get("body", b""))

    return send


def test_a_client_that_does_not_read_is_left() -> None:
    place, closed, taken = Place(), [], []

    async def stuck(message: dict) -> None:
        taken.append(message)
        if len(taken) > 3:
            await asyncio.sleep(100)

    with pytest.raises(ClientGone):
        run(EventStream(place, events(100, closed=closed), Limits(body_seconds=0.1)), stuck)
    assert len(taken) == 4 and place.left == 1 and closed == ["closed"]


def test_a_client_that_goes_away_stops_the_stream() -> None:
    place, sent = Place(), []

    async def endless():
        while True:
            await asyncio.sleep(0.01)
            yield b"data: x\n\n"

    run(EventStream(place, endless(), Limits()), collector(sent), gone_after=0.2)
    assert place.left == 1 and b"data: [DONE]\n\n" not in sent and len(sent) > 3


@pytest.mark.parametrize("error", [None, ApiError(504, "late"), RuntimeError("the secret"), MemoryError()])
def test_every_stream_ends_with_done(error) -> None:
    place, sent = Place(), []
    run(EventStream(place, events(3, error), Limits(), "error"), collector(sent))
    assert sent[-1] == b"data: [DONE]\n\n" and place.left == 1
    told = [one for one in sent if one.startswith(b"event: error")]
    assert len(told) == (error is not None)
    assert b"secret" not in b"".join(sent)


def test_work_ends_when_nobody_waits_for_it() -> None:
    cancelled = []

    async def work() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    class Request:
        async def receive(self) -> dict:
            await asyncio.sleep(0.05)
            return {"type": "http.disconnect"}

    async def main() -> None:
        with pytest.raises(ClientGone):
            await until_gone(Request(), work())

    asyncio.run(main())
    assert cancelled == [True]
