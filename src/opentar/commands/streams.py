"""Streams that are not there: where a process is started with stdin or stdout closed, Python has None for them."""

import errno
import io
import os
import sys
from typing import Any, NoReturn


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
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 (it stays open as long as the process)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, _Closed())
