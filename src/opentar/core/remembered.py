"""Which large files had the right sha256 when they were last hashed, so that a start need not hash gigabytes again.

One small JSON file in the cache folder: real path -> size, times, inode, device and sha256. A file that was touched in
any way since is hashed again. The memory saves time and proves nothing: bytes that the disk turned without a write are
found by `opentar verify`, which always hashes. It is harmless when it is missing, damaged, old, or cannot be written.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from opentar.core import environment
from opentar.core.errors import OpenTarError

FILE = "hashed.json"
LEAST_BYTES = 16 << 20
"""Smaller files are hashed every time: that takes a few hundredths of a second."""
SETTLED_NS = 2_000_000_000
"""A file touched so recently may change once more within one tick of the file system's clock: not remembered."""
_MOST = 1000
"""Entries kept, the newest."""
_LONGEST = 10_000_000

State = tuple[int, int, int, int, int]
"""Size, modification and change time in ns, inode, device."""


def state_of(path: Path) -> State:
    """What changes when a file is written or replaced. Raises OSError."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


class Memory:
    """The memory as it was read; `add` writes it back."""

    def __init__(self) -> None:
        self.entries: dict[str, Any] | None = None

    def knows(self, path: Path, sha256: str) -> bool:
        """Whether `path` had this sha256 when it was last hashed, and has not been touched since."""
        state = state_of(path)
        if state[0] < LEAST_BYTES:
            return False
        if self.entries is None:
            self.entries = _read()
        return self.entries.get(str(path.resolve())) == [*state, sha256]

    def add(self, hashed: Mapping[Path, tuple[State, str]]) -> None:
        """Remember files that were just hashed: path -> state before, sha256. Files that are gone are forgotten."""
        settled = time.time_ns() - SETTLED_NS
        new = {
            str(path.resolve()): [*state, sha256]
            for path, (state, sha256) in hashed.items()
            # Touched while it was hashed, it may be something else by now.
            if state[0] >= LEAST_BYTES and max(state[1:3]) < settled and state_of(path) == state
        }
        if new:
            # Read again: another process may have written meanwhile.
            old = {path: entry for path, entry in _read().items() if path not in new and os.path.exists(path)}
            _write(dict([*old.items(), *new.items()][-_MOST:]))


def _place() -> Path | None:
    # Whoever has no home folder has no memory either.
    with suppress(OSError, RuntimeError, OpenTarError):
        return environment.cache_dir() / FILE
    return None


def is_own(found: os.stat_result) -> bool:
    """Whether nobody but this user can have written the file."""
    if not stat.S_ISREG(found.st_mode):
        return False
    return os.name == "nt" or (found.st_uid == os.geteuid() and not found.st_mode & 0o022)


def _read() -> dict[str, Any]:
    """The entries, or none where there is nothing that can be read and trusted."""
    place = _place()
    if place is None:
        return {}
    try:
        handle = os.open(place, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if not is_own(found) or found.st_size > _LONGEST:
                return {}
            entries = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _write(entries: Mapping[str, Any]) -> None:
    place = _place()
    if place is None:
        return
    unfinished = None
    try:
        if os.path.lexists(place) and not is_own(place.lstat()):
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        # Readable and writable by this user alone, whatever the umask.
        handle, unfinished = tempfile.mkstemp(prefix=f".{FILE}-", dir=place.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(entries, file)
        os.replace(unfinished, place)
    except OSError:
        if unfinished is not None:
            with suppress(OSError):
                os.unlink(unfinished)
