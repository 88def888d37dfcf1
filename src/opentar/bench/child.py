"""The parent's end of a worker: starts it, gives orders, and says what happened when it dies."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from opentar.bench.rows import Measured
from opentar.bench.work import Work
from opentar.core import errors

BASELINE = "baseline"


class Child:
    """A worker process (worker.py); ends with the `with` block.

    Args:
        name: of the side, for errors.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        # Its files are ours to remove: it is killed where it stands.
        self._place = tempfile.TemporaryDirectory(prefix="opentar-bench-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "opentar.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
        )

    def open(self, folder: Path, device: str | None) -> None:
        """Choose the model and its way; for the baseline's process its name is BASELINE."""
        side = BASELINE if self.name == BASELINE else "ours"
        order = {"do": "open", "side": side, "folder": str(folder), "place": self._place.name}
        self.ask(order | {"way": self.name, "device": device})

    def aim(self, passes: str | None, code_passes: str | None) -> None:
        """Draw so many codes a pass from now on."""
        self.ask({"do": "aim", "passes": passes, "code_passes": code_passes})

    def warm(self, work: Work) -> list[dict[str, Any]]:
        """Get ready for a work; returns the stages that it needs at least."""
        stages: list[dict[str, Any]] = self.ask({"do": "warm", "work": dataclasses.asdict(work)})["stages"]
        return stages

    def run(self, work: Work) -> tuple[Measured, float | None]:
        """Do a work once: what was measured, and the peak memory in GB."""
        told = self.ask({"do": "run", "work": dataclasses.asdict(work)})
        return Measured(told["seconds"], told["tokens"]), told["peak_gb"]

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """One order and its answer.

        Raises:
            OpenTarError: what the worker refused, of its own class; ModelError where the worker has died.
        """
        self.send(order)
        return self.answer(str(order["do"]))

    def send(self, order: dict[str, Any]) -> None:
        """Give an order without waiting for the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            # It has died; `answer` says so.
            return

    def answer(self, doing: str) -> dict[str, Any]:
        """The answer to the order that was sent first; errors as in `ask`."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise errors.ModelError(self._dead(doing))
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise getattr(errors, told["kind"], errors.ModelError)(told["error"])
        return told

    def _dead(self, doing: str) -> str:
        code = self._process.wait()
        self._said.seek(0)
        words = self._said.read().decode(errors="replace").strip().splitlines()
        why = words[-1] if words else "it was ended from outside; the memory may not have sufficed"
        return f"the process of {self.name} ended with code {code} at {doing!r}: {why}"

    def close(self) -> None:
        """End the process now, whatever it does."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    # An order that was never read.
                    continue
        self._process.kill()
        self._process.wait()
        self._said.close()
        self._place.cleanup()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
