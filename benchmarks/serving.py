"""What serving many at once is worth: the same requests one after the other and all together, in alternation.

    python benchmarks/serving.py [--model nano] [--clients 8] [--rounds 3]

Starts `opentar serve` in a process of its own and talks to it over loopback. Each row is one kind of request: seconds
for as many as there are clients, one after the other and all at once, medians of the rounds, and how many times as fast
that is; then the seconds to the first word of an answer alone, and while all clients draw.
"""

from __future__ import annotations

import argparse
import base64
import json
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

CHAT, DRAW = "/v1/chat/completions", "/v1/images/generations"


class Served:
    """A server in a process of its own, as a context."""

    def __init__(self, model: str, *options: str) -> None:
        command = [sys.executable, "-m", "opentar", "serve", "--port", "0", "--model", model, *options]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.url = self.name = ""
        """Where it listens, and what requests call the model."""

    @property
    def number(self) -> int:
        """Of the process."""
        return self._process.pid

    def __enter__(self) -> Served:
        assert self._process.stderr is not None
        line = self._process.stderr.readline().strip()
        if not line.startswith("serving "):
            raise SystemExit(line or "the server did not begin")
        self.name = line.removeprefix("serving ").partition(" on ")[0]
        self.url = line.rsplit(" on ", 1)[1].removesuffix("/v1")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The response to `body`."""
        with self._open(path, body) as response:
            return json.load(response)

    def first_word(self, path: str, body: dict[str, Any]) -> float:
        """Seconds to the first word of a streamed answer, which is read to its end."""
        began, first = time.perf_counter(), 0.0
        with self._open(path, body | {"stream": True}) as response:
            for line in response:
                if line.startswith(b"data: {") and not first:
                    choices = json.loads(line[6:])["choices"]
                    first = time.perf_counter() - began if choices and choices[0]["delta"].get("content") else 0.0
        return first

    def _open(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        return urllib.request.urlopen(request, timeout=600)


def works(served: Served, model: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Requests by their kind; the picture that is asked about is known already, as in a conversation."""
    drawn = served.post(DRAW, {"prompt": "a purple car", "model": model, "seed": 1})["data"][0]["b64_json"]
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{drawn}"}}
    png = base64.b64decode(drawn)
    assert png.startswith(b"\x89PNG")
    asked = [{"role": "user", "content": [image, {"type": "text", "text": "What is in the picture?"}]}]
    return {
        "draw": (DRAW, {"prompt": "a red apple", "model": model}),
        "draw, finest grid": (DRAW, {"prompt": "a red apple", "model": model, "quality": "high"}),
        "ask": (CHAT, {"model": model, "messages": asked}),
    }


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with Served(options.model) as served, ThreadPoolExecutor(options.clients + 1) as pool:
        kinds = works(served, options.model)
        print("| request | one after the other, s | all at once, s | times as fast |")
        print("|---|---|---|---|")
        for kind, (path, body) in kinds.items():
            bodies = [body | {"seed": seed} for seed in range(options.clients)]
            apart, together = [], []
            for _ in range(options.rounds):
                began = time.perf_counter()
                for one in bodies:
                    served.post(path, one)
                middle = time.perf_counter()
                list(pool.map(lambda one, path=path: served.post(path, one), bodies))
                apart.append(middle - began)
                together.append(time.perf_counter() - middle)
            before, after = statistics.median(apart), statistics.median(together)
            print(f"| {options.clients} x {kind} | {before:.2f} | {after:.2f} | {before / after:.2f} |", flush=True)
        path, body = kinds["ask"]
        alone = statistics.median(served.first_word(path, body) for _ in range(options.rounds))
        drawing = [pool.submit(served.post, *kinds["draw, finest grid"]) for _ in range(options.clients)]
        time.sleep(0.2)
        beside = served.first_word(path, body)
        for one in drawing:
            one.result()
        print(
            f"\nfirst word of an answer: {alone:.3f} s alone, {beside:.3f} s while {options.clients} pictures are drawn"
        )


if __name__ == "__main__":
    main()
