"""Which slots are taken, and keys and values of all of them in one tensor a layer.

Shapes: B slots of a call, K heads of keys and values, S positions, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

FIRST_SLOTS = 2
FIRST_POSITIONS = 128
"""Room at the start; doubled when it does not suffice."""


class SlotNumbers:
    """Hands out the lowest free numbers, so that those in use lie together."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def open(self, count: int) -> list[int]:
        """So many numbers, ascending."""
        found: list[int] = []
        number = 0
        while len(found) < count:
            if number not in self._taken:
                found.append(number)
            number += 1
        self._taken.update(found)
        return found

    def close(self, slots: Sequence[int]) -> None:
        """Free them; one that is free already stays so."""
        self._taken.difference_update(slots)

    @property
    def used(self) -> int:
        """How many are taken."""
        return len(self._taken)


@dataclass
class Held:
    """Which positions of a slot hold ids: all below `length` but the gaps."""

    length: int = 0
    gaps: set[int] = field(default_factory=set)

    def put(self, positions: Sequence[int]) -> list[int]:
        """Take positions; returns those that held an id before, which is replaced."""
        assert all(low < high for low, high in pairwise(positions)), positions
        taken = [place for place in positions if place < self.length and place not in self.gaps]
        end = max(self.length, positions[-1] + 1)
        self.gaps.update(range(self.length, end))
        self.gaps.difference_update(positions)
        self.length = end
        return taken

    def copy(self) -> Held:
        """The same, for a fork."""
        return Held(self.length, set(self.gaps))


class SlotCache:
    """Keys and values: for each layer two tensors (slots, K, positions, D).

    They grow by doubling, so appending an id copies nothing; a long sequence does not move the short ones. What lies
    behind the end of a slot is left over from others and is never looked at.
    """

    def __init__(self, layers: int, kv_heads: int, head_size: int, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = (layers, kv_heads, head_size)
        self._dtype, self._device = dtype, device
        self.slots = self.positions = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def reserve(self, slots: int, positions: int) -> None:
        """Make room for so many slots of so many positions each."""
        if slots <= self.slots and positions <= self.positions:
            return
        layers, kv_heads, head_size = self._shape
        new_slots = _doubled(self.slots, slots, FIRST_SLOTS)
        new_positions = _doubled(self.positions, positions, FIRST_POSITIONS)
        for kept in (self.keys, self.values):
            for layer in range(layers):
                old = kept[layer] if layer < len(kept) else None
                # Where memory ran out in the middle, some layers are larger already, maybe in another direction.
                rows, columns = (0, 0) if old is None else (old.shape[0], old.shape[2])
                shape = (max(new_slots, rows), kv_heads, max(new_positions, columns), head_size)
                # Zeros, not whatever lies there: a masked NaN would still spoil the sum.
                fresh = torch.zeros(shape, dtype=self._dtype, device=self._device)
                if old is None:
                    kept.append(fresh)
                else:
                    fresh[:rows, :, :columns] = old
                    kept[layer] = fresh
        # Only now: when there is no memory for a layer, what is there stays what it was.
        self.slots, self.positions = new_slots, new_positions

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a slot to another one."""
        for kept in (*self.keys, *self.values):
            kept[target, :, :length] = kept[source, :, :length]


def _doubled(now: int, wanted: int, first: int) -> int:
    now = max(now, first)
    while now < wanted:
        now *= 2
    return now
