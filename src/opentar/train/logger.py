"""The log of a stage: lines on the terminal, rows in log.jsonl, points in tensorboard."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from opentar.core.errors import printable_line


class Logger:
    """Writes rows of numbers of one stage; tensorboard is used where it is installed."""

    def __init__(self, folder: Path, name: str, steps: int, *, quiet: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.steps, self.quiet, self.began = name, steps, quiet, time.time()
        # Unbuffered: what a full disk refuses must not be kept to be written, and refused, again.
        self.file = (folder / "log.jsonl").open("ab", buffering=0)
        self.board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.board = SummaryWriter(str(folder / "tensorboard"))

    def say(self, text: str) -> None:
        """One plain line for the person who watches."""
        if not self.quiet:
            print(printable_line(f"[{self.name}] {text}"), file=sys.stderr, flush=True)

    def row(self, step: int, numbers: dict[str, float]) -> None:
        """Log `numbers` of `step` everywhere. NaN is logged as NaN, never left out.

        A row that the disk refuses is said and left out: it is no reason to end a training.
        """
        record = {"step": step, "seconds": round(time.time() - self.began, 1), **numbers}
        try:
            self._append(json.dumps(record) + "\n")
            if self.board is not None:
                for key, value in numbers.items():
                    self.board.add_scalar(key, value, step)
        except OSError as error:
            self.say(f"the row of step {step} cannot be logged ({error.strerror}); training continues")
        self.say(f"step {step}/{self.steps}  " + "  ".join(f"{key} {value:.4g}" for key, value in numbers.items()))

    def _append(self, line: str) -> None:
        """One whole line or none. Raises OSError."""
        before, content = self.file.seek(0, os.SEEK_END), line.encode("utf-8")
        if self.file.write(content) != len(content):
            self.file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Flush and close the files."""
        self.file.close()
        if self.board is not None:
            with contextlib.suppress(OSError):
                self.board.close()
