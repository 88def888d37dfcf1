"""What a server does at its edges: the first look at a picture, refusals, a full queue, slow clients.

    python benchmarks/serve_edges.py [--model nano] [--rounds 5] [--slow 50]

Starts `opentar serve` in processes of their own and talks to them over loopback. Prints:

- seconds from a streamed request to the first look at the picture, on each grid, and to the picture;
- milliseconds until what cannot be done is refused, and the memory of the server after it against that before;
- milliseconds of a refusal where the queue is full, of 200 at once, and whether all that were accepted end;
- milliseconds of a short answer alone, and beside clients that send heads and bodies slowly or read nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil

from serving import CHAT, DRAW, Served

SHORT = {"messages": [{"role": "user", "content": "What is red?"}], "max_tokens": 4}
BURST = 200


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow", type=int, default=50)
    asked = parser.parse_args()
    with Served(asked.model) as server:
        _ready(server.url)
        _looks(server.url, asked.model, asked.rounds)
        _refusals(server, asked.model, asked.rounds)
        _beside(server.url, asked.model, asked.slow)
    with Served(asked.model, "--batch", "2", "--queue", "2") as server:
        _ready(server.url)
        _full(server.url, asked.model)


def _ready(url: str) -> None:
    while httpx2.get(f"{url}/ready").status_code != 200:
        time.sleep(0.05)


def _looks(url: str, model: str, rounds: int) -> None:
    for quality in ("low", "medium", "high"):
        looks, pictures = [], []
        # The first of them is not counted.
        for seed in range(rounds + 1):
            body = {"model": model, "prompt": "a red car", "quality": quality, "seed": seed}
            began = time.perf_counter()
            with httpx2.stream("POST", url + DRAW, json=body | {"stream": True, "partial_images": 2}) as response:
                times = [
                    (line, time.perf_counter() - began) for line in response.iter_lines() if line.startswith("event:")
                ]
            looks.append(times[0][1])
            pictures.append(times[-1][1])
        told = f"first look {_middle(looks[1:])} s, picture {_middle(pictures[1:])} s"
        print(f"drawing, quality {quality}: {told}", flush=True)


def _refusals(server: Served, model: str, rounds: int) -> None:
    text = {"role": "user", "content": "a"}
    bodies: dict[str, bytes] = {
        name: json.dumps(SHORT | {"model": model} | more).encode()
        for name, more in {
            "max_tokens 10^9": {"max_tokens": 10**9},
            "max_tokens true": {"max_tokens": True},
            "10^4 messages": {"messages": [text] * 10**4},
            "a prompt of 50 MB": {"messages": [text | {"content": "a " * (25 << 20)}]},
        }.items()
    }
    bodies["10^5 levels of JSON"] = b"[" * 10**5
    bodies["1e400"] = b'{"model": "' + model.encode() + b'", "messages": [], "max_tokens": 1e400}'
    process = psutil.Process(server.number)
    with httpx2.Client(base_url=server.url, timeout=60, headers={"content-type": "application/json"}) as client:
        for name, body in bodies.items():
            before = process.memory_info().rss
            found = [_timed(lambda body=body: client.post(CHAT, content=body)) for _ in range(rounds)]
            grown = (process.memory_info().rss - before) / (1 << 20)
            _told(f"refused, {name}", found, f", {grown:+.0f} MiB")
        for name, more in {"n 10^6": {"n": 10**6}, "size 99999x99999": {"size": "99999x99999"}}.items():
            body = json.dumps({"model": model, "prompt": "a dog"} | more).encode()
            found = [_timed(lambda body=body: client.post(DRAW, content=body)) for _ in range(rounds)]
            _told(f"refused, {name}", found)


def _full(url: str, model: str) -> None:
    """Four are accepted, and 200 more come while they run."""
    long = {"model": model, "prompt": "a red car", "quality": "high", "seed": 1}
    with ThreadPoolExecutor(4 + 20) as pool, httpx2.Client(base_url=url, timeout=600) as client:
        accepted = [pool.submit(client.post, DRAW, json=long | {"seed": seed}) for seed in range(4)]
        time.sleep(0.5)
        found = list(pool.map(lambda _: _timed(lambda: client.post(DRAW, json=long)), range(BURST)))
        _told(f"queue full, {BURST} more from 20 clients", [one for one in found if one[0] == 503])
        ended = sum(one.result().status_code == 200 for one in accepted)
        print(f"of 4 accepted ended {ended}", flush=True)


def _beside(url: str, model: str, slow: int) -> None:
    body = SHORT | {"model": model}
    with httpx2.Client(base_url=url, timeout=60) as client:

        def healthy(count: int = 100) -> list[tuple[int, float]]:
            return [_timed(lambda: client.post(CHAT, json=body)) for _ in range(count)]

        healthy(10)
        _told("a short answer alone", healthy())
        with _slow_clients(url, slow, model):
            time.sleep(1)
            _told(f"a short answer beside {slow} slow clients of each kind", healthy())
        _told("a short answer afterwards", healthy())


@contextlib.contextmanager
def _slow_clients(url: str, count: int, model: str) -> Iterator[None]:
    """Heads that stop in the middle, bodies that stop in the middle, and streams that nobody reads."""
    place = urlsplit(url)
    address = (place.hostname or "127.0.0.1", place.port or 80)
    body = json.dumps(SHORT | {"model": model, "stream": True}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    whole = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    peers = []
    try:
        for content in (head.encode(), whole[:-20], whole):
            for _ in range(count):
                peers.append(socket.create_connection(address, 10))
                peers[-1].sendall(content)
        yield
    finally:
        for peer in peers:
            peer.close()


def _timed(work: Callable[[], Any]) -> tuple[int, float]:
    began = time.perf_counter()
    status = work().status_code
    return status, (time.perf_counter() - began) * 1000


def _told(what: str, found: list[tuple[int, float]], more: str = "") -> None:
    times = sorted(one for _, one in found)
    statuses = ", ".join(sorted({str(status) for status, _ in found})) or "none"
    late = times[min(len(times) - 1, int(len(times) * 0.95))] if times else 0.0
    middle = statistics.median(times) if times else 0.0
    print(f"{what}: status {statuses}, median {middle:.1f} ms, 95 of 100 within {late:.1f} ms{more}", flush=True)


def _middle(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} (up to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
