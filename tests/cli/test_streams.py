"""Closed streams and Ctrl-C: what can be done is done, else one line and the right exit code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import opentar

PYTHONPATH = str(Path(opentar.__file__).parents[1])


EVERY = ("<&-", ">&-", "2>&-", "<&- >&- 2>&-")
CLOSED = [
    *(("generate - --model model", streams, 2) for streams in EVERY),
    *(("info nanoo", streams, 2) for streams in EVERY),
    *(("--help", streams, int(">&-" in streams.split())) for streams in EVERY),
    ("ask picture.png 'what?' --model model", "<&-", 0),
    ("ask picture.png 'what?' --model model --json", "<&- >&- 2>&-", 1),
    ("tokens picture.png --model model", ">&-", 1),
]


@pytest.mark.parametrize(("argv", "streams", "code"), CLOSED)
@pytest.mark.skipif(os.name == "nt", reason="closing streams takes a POSIX shell")
def test_closed_streams(tiny_model, picture, tmp_path, argv, streams, code):
    (tmp_path / "model").symlink_to(tiny_model)
    # A stdin that is open and empty, unless the shell closes it.
    done = subprocess.run(
        f"exec '{sys.executable}' -m opentar {argv} {streams}", shell=True, cwd=tmp_path, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=100, check=False, env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and "AttributeError" not in done.stderr
    if code and "2>&-" not in streams:
        assert "error: " in done.stderr
        assert "OPENTAR_DEBUG" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="closing streams takes a POSIX shell")
def test_files_get_none_of_the_closed_numbers():
    """Else what a library prints to stderr would land in the first file that is opened."""
    program = (
        "import sys; from opentar.commands.streams import open_streams; open_streams();"
        "number = open(sys.argv[1]).fileno(); sys.exit(number <= 2)"
    )
    done = subprocess.run(
        f"exec '{sys.executable}' -c '{program}' '{__file__}' <&- >&- 2>&-", shell=True, check=False, timeout=100,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )  # fmt: skip
    assert done.returncode == 0


def test_a_full_disk_is_one_line(tmp_path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with full.open("w") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "opentar", "--help"], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False,
            timeout=100, env={**os.environ, "PYTHONPATH": PYTHONPATH},
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: the output cannot be written") and done.stderr.count("\n") == 1


def test_nothing_is_imported_before_ctrl_c_is_caught():
    """`typing` alone takes 20 ms, in which Ctrl-C would show a traceback."""
    program = (
        "import sys; before = set(sys.modules); import opentar.__main__; print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )  # fmt: skip
    assert set(done.stdout.split()) <= {"__future__", "opentar", "opentar.__main__"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a child")
@pytest.mark.parametrize("delay", [0.002, 0.01, 0.03, 0.06, 0.12, 0.2, 0.35, 0.6])
def test_ctrl_c_while_it_starts(tiny_model, tmp_path, delay):
    """From the first line of ours on; the test above says how little is imported before it."""
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import opentar.__main__ as start; "
        "print('on', flush=True); sys.exit(start.main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "generate", "a dog", "--model", str(tiny_model)], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "on\n"
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=100)[1]
    assert "Traceback" not in said
    assert process.returncode in (130, 0), said
