"""Beginnings of prompts that are kept: a picture that is asked about several times is read once.

What is kept ends with the last picture of a prompt, and such a beginning is always read apart from what follows it,
whether it is kept or not. So an answer does not depend on what was asked before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from opentar.engine.backends.protocol import Backend

MOST = 4
"""Beginnings kept; the one that was used longest ago goes first."""


class Beginnings:
    """Slots that hold beginnings of prompts."""

    def __init__(self, backend: Backend, most: int = MOST) -> None:
        self._backend, self._most = backend, most
        self._kept: OrderedDict[tuple[int, ...], int] = OrderedDict()

    def forks(self, beginnings: Sequence[Sequence[int]]) -> list[int]:
        """A slot of its own for each of some beginnings; several that are not kept yet are read in one pass."""
        keys = [tuple(ids) for ids in beginnings]
        forked: list[int] = []
        try:
            for start in range(0, len(keys), self._most):
                group = keys[start : start + self._most]
                self._keep(group)
                for key in group:
                    forked.append(self._backend.fork(self._kept[key]))
        except BaseException:
            self._backend.close(forked)
            raise
        return forked

    def _keep(self, keys: Sequence[tuple[int, ...]]) -> None:
        """Have all of these, no more than are kept at most."""
        fresh = []
        for key in dict.fromkeys(keys):
            if key in self._kept:
                self._kept.move_to_end(key)
            else:
                fresh.append(key)
        while self._kept and len(self._kept) + len(fresh) > self._most:
            self._backend.close([self._kept.popitem(last=False)[1]])
        if not fresh:
            return
        slots = self._backend.open(len(fresh))
        try:
            self._backend.extend(slots, fresh)
        except BaseException:
            self._backend.close(slots)
            raise
        self._kept.update(zip(fresh, slots, strict=True))

    def clear(self) -> None:
        """Let all go."""
        self._backend.close(list(self._kept.values()))
        self._kept.clear()
