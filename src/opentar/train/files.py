"""Small files of a run that other processes read meanwhile: written whole or not at all, and one writer a stage."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from opentar.core.errors import DataError, OutputError, shown


def write_json(path: Path, values: Any) -> None:
    """Write `values`, so that a reader sees the old file or the new one, never a part.

    Raises: OutputError where the disk refuses; the old file stays.
    """
    unfinished = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(values, indent=1), encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise OutputError(f"cannot write {shown(path)}: {error.strerror}; make room and start again") from error


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the lock goes with the process, however it ends.

    Raises: DataError where another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(
                f"stage {folder.name} is being trained in {folder} by another process; wait for it, or end it first"
            ) from error
        yield
