"""A server that is killed in the middle: clients see the connection end, and it begins again as its unit says."""

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

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
UNIT = Path(__file__).parents[2] / "deploy" / "opentar.service"
DRAW = "/v1/images/generations"
LONG = {"prompt": "a dog", "detok": "diffusion", "steps": 1000, "stream": True, "partial_images": 3, "seed": 1}
SHORT = {"prompt": "a dog", "seed": 2, "quality": "low"}


class Supervisor:
    """Starts a command, and again when it has failed, as `Restart=on-failure` of the unit has it."""

    def __init__(self, command: list[str]) -> None:
        lines = UNIT.read_text(encoding="utf-8").splitlines()
        self.restart = dict(line.split("=", 1) for line in lines if "=" in line)["Restart"]
        assert self.restart == "on-failure"
        self._command = command
        self.codes: list[int] = []
        self._ending = False
        self.process = self._start()
        self._watch = threading.Thread(target=self._loop)
        self._watch.start()

    def _start(self) -> subprocess.Popen[str]:
        source = str(Path(opentar.__file__).parents[1])
        environment = os.environ | {"PYTHONPATH": source, "HF_HUB_OFFLINE": "1"}
        return subprocess.Popen(self._command, env=environment, stderr=subprocess.DEVNULL, text=True)

    def _loop(self) -> None:
        while True:
            self.codes.append(self.process.wait())
            # A signal that asks it to end gives 0, and is no failure.
            if self._ending or self.codes[-1] == 0:
                return
            self.process = self._start()

    def end(self) -> None:
        self._ending = True
        self.process.kill()
        self._watch.join(30)


def ready(url: str, seconds: float = 120.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if httpx2.get(f"{url}/ready").status_code == 200:
                return True
        except httpx2.HTTPError:
            pass
        time.sleep(0.05)
    return False


def kill_in_stream(url: str, supervisor: Supervisor, lines: list[str]) -> None:
    """Kill the server at the first line of a long stream, and read on."""
    with httpx2.stream("POST", url + DRAW, json=LONG, timeout=60) as response:
        for line in response.iter_lines():
            lines.append(line)
            if len(lines) == 1:
                supervisor.process.send_signal(signal.SIGKILL)


def port_that_is_free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@pytest.mark.slow
def test_killed_in_a_stream_it_begins_again_and_draws_the_same(tiny_model) -> None:
    port = port_that_is_free()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "opentar", "serve", "--model", f"tiny={tiny_model}", "--port", str(port)]
    supervisor = Supervisor(command)
    try:
        assert ready(url)
        before = httpx2.post(url + DRAW, json=SHORT, timeout=60).json()["data"]
        for _ in range(2):
            lines: list[str] = []
            # The connection ends: nobody waits for an event that will not come, and nobody takes it for the end.
            with pytest.raises(httpx2.HTTPError):
                kill_in_stream(url, supervisor, lines)
            assert "data: [DONE]" not in lines and lines
            assert ready(url), "it was not started again"
            assert httpx2.post(url + DRAW, json=SHORT, timeout=60).json()["data"] == before
        assert supervisor.codes == [-signal.SIGKILL] * 2
        supervisor.process.send_signal(signal.SIGTERM)
        supervisor._watch.join(60)
        assert supervisor.codes[-1] == 0 and len(supervisor.codes) == 3, "what was asked to end is not started again"
    finally:
        supervisor.end()
