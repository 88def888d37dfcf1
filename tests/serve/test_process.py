"""`opentar serve` as a process: what it refuses to begin, how it ends."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest

import opentar
from opentar.serve.run import bind

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
CHAT = "/v1/chat/completions"
KEY = {"authorization": "Bearer sesame"}
LONG = {"prompt": "a dog", "steps": 1000, "stream": True, "partial_images": 3, "seed": 1}


class Process:
    """A server in a process of its own."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        source = str(Path(opentar.__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "opentar", "serve", *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": source, "HF_HUB_OFFLINE": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.told: list[str] = []

    def listening(self) -> str:
        """Its address, when it is ready."""
        line = self.process.stderr.readline()
        self.told.append(line)
        assert line.startswith("serving "), line + self.process.stderr.read()
        url = line.split(" on ")[1].strip().removesuffix("/v1")
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if httpx2.get(f"{url}/ready").status_code == 200:
                return url
            time.sleep(0.05)
        raise AssertionError("never ready")

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def stream(url: str, body: dict, lines: list[str], begun: threading.Event) -> None:
    with httpx2.stream("POST", f"{url}/v1/images/generations", json=body, timeout=60, headers=KEY) as response:
        for line in response.iter_lines():
            if line:
                lines.append(line)
                begun.set()


def test_a_signal_lets_what_runs_end_and_takes_nothing_on(tiny_model) -> None:
    with Process("--model", f"mine={tiny_model}", "--port", 0, OPENTAR_API_KEY="sesame") as server:
        url = server.listening()
        port = int(url.rsplit(":", 1)[1])
        lines: list[str] = []
        begun = threading.Event()
        kept = httpx2.Client(base_url=url, headers=KEY)
        assert [one["id"] for one in kept.get("/v1/models").json()["data"]] == ["mine"]
        assert httpx2.get(f"{url}/v1/models").status_code == 401, "the key came from the environment"
        thread = threading.Thread(target=stream, args=(url, LONG, lines, begun))
        thread.start()
        assert begun.wait(60)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(OSError, match=r"refused|reset"):
            socket.create_connection(("127.0.0.1", port), 5)
        thread.join(60)
        assert server.process.wait(60) == 0
        events = [line for line in lines if line.startswith("event:")]
        assert events[-1] == "event: image_generation.completed" and lines[-1] == "data: [DONE]"
        kept.close()
        told = server.process.stderr.read()
        assert "Traceback" not in told and "sesame" not in told
        assert server.process.stdout.read() == ""


@pytest.mark.slow
def test_what_takes_longer_than_the_grace_is_told_so(tiny_model) -> None:
    with Process("--model", tiny_model, "--port", 0, "--grace", 0.2) as server:
        url = server.listening()
        lines: list[str] = []
        begun = threading.Event()
        body = LONG | {"quality": "high", "guidance": 3.0, "detok_guidance": 3.0}
        thread = threading.Thread(target=stream, args=(url, body, lines, begun))
        thread.start()
        assert begun.wait(60)
        server.process.send_signal(signal.SIGINT)
        thread.join(60)
        assert server.process.wait(60) == 0
        if "event: image_generation.completed" not in lines:
            assert "event: error" in lines
            told = json.loads(lines[lines.index("event: error") + 1].removeprefix("data: "))
            assert told["error"]["code"] == "server_unavailable"
        assert lines[-1] == "data: [DONE]"


@pytest.mark.slow
def test_a_second_signal_ends_at_once(tiny_model) -> None:
    with Process("--model", tiny_model, "--port", 0) as server:
        url = server.listening()
        lines: list[str] = []
        begun = threading.Event()

        def cut() -> None:
            try:
                stream(url, LONG | {"quality": "high"}, lines, begun)
            except httpx2.HTTPError:
                lines.append("cut")

        thread = threading.Thread(target=cut)
        thread.start()
        assert begun.wait(60)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(5)
        thread.join(60)
        assert code == 128 + signal.SIGTERM or (code == 0 and lines[-1] == "data: [DONE]")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host", "0.0.0.0"], "OPENTAR_API_KEY"),
        (["--host", "no such host"], "key"),
        (["--host", "no.such.host.invalid", "--api-key", "k"], "cannot listen"),
        (["--port", "70000"], "65535"),
        (["--port", "-1"], "65535"),
        (["--model", "nanno"], "Did you mean 'nano'"),
        (["--model", "nano", "nano"], "twice"),
        (["--model", "nano", "there/nano"], "twice"),
        (["--memory", "much"], "8GB"),
        (["--memory", "1MB"], "memory is 1.0 MB"),
        (["--batch", "0"], "batch is 0"),
        (["--queue", "0"], "queue is 0"),
        (["--timeout", "0"], "seconds is 0"),
        (["--grace", "-1"], "grace"),
        (["--api-key", " "], "empty"),
        (["--api-key", "k", "--api-key", ""], "empty"),
        (["--rate", "0"], "the rate is 0"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_what_it_does_not_begin_with(arguments, told, capfd) -> None:
    from opentar.cli import main

    code = main(["serve", *arguments])
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and len(err.splitlines()) == 1
    assert told in err


def test_a_port_that_is_taken(capfd) -> None:
    from opentar.cli import main

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"cannot listen on '127.0.0.1' port {port}" in capfd.readouterr().err


def test_answers_are_sent_at_once() -> None:
    """Nagle's algorithm is off: with it, the second piece of an answer waits for the client, 40 ms each time."""
    found = []

    class Peer(asyncio.Protocol):
        def connection_made(self, transport) -> None:
            found.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    async def meet() -> None:
        with bind("127.0.0.1", 0) as bound:
            server = await asyncio.get_running_loop().create_server(Peer, sock=bound)
            reader, writer = await asyncio.open_connection(*bound.getsockname())
            await reader.read()
            writer.close()
            server.close()

    asyncio.run(meet())
    assert found and all(found)
