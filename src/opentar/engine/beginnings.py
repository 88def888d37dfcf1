"""Beginnings of prompts that are kept: a picture that is asked about several times is read once.

What is kept ends with the last picture of a prompt, and such a beginning is always read by itself, whether it is kept
or not. So an answer does not depend on what was asked before.
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

    def slot(self, ids: Sequence[int]) -> int:
        """The slot of a beginning, which is read where it is not kept yet. Only to be forked."""
        key = tuple(ids)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        while len(self._kept) >= self._most:
            self._backend.close([self._kept.popitem(last=False)[1]])
        (slot,) = self._backend.open(1)
        try:
            self._backend.extend([slot], [key])
        except BaseException:
            self._backend.close([slot])
            raise
        self._kept[key] = slot
        return slot

    def clear(self) -> None:
        """Let all go."""
        self._backend.close(list(self._kept.values()))
        self._kept.clear()
