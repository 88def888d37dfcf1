"""Streams that are not there, as in `>&-` or under pythonw (Python has None for them), or that refuse a write."""

import contextlib
import errno
import io
import os
import sys
from typing import Any, NoReturn, TextIO


class _Closed(io.TextIOBase):
    """Stands where stdout or stderr would be: refuses whatever is written, as a closed file does."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def write(self, _text: Any) -> NoReturn:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    @property
    def buffer(self) -> "_Closed":
        return self


def open_streams() -> None:
    """Put an empty stdin, and outputs that refuse what is written, where the process was started without them."""
    for number in range(3):
        # Else the first file that is opened gets the number of stdout or stderr, and whatever a library prints there.
        with contextlib.suppress(OSError):
            _occupy(number)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 (it stays open as long as the process)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, _Closed())


def leave(stream: TextIO) -> None:
    """Lead a stream that refused what was written to nowhere.

    What is left in its buffer would be written again when Python ends, and fail there with a traceback.
    """
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _occupy(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        # The system gives the smallest number that is free, which is this one.
        os.open(os.devnull, os.O_RDWR)
