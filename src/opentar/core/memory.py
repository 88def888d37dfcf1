"""Room in memory, asked for before anything large is built."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from opentar.core.disk import human_bytes
from opentar.core.errors import ModelError

_MEMINFO = Path("/proc/meminfo")
_GROUPS = Path("/sys/fs/cgroup")
"""Where a container finds its own limits: files of version 2, or of version 1 below memory/."""
_LIMITS = (
    ("memory.max", "memory.current", "memory.stat", ("inactive_file", "active_file")),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        ("total_inactive_file", "total_active_file"),
    ),
)


def available_bytes() -> int | None:
    """Bytes of memory that a new program may take, or None where the system does not say."""
    known = [count for count in (_of_the_machine(), _of_the_container()) if count is not None]
    return min(known, default=None)


def _of_the_container() -> int | None:
    """What the limit of a container leaves; None without one."""
    for limit, used, stat, cached in _LIMITS:
        try:
            most, taken = (int((_GROUPS / name).read_text(encoding="ascii")) for name in (limit, used))
            # Files that were read stay in memory until it is needed.
            rows = dict(line.split() for line in (_GROUPS / stat).read_text(encoding="ascii").splitlines())
            return max(0, most - taken + sum(int(rows.get(name, 0)) for name in cached))
        except (OSError, ValueError):
            # No such file, or the word "max".
            continue
    return None


def _of_the_machine() -> int | None:
    try:
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def check_memory(what: str, needed: int) -> None:
    """Raise ModelError, with both numbers, unless `needed` bytes of memory are available; unknown is enough."""
    available = available_bytes()
    if available is not None and available < needed:
        raise ModelError(
            f"{what} needs {human_bytes(needed)} of memory and {human_bytes(available)} are available; "
            "close other programs or use a larger machine"
        )


def peak_gigabytes() -> float:
    """Peak resident memory of this process so far in GB (1e9 bytes); NaN where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left: Python's own, CUDA's, or that of PyTorch on a CPU."""
    return isinstance(error, MemoryError) or any(
        said in str(error) for said in ("out of memory", "can't allocate memory")
    )
