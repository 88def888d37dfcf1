"""The log of a stage: lines on the terminal, rows in log.jsonl, points in tensorboard."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


class Logger:
    """Writes rows of numbers of one stage; tensorboard is used where it is installed."""

    def __init__(self, folder: Path, name: str, steps: int, *, quiet: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.steps, self.quiet, self.began = name, steps, quiet, time.time()
        self.file = (folder / "log.jsonl").open("a", encoding="utf-8")
        self.board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.board = SummaryWriter(str(folder / "tensorboard"))

    def say(self, text: str) -> None:
        """One plain line for the person who watches."""
        if not self.quiet:
            print(f"[{self.name}] {text}", file=sys.stderr, flush=True)

    def row(self, step: int, numbers: dict[str, float]) -> None:
        """Log `numbers` of `step` everywhere. NaN is logged as NaN, never left out."""
        record = {"step": step, "seconds": round(time.time() - self.began, 1), **numbers}
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        if self.board is not None:
            for key, value in numbers.items():
                self.board.add_scalar(key, value, step)
        self.say(f"step {step}/{self.steps}  " + "  ".join(f"{key} {value:.4g}" for key, value in numbers.items()))

    def close(self) -> None:
        """Flush and close the files."""
        self.file.close()
        if self.board is not None:
            self.board.close()
