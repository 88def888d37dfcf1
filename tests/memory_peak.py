"""How much memory this process has had at most since a moment."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import psutil


def forget_the_peak() -> None:
    """Linux counts the most memory of this process from now on."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most bytes that were resident; elsewhere than on Linux those of now."""
    status = Path("/proc/self/status")
    if not status.exists():
        return psutil.Process().memory_info().rss
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) << 10
