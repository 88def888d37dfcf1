"""What a command prints: results on stdout, notes and progress on stderr, or one JSON object on stdout."""

import contextlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from opentar.core.errors import printable

if TYPE_CHECKING:
    from PIL.Image import Image

StepCallback = Callable[[str, int, int], None]
_PACKAGE = str(Path(__file__).resolve().parent.parent)


class Output:
    """The printing side of one command.

    Args:
        json: True sends exactly one JSON object to stdout and everything else to stderr.
    """

    def __init__(self, json: bool = False) -> None:
        self.json = json
        self.stdout = sys.stdout
        self.stderr = sys.stderr

    def line(self, text: str = "") -> None:
        """Print a line of the result for people; silent with JSON."""
        if not self.json:
            print(printable(text), file=self.stdout, flush=True)

    def note(self, text: str) -> None:
        """Print a remark that is not the result, on stderr."""
        print(printable(text), file=self.stderr, flush=True)

    def picture(self, image: "Image") -> None:
        """Show `image` when stdout is a terminal that can; silent with JSON."""
        if not self.json:
            from opentar.terminal import show

            show(image, self.stdout)

    def result(self, values: dict[str, Any]) -> None:
        """Print `values` as the one JSON object; silent without JSON."""
        if self.json:
            # Readable Chinese where the stream can carry it, escapes on a console of another encoding.
            readable = (self.stdout.encoding or "").lower().replace("-", "") == "utf8"
            print(json.dumps(values, ensure_ascii=not readable, default=str), file=self.stdout, flush=True)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Keep stdout clean while libraries work: their prints and our warnings go to stderr."""

        def show_warning(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            # Warnings of other libraries mean nothing to the person at the terminal.
            if category.__module__.startswith("opentar") or str(filename).startswith(_PACKAGE):
                self.note(f"warning: {message}")

        with contextlib.redirect_stdout(self.stderr), warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = show_warning
            yield

    @contextlib.contextmanager
    def progress(self) -> Iterator[StepCallback]:
        """Yield a callback (stage, step, total): a bar on a terminal, one line a stage elsewhere."""
        if self.stderr.isatty():
            with _bar() as callback:
                yield callback
        else:
            yield self._plain_progress()

    def _plain_progress(self) -> StepCallback:
        seen: dict[str, float] = {}

        def callback(stage: str, step: int, total: int) -> None:
            started = seen.setdefault(stage, time.perf_counter())
            if step == total:
                self.note(f"{stage}: {total} steps, {time.perf_counter() - started:.1f} s")

        return callback


@contextlib.contextmanager
def _bar() -> Iterator[StepCallback]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def callback(stage: str, step: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=step, total=total)

        yield callback
