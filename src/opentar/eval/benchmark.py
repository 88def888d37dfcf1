"""A benchmark: what a model is given, and how what comes back is scored. Both halves also run alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from opentar.asking import Picture


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A picture is wanted."""

    prompt: str
    """What to draw."""
    seed: int = 0
    """Of this picture."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """An answer is wanted."""

    pictures: tuple[Picture, ...]
    """What is shown together; one that occurs in several questions is the same object."""
    question: str
    """What is asked."""


Example = Draw | Ask
"""One thing that a model is given."""


class Benchmark(Protocol):
    """Examples and a scorer."""

    name: str
    """As reports call it."""

    def examples(self) -> Sequence[Example]:
        """What the model is given, the same every time."""

    def score(self, outcomes: Sequence[Any]) -> dict[str, Any]:
        """Scores of one outcome (a picture or a text) for each example, as a nested mapping that JSON can hold."""
