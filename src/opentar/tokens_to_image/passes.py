"""How many codes a pass of the AR transformer draws, and what a picture does between two passes.

A pass costs about the same for one code as for a few: the weights have to be read. Two ways lead to several:

- *Guesses*. The code of a position is the argmax of its log-probabilities plus noise that is fixed for (seed,
  position). Guesses for the next positions are computed along; where the guess turns out as what is drawn there, what
  was computed on top of it stands too. Nothing changes but the number of passes (Jacobi iteration, arXiv 2410.01699).
- *Lead*. A row of the picture starts when the row above has the lead of a few codes, so several rows are drawn at once
  (arXiv 2412.04062; with guesses in each row 2606.05703). The far end of the row above is not seen then: another
  picture.

Everything here is integers of one picture; ``ar_decoding`` runs it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from opentar.core.errors import ConfigError

MAX_GUESSES = 6
MAX_LEAD = 64


@dataclass(frozen=True, kw_only=True)
class Passes:
    """What a pass draws; the defaults are one code, which every other setting is measured against."""

    guesses: int = 0
    """Guesses computed along behind the code that stands (in each row, where rows have a lead), 0 to 6."""
    lead: int = 0
    """Codes that a row must have before the next one starts, 1 to 64; 0 ends each row first."""
    stand_in: Literal["above", "window"] = "above"
    """With a lead, what a row's first code is predicted from in place of the end of the row above, which is not there
    yet: the first code of that row (the one above), or its last one so far. Nano's AR de-tokenizer loses less with the
    first, its language model with the second."""
    guided: float = 1.0
    """Share of the codes, in reading order, that are drawn with guidance; the rest costs half."""

    def __post_init__(self) -> None:
        for name, most in (("guesses", MAX_GUESSES), ("lead", MAX_LEAD)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                raise ConfigError(f"{name} is {value}; give a whole number from 0 to {most}")
        if self.stand_in not in ("above", "window"):
            raise ConfigError(f"stand_in is {self.stand_in!r}; give 'above' or 'window'")
        if not 0 <= self.guided <= 1:
            raise ConfigError(f"guided is {self.guided}; give a share of the codes, from 0 to 1")

    @property
    def exact(self) -> bool:
        """Whether it draws the very codes of one code a pass."""
        return self.lead == 0 and self.guided == 1


ONE = Passes()
"""One code a pass."""
NAMED: Mapping[str, Passes] = {
    "one": ONE,
    "jacobi": Passes(guesses=5),
    "zipar": Passes(lead=3),
    "drafts": Passes(lead=3, guesses=2),
    "late": Passes(guided=0.5),
}
"""Settings by name, for benchmarks and command lines."""
OF_LANGUAGE: Mapping[str, Passes] = {
    "one": ONE,
    "jacobi": NAMED["jacobi"],
    # Of all leads and stand-ins measured the one that loses least, and the one with the fewest passes.
    "zipar": Passes(lead=2, stand_in="window"),
}
"""The same for the codes of the language model."""


@dataclass
class PassCounts:
    """What drawing cost, summed over the calls that were given this object."""

    passes: int = 0
    """runs of the transformer over codes; that over the prefix is not counted"""
    computed: int = 0
    """codes that were computed, each once however many rows guidance takes"""
    rows: int = 0
    """rows that went through the transformer: codes, their twins without condition, and what fills up a batch"""
    kept: int = 0
    """codes that stand in the pictures"""

    def __str__(self) -> str:
        each = max(self.passes, 1)
        return (
            f"{self.passes} passes, {self.computed / each:.2f} codes computed and {self.kept / each:.2f} kept in each"
        )


class Entry(NamedTuple):
    """One code that goes into a pass."""

    place: int
    """which code of the picture it is; the next one is what it predicts"""
    code: int
    """the code itself, or the one that stands in"""
    line: int
    """the line it belongs to"""
    sure: bool
    """whether it stands (or stands in), or is a guess"""
    wanted: bool
    """whether its prediction is used"""


@dataclass
class _Line:
    """A stretch of codes that is drawn from left to right: the whole picture, or a row of it."""

    start: int
    end: int
    done: int
    """first place without a code that stands"""
    stood_in: bool = False
    """whether its last code is still missing where later codes look for it"""


@dataclass
class Sheet:
    """The codes of one picture while they are drawn."""

    passes: Passes
    length: int
    """codes of the picture, a square number"""
    first: int
    """the first code: the prefix alone decides it"""
    codes: list[int | None] = field(init=False)
    """what stands so far"""

    def __post_init__(self) -> None:
        width = math.isqrt(self.length) if self.passes.lead else self.length
        self._lines = [_Line(start, start + width, start) for start in range(0, self.length, width)]
        self._lines[0].done = 1
        self._guesses: dict[int, int] = {}
        self.codes = [self.first, *[None] * (self.length - 1)]

    @property
    def kept(self) -> int:
        """Codes that stand."""
        return sum(line.done - line.start for line in self._lines)

    def missing(self, place: int) -> bool:
        """Whether a code before `place` is still missing."""
        return any(line.done < min(line.end, place) for line in self._lines)

    def entries(self) -> list[Entry]:
        """What the next pass computes, in the order of the picture inside each line."""
        found: list[Entry] = []
        for number, line in enumerate(self._lines):
            above = self._lines[number - 1] if number else None
            if line.done == line.end:
                if line.stood_in:
                    line.stood_in = False
                    found.append(Entry(line.end - 1, self._code(line.end - 1), number, sure=True, wanted=False))
                continue
            end = min(line.done + 1 + self.passes.guesses, line.end)
            if above is not None and above.done < above.end:
                # Column c waits until the row above has c + lead codes.
                end = min(end, above.done - above.start - self.passes.lead + line.start + 1)
            if end <= line.done:
                continue
            found.append(Entry(line.done - 1, self._left(line, above), number, sure=True, wanted=True))
            found += [
                Entry(place, self._guess(place, line), number, sure=False, wanted=True)
                for place in range(line.done, end - 1)
            ]
        return found

    def _code(self, place: int) -> int:
        code = self.codes[place]
        assert code is not None, place
        return code

    def _guess(self, place: int, line: _Line) -> int:
        """The guess of an earlier pass; before there is one, the code above or, in one line, the last one."""
        if place in self._guesses:
            return self._guesses[place]
        return self._code(place - (line.end - line.start) if line.start else line.done - 1)

    def _left(self, line: _Line, above: _Line | None) -> int:
        """The code that the first open one of a line is predicted from."""
        code = self.codes[line.done - 1]
        if code is not None:
            return code
        assert above is not None
        above.stood_in = True
        return self._code(above.start if self.passes.stand_in == "above" else above.done - 1)

    def ahead(self, entry: Entry) -> range:
        """Places behind the one that `entry` predicts that may be guessed from the same prediction."""
        line = self._lines[entry.line]
        return range(entry.place + 2, min(entry.place + 2 + self.passes.guesses, line.end))

    def accept(self, entries: Sequence[Entry], drawn: Mapping[int, int]) -> list[Entry]:
        """Take over what a pass has drawn; the guesses that were right, and so stand, are returned.

        Args:
            entries: those of the pass.
            drawn: the code of each place that an entry predicts, and of those ``ahead`` of the last in each line.
        """
        self._guesses.update(drawn)
        right: list[Entry] = []
        open_lines = set[int]()
        for entry in entries:
            if not entry.wanted:
                continue
            if entry.sure:
                open_lines.add(entry.line)
            elif entry.line in open_lines and entry.code == self.codes[entry.place]:
                right.append(entry)
            else:
                open_lines.discard(entry.line)
                continue
            self.codes[entry.place + 1] = drawn[entry.place + 1]
            self._lines[entry.line].done = entry.place + 2
        return right
