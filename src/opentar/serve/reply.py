"""Answers on their way to the client: streams with pings, and work that ends when the client goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from opentar.serve.admission import Admission
from opentar.serve.errors import api_error
from opentar.serve.limits import Limits

Result = TypeVar("Result")
_PING = b": ping\n\n"
_DONE = b"data: [DONE]\n\n"


class ClientGone(Exception):
    """Nobody waits for the answer any longer."""


def sse(data: dict[str, Any], event: str | None = None) -> bytes:
    """One server-sent event."""
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


async def until_gone(request: Request, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is cancelled when the client goes away. Raises ClientGone then.

    The body of the request must have been read.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        await _cancelled(task, gone)


async def begun(request: Request, admission: Admission, prepare: Callable[[Admission], Awaitable[None]]) -> None:
    """Enter an admission and prepare its answers; where that fails or the client goes away, it is left."""

    async def begin() -> None:
        await admission.__aenter__()
        await prepare(admission)

    try:
        await until_gone(request, begin())
    except BaseException:
        admission.close()
        raise


async def collected(request: Request, admission: Admission, collect: Awaitable[Result]) -> Result:
    """The result of a whole answer; the admission is left in any case."""
    try:
        return await until_gone(request, collect)
    finally:
        admission.close()


class EventStream(Response):
    """Server-sent events of an admission, which is left when they end, the client goes away or does not read.

    The stream is never silent for longer than `ping_seconds`. An error in the middle is told as an event, and
    `[DONE]` is the last line in any case.

    Args:
        admission: begun.
        events: what to send.
        limits: of the service.
        error_event: name of the event that tells of an error; None for no name.
    """

    media_type = "text/event-stream"

    def __init__(
        self, admission: Admission, events: AsyncIterator[bytes], limits: Limits, error_event: str | None = None
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._admission, self._events, self._limits, self._error_event = admission, events, limits, error_event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all of it."""
        task = asyncio.ensure_future(self._run(send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            await _cancelled(task, gone)
            self._admission.close()
            if isinstance(self._events, AsyncGenerator):
                await self._events.aclose()

    async def _run(self, send: Send) -> None:
        async def put(content: bytes, more: bool = True) -> None:
            async with asyncio.timeout(self._limits.body_seconds):
                await send({"type": "http.response.body", "body": content, "more_body": more})

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for content in self._with_pings():
                await put(content)
        except TimeoutError:
            # The client does not read.
            raise ClientGone from None
        except Exception as error:
            await put(sse(api_error(error).body, self._error_event))
        await put(_DONE, more=False)

    async def _with_pings(self) -> AsyncIterator[bytes]:
        coming: asyncio.Future[bytes] | None = None
        try:
            while True:
                coming = asyncio.ensure_future(anext(self._events))
                while not (await asyncio.wait({coming}, timeout=self._limits.ping_seconds))[0]:
                    yield _PING
                try:
                    yield coming.result()
                except StopAsyncIteration:
                    return
        finally:
            if coming is not None:
                await _cancelled(coming)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
