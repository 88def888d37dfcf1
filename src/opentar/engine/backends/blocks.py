"""Which blocks of a cache each slot holds. A fork shares all blocks; whoever writes into a shared one gets a copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


class BlockTable:
    """Hands out blocks of `size` positions by number, the lowest free one first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: dict[int, list[int]] = {}
        self._users: Counter[int] = Counter()

    def __getitem__(self, slot: int) -> list[int]:
        """The blocks of a slot, in the order of its positions."""
        return self._held[slot]

    def open(self, slot: int) -> None:
        """A slot without blocks."""
        self._held[slot] = []

    def fork(self, slot: int, copied: int) -> None:
        """A slot with the blocks of another one."""
        self._held[copied] = list(self._held[slot])
        self._users.update(self._held[slot])

    def close(self, slot: int) -> None:
        """Let the blocks of a slot go."""
        for block in self._held.pop(slot):
            self._release(block)

    def most(self, slots: Sequence[int], ends: Sequence[int]) -> int:
        """The number of blocks that suffices to extend these slots to these lengths."""
        fresh = sum(self._lacking(slot, end) for slot, end in zip(slots, ends, strict=True))
        # One more each, for the copy of a shared block.
        return max(self._users, default=-1) + 1 + max(0, fresh + len(slots) - self._gaps())

    def extend(self, slot: int, start: int, end: int) -> tuple[int, int] | None:
        """Blocks for positions `start` to `end` of a slot; (from, to) where a block must be copied first."""
        held, copy = self._held[slot], None
        if start % self._size and self._users[held[-1]] > 1:
            copy = held[-1], self._take()
            self._release(held[-1])
            held[-1] = copy[1]
        held += [self._take() for _ in range(self._lacking(slot, end))]
        return copy

    def _lacking(self, slot: int, end: int) -> int:
        return -(-end // self._size) - len(self._held[slot])

    def _gaps(self) -> int:
        return max(self._users, default=-1) + 1 - len(self._users)

    def _take(self) -> int:
        number = next(number for number in range(len(self._users) + 1) if number not in self._users)
        self._users[number] = 1
        return number

    def _release(self, block: int) -> None:
        self._users[block] -= 1
        if not self._users[block]:
            del self._users[block]
