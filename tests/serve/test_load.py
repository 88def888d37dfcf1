"""Many at once: everybody gets what he would get alone; whoever leaves, is late or is too much changes nothing."""

import base64
import concurrent.futures
import contextlib
import io
import json
import socket
import threading
import time

import openai
import psutil
import pytest
from PIL import Image

CHAT = "/v1/chat/completions"
DRAW = "/v1/images/generations"
# With this seed the answer does not end by itself.
LONG = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "a dog"}],
    "max_tokens": 400,
    "temperature": 2.0,
    "seed": 1,
}


def send(live, path: str, body: dict) -> socket.socket:
    """Send a request and wait for nothing."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    peer = socket.create_connection(("127.0.0.1", live.port), 30)
    peer.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return peer


def until(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def requests(png, as_url) -> list[tuple[str, dict]]:
    """Of all kinds, each with a seed: texts, pictures, both, guided and not, short and long."""
    shown = {"type": "image_url", "image_url": {"url": as_url(png)}}
    warm = {"model": "tiny", "temperature": 1.5, "max_tokens": 30}
    found: list[tuple[str, dict]] = []
    for seed in range(3):
        text = [{"role": "user", "content": "three red apples"}]
        asked = [{"role": "user", "content": [shown, {"type": "text", "text": "is there a cat?"}]}]
        found += [
            (CHAT, warm | {"messages": text, "seed": seed}),
            (CHAT, warm | {"messages": asked, "seed": seed, "logprobs": True}),
            (CHAT, warm | {"messages": text, "seed": seed, "modalities": ["image"]}),
            (DRAW, {"prompt": "a dog", "seed": seed, "n": 2, "quality": "low", "guidance": 3.0}),
            (DRAW, {"prompt": "a red dog", "seed": seed, "detok": "ar", "quality": "high"}),
        ]
    return found


def answer(live, path: str, body: dict) -> object:
    response = live.http.post(path, json=body)
    assert response.status_code == 200, response.text
    found = response.json()
    if path == DRAW:
        return [one["b64_json"] for one in found["data"]]
    choice = found["choices"][0]
    return choice["message"]["content"], choice["message"]["images"], choice["finish_reason"]


def test_everybody_gets_what_he_would_get_alone(live, requests) -> None:
    alone = [answer(live, *one) for one in requests]
    with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
        together = list(pool.map(lambda one: answer(live, *one), requests))
    assert together == alone
    assert len({str(one) for one in alone}) >= 12, "the tiny model hardly listens to what it is told"


@pytest.mark.parametrize("stream", [False, True])
def test_whoever_leaves_frees_his_place_within_a_step(live, slowly, stream) -> None:
    slowly(0.05)
    metrics = live.service.metrics
    cut = metrics.ended.labels("tiny", "say", "cut")._value.get()
    peers = [send(live, CHAT, LONG | {"stream": stream, "seed": seed}) for seed in range(3)]
    assert until(lambda: live.service.active == 3)
    time.sleep(0.2)
    began = time.monotonic()
    for peer in peers:
        peer.close()
    assert until(lambda: not live.service.active, 2.0)
    assert live.idle(2.0)
    assert time.monotonic() - began < 3.0, "400 steps would have taken 20 seconds"
    assert metrics.ended.labels("tiny", "say", "cut")._value.get() == cut + 3


def test_whoever_leaves_while_his_picture_is_painted_stops_it(live) -> None:
    for stream in (False, True):
        peer = send(live, DRAW, {"prompt": "a dog", "detok": "diffusion", "steps": 1000, "stream": stream})
        painter = live.service.painter
        assert until(lambda: live.service.active == 1)
        assert until(lambda: live.service.shelf.entry(None).loaded.engine.idle)
        time.sleep(0.05)
        peer.close()
        assert live.idle(2.0)
        assert painter.waiting == 0


def test_whoever_leaves_the_queue_is_never_begun(serving) -> None:
    with serving(batch=1) as live:
        engine = live.service.shelf.entry(None).loaded.engine
        begun, plain = [], engine._read
        engine._read = lambda fresh: (begun.extend(one.job.request.seed for one in fresh), plain(fresh))
        gate = threading.Event()
        step = engine.step
        engine.step = lambda: (gate.wait(20), step())[1]
        first, second, third = (send(live, CHAT, LONG | {"seed": seed, "max_tokens": 5}) for seed in (1, 2, 3))
        assert until(lambda: live.service.active == 3)
        second.close()
        assert until(lambda: live.service.active == 2)
        gate.set()
        for peer in (first, third):
            assert peer.recv(100).startswith(b"HTTP/1.1 200")
            peer.close()
        assert begun == [1, 3]
        assert live.idle()


def test_a_full_queue_refuses_before_anything_is_decoded_and_the_others_end(serving) -> None:
    with serving(batch=1, queue=2) as live:
        engine = live.service.shelf.entry(None).loaded.engine
        gate, step = threading.Event(), engine.step
        engine.step = lambda: (gate.wait(20), step())[1]
        peers = [send(live, CHAT, LONG | {"seed": seed, "max_tokens": 3}) for seed in range(3)]
        assert until(lambda: live.service.active == 3)
        broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        for path, body in (
            (CHAT, LONG),
            (CHAT, LONG | {"messages": [{"role": "user", "content": [broken]}]}),
            (DRAW, {"prompt": "a dog"}),
        ):
            response = live.http.post(path, json=body)
            assert response.status_code == 503
            assert 1 <= int(response.headers["retry-after"]) <= 60
            assert response.json()["error"]["code"] == "server_overloaded"
        with pytest.raises(openai.InternalServerError, match="try again"):
            live.client.images.generate(model="tiny", prompt="a dog")
        refused = "opentar_refusals_total" + '{reason="503"} 4.0'
        assert refused in live.http.get("/metrics").text
        gate.set()
        for peer in peers:
            assert peer.recv(100).startswith(b"HTTP/1.1 200")
            peer.close()
        assert live.idle()
        # A request for more than there is room for can never be served, and is told so at once.
        response = live.http.post(DRAW, json={"prompt": "a dog", "n": 10})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "n")
        assert live.http.post(DRAW, json={"prompt": "a dog", "n": 2}).status_code == 200


def test_of_many_at_once_only_those_are_parsed_that_can_have_a_place(serving, monkeypatch) -> None:
    from opentar.serve.routes import chat

    parsed, plain = [], chat._Chat.__init__
    monkeypatch.setattr(chat._Chat, "__init__", lambda self, *given: (parsed.append(1), plain(self, *given))[1])
    with serving(batch=1, queue=3) as live:
        engine = live.service.shelf.entry(None).loaded.engine
        gate, step = threading.Event(), engine.step
        engine.step = lambda: (gate.wait(20), step())[1]
        # Heads of all of them first: one whose body is still to come takes no place.
        bodies = [json.dumps(LONG | {"seed": seed, "max_tokens": 3}).encode() for seed in range(20)]
        peers = []
        for content in bodies:
            peers.append(socket.create_connection(("127.0.0.1", live.port), 30))
            head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            peers[-1].sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode())
        time.sleep(0.2)
        assert live.service.active == 0
        for peer, content in zip(peers, bodies, strict=True):
            peer.sendall(content)
        assert until(lambda: live.service.active == 4)
        assert live.http.post(CHAT, content=b"{no JSON").status_code == 503
        gate.set()
        told = [peer.recv(4000) for peer in peers]
        served = [answer for answer in told if answer.startswith(b"HTTP/1.1 200")]
        refused = [answer for answer in told if answer.startswith(b"HTTP/1.1 503") and b"retry-after" in answer]
        assert (len(served), len(refused), len(parsed)) == (4, 16, 4)
        for peer in peers:
            peer.close()
        assert live.idle()
        assert live.http.post(CHAT, json=LONG | {"max_tokens": 3}).status_code == 200


def test_pictures_that_wait_are_painted_together_and_are_those_of_one_alone(live, monkeypatch) -> None:
    from opentar.serve import painter

    bodies = [{"prompt": "a dog", "seed": seed, "quality": "high"} for seed in range(5)]
    bodies += [bodies[0] | {"detok": "ar"}, bodies[1] | {"quality": "low"}]
    alone = [answer(live, DRAW, body) for body in bodies]
    gate, plain, sizes = threading.Event(), painter.paint, []

    def paint(parts, codes, *others):
        sizes.append(len(codes))
        gate.wait(20)
        return plain(parts, codes, *others)

    monkeypatch.setattr(painter, "paint", paint)
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        found = [pool.submit(answer, live, DRAW, body) for body in bodies]
        # Those that came first are at the gate.
        assert until(lambda: sizes and live.service.painter.waiting == len(bodies) - sizes[0])
        gate.set()
        assert [one.result() for one in found] == alone
    assert sum(sizes) == len(bodies) and max(sizes) > 1
    assert live.idle()


def test_a_batch_that_cannot_be_painted_is_painted_one_by_one(live, monkeypatch) -> None:
    from opentar.serve import painter

    bodies = [{"prompt": "a dog", "seed": seed} for seed in range(4)]
    alone = [answer(live, DRAW, body) for body in bodies]
    gate, plain, failed, sizes = threading.Event(), painter.paint, [], []

    def paint(parts, codes, *others):
        sizes.append(len(codes))
        gate.wait(20)
        if len(codes) > 1:
            failed.append(len(codes))
            raise MemoryError
        return plain(parts, codes, *others)

    monkeypatch.setattr(painter, "paint", paint)
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        found = [pool.submit(answer, live, DRAW, body) for body in bodies]
        assert until(lambda: sizes and live.service.painter.waiting == len(bodies) - sizes[0])
        gate.set()
        assert [one.result() for one in found] == alone
    assert failed
    assert live.idle()


def test_whoever_is_late_is_told_and_lets_go(serving) -> None:
    with serving(seconds=0.5) as live:
        engine = live.service.shelf.entry(None).loaded.engine
        step = engine.step
        engine.step = lambda: (time.sleep(0.05), step())[1]
        with pytest.raises(openai.InternalServerError) as told:
            live.client.chat.completions.create(**LONG)
        assert (told.value.status_code, told.value.code) == (504, "deadline_exceeded")
        with pytest.raises(openai.APIError, match="longer than 0"):
            list(live.client.chat.completions.create(**LONG, stream=True))
        with live.http.stream("POST", CHAT, json=LONG | {"stream": True}) as response:
            lines = [line for line in response.iter_lines() if line]
        assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
        assert lines[-1] == "data: [DONE]"
        assert live.idle(2.0)


def test_a_silent_stream_says_that_it_lives(serving) -> None:
    with serving(ping_seconds=0.1) as live:
        engine = live.service.shelf.entry(None).loaded.engine
        step = engine.step
        engine.step = lambda: (time.sleep(0.5), step())[1]
        with live.http.stream("POST", CHAT, json=LONG | {"stream": True, "max_tokens": 2}) as response:
            lines = [line for line in response.iter_lines() if line]
        assert lines.count(": ping") >= 4
        chunks = list(live.client.chat.completions.create(**LONG | {"max_tokens": 2}, stream=True))
        assert chunks[-1].choices[0].finish_reason == "length"


@contextlib.contextmanager
def failing(live, when) -> "list[int]":
    """The backend fails in the middle of a step where `when` says so of the seeds that run."""
    engine = live.service.shelf.entry(None).loaded.engine
    plain, failed = engine.backend.logits, []

    def logits(slots, ids):
        if when([one.job.request.seed for one in engine._running]):
            failed.append(1)
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return plain(slots, ids)

    engine.backend.logits = logits
    try:
        yield failed
    finally:
        engine.backend.logits = plain


def test_memory_that_runs_out_among_many_is_noticed_by_nobody(live, requests) -> None:
    alone = [answer(live, *one) for one in requests]
    pool = concurrent.futures.ThreadPoolExecutor(len(requests))
    with failing(live, lambda seeds: len(seeds) > 2) as failed, pool:
        together = list(pool.map(lambda one: answer(live, *one), requests))
    assert failed
    assert together == alone
    assert live.service.shelf.entry(None).loaded.engine.batch == 16


def test_streams_go_on_where_they_were_when_memory_ran_out(live) -> None:
    asked = LONG | {"max_tokens": 40}
    alone = [answer(live, CHAT, asked | {"seed": seed})[0] for seed in range(4)]
    count = []

    def when(seeds: list[int]) -> bool:
        count.append(1)
        return len(seeds) > 1 and len(count) % 10 == 0

    def streamed(seed: int) -> str:
        chunks = live.client.chat.completions.create(**asked | {"seed": seed}, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    with failing(live, when) as failed, concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(streamed, range(4)))
    assert failed and together == alone


def test_one_that_takes_all_memory_fails_alone(live) -> None:
    asked = LONG | {"max_tokens": 20}
    alone = [answer(live, CHAT, asked | {"seed": seed}) for seed in range(4)]
    with failing(live, lambda seeds: 666 in seeds) as failed, concurrent.futures.ThreadPoolExecutor(5) as pool:
        bad = pool.submit(live.http.post, CHAT, json=asked | {"seed": 666})
        good = list(pool.map(lambda seed: answer(live, CHAT, asked | {"seed": seed}), range(4)))
        response = bad.result()
    assert failed
    assert (response.status_code, response.json()["error"]["code"]) == (503, "out_of_memory")
    assert response.headers["retry-after"]
    assert "CUDA" not in response.text
    assert good == alone
    assert answer(live, CHAT, asked | {"seed": 0}) == alone[0]


def test_a_painter_without_memory_fails_one_picture(live, monkeypatch) -> None:
    from opentar.serve import painter

    def full(*_: object) -> None:
        raise MemoryError

    body = {"prompt": "a dog", "seed": 1}
    before = answer(live, DRAW, body)
    with monkeypatch.context() as patch:
        patch.setattr(painter, "paint", full)
        for _ in range(3):
            assert live.http.post(DRAW, json=body).json()["error"]["code"] == "out_of_memory"
        told = live.http.get("/ready")
        assert (told.status_code, told.json()["error"]["code"]) == (503, "not_ready")
        assert live.http.get("/health").status_code == 200
    assert answer(live, DRAW, body) == before
    assert live.http.get("/ready").status_code == 200


def test_a_reader_without_memory_fails_one_picture(live, png, as_url, monkeypatch) -> None:
    from opentar.serve import pictures

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    body = LONG | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}
    body["max_tokens"] = 3
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "open_picture", full)
        response = live.http.post(CHAT, json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "out_of_memory")
    assert live.http.post(CHAT, json=body).status_code == 200


def test_an_engine_that_cannot_even_stop_ends_nobody_else(serving) -> None:
    with serving() as live:
        asked = LONG | {"max_tokens": 5, "seed": 1}
        before = answer(live, CHAT, asked)
        engine = live.service.shelf.entry(None).loaded.engine
        plain = engine.step, engine.backend.close

        def broken(*_: object) -> None:
            raise ValueError("a bug")

        engine.step, engine.backend.close = broken, broken
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            responses = list(pool.map(lambda _: live.http.post(CHAT, json=asked), range(4)))
        assert {response.status_code for response in responses} == {500}
        assert "bug" not in responses[0].text
        engine.step, engine.backend.close = plain
        assert answer(live, CHAT, asked) == before
        assert live.service.worker.alive and live.service.painter.alive


@pytest.mark.slow
def test_five_hundred_who_leave_leave_nothing_behind(live) -> None:
    process = psutil.Process()
    sizes = []
    for number in range(500):
        path, body = ((CHAT, LONG), (DRAW, {"prompt": "a dog", "steps": 50, "quality": "high"}))[number % 2]
        peer = send(live, path, body | {"seed": number, "stream": bool(number % 3)})
        time.sleep(0.002 * (number % 40))
        peer.close()
        if number % 100 == 99:
            assert live.idle()
            sizes.append(process.memory_info().rss)
    assert sizes[-1] - sizes[1] < 50_000_000, sizes
