"""Server and command line start and answer without a network, and never look for one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import opentar

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

WATCH = """
import os, sys
reached = []

def watch(event, arguments):
    # What Python itself connects to or looks up; the network that is not there stops all else.
    if event == "socket.connect":
        place = arguments[1]
        if isinstance(place, tuple) and not str(place[0]).startswith(("127.", "::1")):
            reached.append(repr(place))
            raise OSError("no network here")
    if event == "socket.getaddrinfo" and str(arguments[0]) not in ("127.0.0.1", "localhost", "::1", "None"):
        reached.append(repr(arguments[0]))
        raise OSError("no names here")

sys.addaudithook(watch)
if os.environ["ALONE"] == "1":
    import fcntl, socket, struct
    # A new network has nothing but loopback, and that is down.
    with socket.socket() as any:
        fcntl.ioctl(any, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))
"""

SERVE = """
import base64, json, signal, threading, time
import httpx2
from opentar.cli import main

answers = []

def ask():
    try:
        url = "http://127.0.0.1:8000"
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                if httpx2.get(url + "/ready").status_code == 200:
                    break
            except httpx2.HTTPError:
                pass
            time.sleep(0.1)
        drawn = httpx2.post(url + "/v1/images/generations", json={"prompt": "a dog", "quality": "low"}, timeout=120)
        answers.append(drawn.status_code)
        picture = "data:image/png;base64," + drawn.json()["data"][0]["b64_json"]
        shown = {"type": "image_url", "image_url": {"url": picture}}
        said = httpx2.post(
            url + "/v1/chat/completions",
            json={"model": "tiny", "messages": [{"role": "user", "content": [shown]}], "max_tokens": 3}, timeout=120,
        )
        answers.append(said.status_code)
        if "--ui" in sys.argv:
            # The page itself, and what it tells a browser to get: all from here.
            for path in ("/ui/en/", "/ui/en/config", "/ui/zh/"):
                answers.append(httpx2.get(url + path, timeout=120).status_code)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=ask, daemon=True).start()
code = main(["serve", "--model", "tiny=" + sys.argv[1], "--port", "8000", *sys.argv[2:]])
print(json.dumps({"code": code, "answers": answers, "reached": reached}))
"""

DRAW = """
import json
from opentar.cli import main

picture = sys.argv[1]
codes = [main(["generate", "a red apple", "--scale", "2", "-o", picture]), main(["ask", picture, "what is it?"])]
print(json.dumps({"codes": codes, "reached": reached}))
"""
EVALUATE = """
import json
from opentar.cli import main

code = main(["eval", "nano", "--limit", "6", "--no-links"])
print()
print(json.dumps({"code": code, "reached": reached}))
"""
CONNECT = """
import json, socket
for reach, name in (
    (socket.socket().connect, "192.0.2.1"), (socket.create_connection, "192.0.2.1"),
    (socket.create_connection, "example.com"),
):
    try:
        reach((name, 80))
    except OSError:
        pass
print(json.dumps({"reached": reached}))
"""


def alone() -> list[str]:
    """What gives a command a network of its own with nothing in it; empty where the system does not allow it."""
    command = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0:
        return command
    return []


def run(script: str, *arguments: object) -> dict:
    """Run a script without a network; what it prints last."""
    before = alone()
    if not before and "--port" in script:
        pytest.skip("the port is only free in a network of its own")
    source = str(Path(opentar.__file__).parents[1])
    # No variable says offline: it must not need one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run(
        [*before, sys.executable, "-c", WATCH + script, *map(str, arguments)],
        env=environment | {"PYTHONPATH": source, "ALONE": str(int(bool(before)))},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_watch_sees_who_reaches_out() -> None:
    assert run(CONNECT)["reached"] == ["('192.0.2.1', 80)", "'192.0.2.1'", "'example.com'"]


def test_the_server_starts_and_answers(tiny_model) -> None:
    assert run(SERVE, tiny_model) == {"code": 0, "answers": [200, 200], "reached": []}


def test_the_page_starts_and_answers(tiny_model) -> None:
    pytest.importorskip("gradio", reason="needs the extra ui")
    assert run(SERVE, tiny_model, "--ui") == {"code": 0, "answers": [200] * 5, "reached": []}


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_the_evaluation_measures() -> None:
    """With an empty cache: the judge is trained from what is installed."""
    assert run(EVALUATE) == {"code": 0, "reached": []}


def test_the_command_line_draws_and_reads(tmp_path) -> None:
    assert run(DRAW, tmp_path / "apple.png") == {"codes": [0, 0], "reached": []}
