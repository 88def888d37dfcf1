"""Room on a disk, asked for before anything large is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from opentar.core.errors import OutputError, shown


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that `folder` is on or would be on. Raises OutputError where no disk answers."""
    folder = Path(folder).absolute()
    try:
        return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    except (OSError, ValueError, StopIteration) as error:
        raise OutputError(f"cannot read the free space at {shown(folder)} ({error}); choose another folder") from error


def check_room(folder: Path, needed: int) -> None:
    """Raise OutputError, with both numbers, unless the disk of `folder` has `needed` bytes free."""
    free = free_bytes(folder)
    if free < needed:
        raise OutputError(
            f"{shown(folder)} needs {human_bytes(needed)} and its disk has {human_bytes(free)} free; "
            "free some space or choose another disk"
        )


def human_bytes(count: int) -> str:
    """A size for people: 1.2 GB, 34.5 MB, 670 kB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.0f} kB"
