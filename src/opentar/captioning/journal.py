"""The file of a job that is under way: a line of JSON for every picture, written when its caption is known.

The first line says what was asked of which model; a job goes on only where it is the same. Every other line is a row or
a failure. Lines are appended and never changed, so what a killed program leaves is at worst half a last line, which is
cut off. So the state of a job is its journal alone, whatever file is made of it in the end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from opentar.core.errors import OutputError, UnsavedError, shown

SYNC_SECONDS = 5.0
"""Lines are handed to the system at once, so a kill loses none; the disk gets them so often, for a power cut."""
_LOCKED_BYTE = 1 << 40
"""Windows locks bytes, and nobody else can read those: one far behind the end."""


class Journal:
    """A journal that is open, and locked: nobody else writes it.

    Args:
        path: the file; one that is there is gone on with.
        head: what the job is, to be compared.

    Raises:
        OutputError: the file is that of another job, or damaged; another process writes it; the disk refuses.
    """

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        self.path, self.head = path, dict(head)
        self.before: set[str] = set()
        """Paths that had a row or a failure when it was opened."""
        self.rows = self.failures = 0
        try:
            self._file: IO[bytes] = path.open("a+b", buffering=0)
        except OSError as error:
            raise OutputError(f"cannot write {shown(path)}: {error.strerror}; choose another place") from error
        try:
            _lock(self._file, path)
            self._length = self._read()
            self._file.truncate(self._length)
            if not self._length:
                self._append(self.head)
        except OSError as error:
            self.close()
            raise OutputError(f"cannot use {shown(path)}: {error.strerror}; choose another place") from error
        except BaseException:
            self.close()
            raise
        self._synced = time.monotonic()

    def row(self, row: Mapping[str, Any]) -> None:
        """Keep a row. Raises UnsavedError where the disk refuses; what was kept before stays."""
        self._keep(row)
        self.rows += 1

    def failure(self, path: str, reason: str) -> None:
        """Keep a failure; errors as `row`."""
        self._keep({"path": path, "reason": reason})
        self.failures += 1

    def lines(self, *, failed: bool) -> Iterator[dict[str, Any]]:
        """The rows, or the failures, from the beginning; read line by line."""
        with self.path.open("rb") as file:
            next(file)
            for line in file:
                row = json.loads(line)
                if ("reason" in row) == failed:
                    yield row

    def close(self) -> None:
        """Flush and let go; closed twice is no matter."""
        if self._file.closed:
            return
        with suppress(OSError):
            os.fsync(self._file.fileno())
        self._file.close()

    def _keep(self, line: Mapping[str, Any]) -> None:
        try:
            self._append(line)
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._length)
            raise UnsavedError(
                f"cannot write {shown(self.path)}: {error.strerror}; {self.rows} captions are kept in it: free the "
                "disk and give the same command again, without --overwrite"
            ) from error

    def _append(self, line: Mapping[str, Any]) -> None:
        content = encoded(line)
        written = 0
        while written < len(content):
            # A disk that fills up takes a part first.
            written += self._file.write(content[written:]) or 0
        self._length += len(content)

    def _read(self) -> int:
        """Where the last whole line ends; everything before it is taken in."""
        self._file.seek(0)
        length, number = 0, 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line) if line.endswith(b"\n") else None
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict) or (number > 1 and not isinstance(row.get("path"), str)):
                    if any(rest.strip(b"\0\n") for rest in file):
                        raise OutputError(
                            f"line {number} of {shown(self.path)} is damaged and more follow; cut the file before it, "
                            "or give --overwrite to begin again"
                        )
                    break
                if number == 1:
                    check_same(self.path, self.head, row)
                else:
                    self.before.add(row["path"])
                    self.failures += "reason" in row
                    self.rows += "reason" not in row
                length += len(line)
        return length


def check_same(path: Path, head: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """Raise OutputError unless what `path` holds was asked as `head` says, naming the first difference."""
    for name, value in head.items():
        if name not in there:
            raise OutputError(f"{shown(path)} holds no captions of this program; use another name, or --overwrite")
        if there[name] != value:
            raise OutputError(
                f"{shown(path)} was made with {name} {shown(there[name])}, and now it is {shown(value)}; "
                "use another name, or --overwrite"
            )


def encoded(row: Mapping[str, Any]) -> bytes:
    """A row as a line of JSON in UTF-8."""
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(_LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The other one may have ended, and taken the file away, between opening and locking.
        mine = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        mine = False
    if not mine:
        raise OutputError(f"another process writes {shown(path)}; wait for it, or use another name")
