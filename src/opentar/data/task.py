"""A task is what training and evaluation share: it makes conversations out of its data.

A conversation is a sequence of turns (`language/prompt.py`): texts, pictures shown as codes, pictures drawn as codes.
The one builder of sequences makes ids of it, and labels, since every turn of the assistant is learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from opentar.core.errors import ConfigError
from opentar.language.prompt import Turn


class Task(Protocol):
    """A source of conversations."""

    def sample(self, rng: np.random.Generator) -> Sequence[Turn]:
        """One conversation, a pure function of `rng`; the assistant's turns are what is to be learned."""


@dataclass(frozen=True)
class Mixture:
    """Several tasks, each with its share of the samples; a mixture is a task itself.

    Raises ConfigError unless every task has its share and the shares add up to 1.
    """

    tasks: tuple[Task, ...]
    shares: tuple[float, ...]
    """Share of the samples that comes from each task."""

    def __post_init__(self) -> None:
        check_shares("the shares of a mixture", self.shares, len(self.tasks))

    def sample(self, rng: np.random.Generator) -> Sequence[Turn]:
        """One conversation of one of the tasks."""
        return self.tasks[int(rng.choice(len(self.tasks), p=self.shares))].sample(rng)


def check_shares(name: str, shares: Sequence[float], count: int) -> tuple[float, ...]:
    """`shares` themselves, or ConfigError unless they are `count` numbers of at least 0 with a sum of 1."""
    if len(shares) != count or min(shares, default=0) < 0 or not math.isclose(sum(shares), 1):
        raise ConfigError(f"{name} is {tuple(shares)}; give {count} numbers of at least 0 that add up to 1")
    return tuple(shares)
