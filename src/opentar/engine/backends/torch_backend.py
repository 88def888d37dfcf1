"""The language model in PyTorch, as its folder holds it: the backend that every other one is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from opentar.core.errors import ModelError, PromptError
from opentar.engine.backends.protocol import Pieces
from opentar.engine.backends.slots import SlotCache, SlotNumbers
from opentar.engine.backends.torch_forward import Rows, forward
from opentar.language.model import TarLanguageModel

PASS_IDS = 2048
"""Most ids of one pass, filling included: more would hold large intermediate results and be no faster."""


class TorchBackend:
    """`TarLanguageModel` behind the backend's protocol; several may share one model."""

    name = "torch"

    def __init__(self, model: TarLanguageModel) -> None:
        self.model, self.config = model, model.config
        config = model.config
        self._numbers = SlotNumbers()
        self._cache = SlotCache(config.layers, config.kv_heads, config.head_size, model.dtype, model.device)
        self._lengths: dict[int, int] = {}
        self._last: dict[int, Tensor] = {}

    def open(self, count: int) -> list[int]:
        """Empty slots; see the protocol."""
        slots = self._numbers.open(count)
        self._lengths.update(dict.fromkeys(slots, 0))
        return slots

    @torch.no_grad()
    def extend(self, slots: Sequence[int], pieces: Pieces) -> None:
        """Append ids to slots; see the protocol."""
        if not slots or not all(pieces):
            raise PromptError("no prompt was given, or an empty one; give at least one id each")
        longest = max(self._lengths[slot] + len(piece) for slot, piece in zip(slots, pieces, strict=True))
        if longest > self.config.max_length:
            raise ModelError(f"{longest} positions were asked for; this model has {self.config.max_length}")
        for places in _passes([len(piece) for piece in pieces]):
            self._pass([slots[place] for place in places], [pieces[place] for place in places])

    def _pass(self, slots: Sequence[int], pieces: Pieces) -> None:
        lengths = [len(piece) for piece in pieces]
        width = max(lengths)
        starts = [self._lengths[slot] for slot in slots]
        self._cache.reserve(max(slots) + 1, max(starts) + width)
        ids = [[*piece, *[self.config.padding] * (width - len(piece))] for piece in pieces]
        ids_BT = torch.tensor(ids, device=self.model.device)
        hidden_BH = forward(self.model, self._cache, Rows(slots, starts, ids_BT, lengths))
        for row, (slot, start, length) in enumerate(zip(slots, starts, lengths, strict=True)):
            self._lengths[slot] = start + length
            self._last[slot] = hidden_BH[row]

    @torch.no_grad()
    def logits(self, slots: Sequence[int], ids: range) -> Tensor:
        """Logits of the next ids: only these rows of the head are computed."""
        hidden_BH = torch.stack([self._last[slot] for slot in slots])
        return self.model.head(hidden_BH, ids).float()

    @torch.no_grad()
    def fork(self, slot: int) -> int:
        """A copy of a slot; see the protocol."""
        (copied,) = self.open(1)
        length = self._lengths[slot]
        self._cache.reserve(copied + 1, length)
        self._cache.copy(slot, copied, length)
        self._lengths[copied] = length
        if slot in self._last:
            self._last[copied] = self._last[slot]
        return copied

    def close(self, slots: Sequence[int]) -> None:
        """Give slots back; see the protocol."""
        self._numbers.close(slots)
        for slot in slots:
            self._lengths.pop(slot, None)
            self._last.pop(slot, None)


def _passes(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of the pieces that go through the model together: of like length, so that little is filled up."""
    order = sorted(range(len(lengths)), key=lambda place: (lengths[place], place))
    chosen: list[int] = []
    for place in order:
        width = lengths[place]
        if chosen and (width * (len(chosen) + 1) > PASS_IDS or width > 2 * lengths[chosen[0]] + 8):
            yield sorted(chosen)
            chosen = []
        chosen.append(place)
    if chosen:
        # In the order given, which is that of the slots.
        yield sorted(chosen)
