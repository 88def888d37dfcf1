"""What a command prints: results on stdout, notes and progress on stderr, or one JSON object on stdout."""

import contextlib
import json
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from opentar.commands.streams import leave
from opentar.core.errors import UnsavedError, printable, printable_line
from opentar.core.progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.progress import Progress as Bars

_PACKAGE = str(Path(__file__).resolve().parent.parent)


class Output:
    """The printing side of one command.

    Where stdout refuses a result (a full disk), results go to stderr instead and `result` ends the command with an
    error: what took long to make is shown in any case.

    Args:
        json: True sends exactly one JSON object to stdout and everything else to stderr.
    """

    def __init__(self, json: bool = False) -> None:
        self.json = json
        self.stdout = sys.stdout
        self.stderr = sys.stderr
        self.code = 0
        """What the command returns when it ends: 1 where a result is not where it was asked to go."""
        self._refused = ""
        self._bars: Bars | None = None

    def line(self, text: str = "") -> None:
        """Print a line of the result for people, in one line whatever it holds; silent with JSON."""
        if not self.json:
            self._print(printable_line(text))

    def lines(self, text: str) -> None:
        """Print a result that may have several lines, as an answer may; silent with JSON."""
        if not self.json:
            self._print(printable(text))

    def note(self, text: str, *, several: bool = False) -> None:
        """Print a remark on stderr, in one line unless `several` are meant. One that is refused stops no work."""
        with self._without_bars(), contextlib.suppress(OSError):
            print(printable(text) if several else printable_line(text), file=self.stderr, flush=True)

    def write(self, content: bytes) -> str:
        """Write the bytes of a result to stdout as they are; returns why that failed, or an empty string."""
        try:
            self.stdout.buffer.write(content)
            self.stdout.buffer.flush()
        except OSError as error:
            self._leave_stdout(error)
        return self._refused

    def picture(self, image: "Image") -> None:
        """Show `image` when stdout is a terminal that can; silent with JSON."""
        if not self.json:
            from opentar.commands.terminal import show

            with self._without_bars():
                try:
                    show(image, self.stdout)
                except BrokenPipeError:
                    raise
                except OSError as error:
                    self._leave_stdout(error)

    def result(self, values: dict[str, Any]) -> None:
        """Print `values` as the one JSON object; silent without JSON. The last call of a command.

        Raises:
            UnsavedError: results went to stderr because stdout refused them.
        """
        if self.json:
            # Readable Chinese where the stream can carry it, escapes on a console of another encoding.
            readable = (self.stdout.encoding or "").lower().replace("-", "") == "utf8"
            self._print(json.dumps(values, ensure_ascii=not readable, default=str))
        if self._refused:
            raise UnsavedError(f"stdout cannot be written ({self._refused}); the result was printed to stderr instead")

    def _print(self, text: str) -> None:
        if self._refused:
            return self.note(text, several=True)
        with self._without_bars():
            try:
                print(text, file=self.stdout, flush=True)
            except BrokenPipeError:
                # Nobody reads any more; that is no fault.
                raise
            except OSError as error:
                self._leave_stdout(error)
                self.note(text, several=True)

    def _leave_stdout(self, error: OSError) -> None:
        self._refused = error.strerror or "it failed"
        leave(self.stdout)

    @contextlib.contextmanager
    def _without_bars(self) -> Iterator[None]:
        """Take the progress bars off the terminal while a line is printed to it."""
        bars = self._bars
        if bars is None:
            yield
            return
        bars.stop()
        try:
            yield
        finally:
            bars.start()

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
    def progress(self) -> Iterator[Progress]:
        """Yield a callback (what, step, total): a bar on a terminal, one line for each thing elsewhere."""
        if self.stderr.isatty():
            with _bars() as (bars, callback):
                self._bars = bars
                try:
                    yield callback
                finally:
                    self._bars = None
        else:
            yield self._plain_progress()

    def _plain_progress(self) -> Progress:
        seen: dict[str, float] = {}

        def callback(what: str, step: int, total: int) -> None:
            started = seen.setdefault(what, time.perf_counter())
            if step == total:
                self.note(f"{what}: {total} steps, {time.perf_counter() - started:.1f} s")

        return callback


@contextlib.contextmanager
def _bars() -> "Iterator[tuple[Bars, Progress]]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def callback(what: str, step: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=step, total=total)

        yield bars, callback
