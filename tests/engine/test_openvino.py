"""The cases of openvino_cases.py, in a process of their own.

What forks workers later in the same process was ended by SIGSEGV in its handler of SIGCHLD (docs/lab.md).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from opentar.nn import openvino_library


@pytest.mark.skipif(not openvino_library.available(), reason="pip install 'opentar[openvino]'")
def test_openvino_cases() -> None:
    cases = Path(__file__).with_name("openvino_cases.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cases.parents[2])
    assert done.returncode == 0, done.stdout[-6000:]
    assert "passed" in done.stdout
