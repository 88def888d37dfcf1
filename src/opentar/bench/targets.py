"""What each work should reach, as data. Measured on two cores; another machine reads them as a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Quantity = Literal["ratio", "share_of_limit", "tokens_per_s", "seconds", "peak_gb"]
AT_MOST = ("seconds", "peak_gb")
"""Quantities that should be small; the others should be large."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A bound for one quantity of one work."""

    size: str
    """Model: tar-1.5b, tar-7b or nano."""
    work: str
    """Name of the work."""
    quantity: Quantity
    """Field of the row."""
    bound: float
    """What must be reached."""
    aim: float
    """What would be good."""
    exact: bool | None = None
    """Holds for exact ways only (True), for others only (False), for all (None)."""
    bits: int | None = None
    """Holds for engines of so many bits a weight; None for all."""

    @property
    def told(self) -> str:
        """The target in words, such as "ratio >= 2.5"."""
        return f"{self.quantity} {'<=' if self.quantity in AT_MOST else '>='} {self.bound:g}"


TARGETS = (
    # A whole drawing: one code at a time, and several a pass.
    Target(size="tar-1.5b", work="draw 81 ar", quantity="ratio", bound=2.5, aim=4, exact=True),
    Target(size="tar-1.5b", work="draw 81 ar", quantity="ratio", bound=5, aim=8, exact=False),
    Target(size="tar-1.5b", work="draw 729 ar", quantity="ratio", bound=5, aim=7, exact=False),
    Target(size="tar-1.5b", work="read 729", quantity="ratio", bound=2.5, aim=3.5),
    Target(size="tar-1.5b", work="read 169", quantity="ratio", bound=5, aim=8),
    Target(size="tar-1.5b", work="encode 729", quantity="ratio", bound=3, aim=6),
    # 20.4 is three times the 6.8 tokens/s of the first measurement.
    Target(size="tar-1.5b", work="decode", quantity="share_of_limit", bound=0.55, aim=0.7),
    Target(size="tar-1.5b", work="decode", quantity="tokens_per_s", bound=20.4, aim=27.2),
    Target(size="tar-1.5b", work="draw 81 ar", quantity="peak_gb", bound=4, aim=3, bits=4),
    Target(size="tar-7b", work="draw 81 ar", quantity="peak_gb", bound=12, aim=10, bits=4),
    Target(size="tar-7b", work="decode", quantity="tokens_per_s", bound=8, aim=8, bits=4),
    Target(size="tar-1.5b", work="batch 8", quantity="ratio", bound=3, aim=5),
    Target(size="nano", work="first picture", quantity="seconds", bound=3.5, aim=2.5),
    Target(size="nano", work="next picture", quantity="seconds", bound=0.3, aim=0.1),
    Target(size="nano", work="answer", quantity="seconds", bound=0.05, aim=0.02),
)


def targets_of(size: str, work: str, exact: bool, bits: int | None) -> list[Target]:
    """The targets of a work of a model on an engine that is exact or not and has so many bits a weight."""
    return [
        target
        for target in TARGETS
        if (target.size, target.work) == (size, work) and target.exact in (None, exact) and target.bits in (None, bits)
    ]


def met(targets: Sequence[Target], values: Mapping[str, float | None]) -> bool | None:
    """Whether every target is met; None without targets, or where one of their quantities was not measured."""
    judged = []
    for target in targets:
        value = values[target.quantity]
        if value is None:
            return None
        judged.append(value <= target.bound if target.quantity in AT_MOST else value >= target.bound)
    return all(judged) if judged else None
