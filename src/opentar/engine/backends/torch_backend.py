"""The language model in PyTorch, as its folder holds it: the backend that every other one is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from opentar.core.errors import ModelError, PromptError
from opentar.engine.backends.protocol import Pieces
from opentar.engine.backends.slots import Held, SlotCache, SlotNumbers
from opentar.engine.backends.torch_forward import Placed, Rows, forward
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
        self._held: dict[int, Held] = {}
        self._last: dict[int, Tensor] = {}

    def open(self, count: int) -> list[int]:
        """Empty slots; see the protocol."""
        slots = self._numbers.open(count)
        self._held.update({slot: Held() for slot in slots})
        return slots

    @torch.no_grad()
    def extend(self, slots: Sequence[int], pieces: Pieces) -> None:
        """Append ids to slots; see the protocol."""
        if any(self._held[slot].gaps for slot in slots):
            self.put(slots, pieces, [None] * len(slots))
            return
        _check_pieces(slots, pieces)
        self._check_end(self._held[slot].length + len(piece) for slot, piece in zip(slots, pieces, strict=True))
        for places in _passes([len(piece) for piece in pieces]):
            self._pass([slots[place] for place in places], [pieces[place] for place in places])

    @torch.no_grad()
    def put(self, slots: Sequence[int], pieces: Pieces, positions: Sequence[Sequence[int] | None]) -> None:
        """Put ids at positions of their slots; see the protocol."""
        _check_pieces(slots, pieces)
        starts = [self._held[slot].length for slot in slots]
        full = [
            range(start, start + len(piece)) if own is None else own
            for start, piece, own in zip(starts, pieces, positions, strict=True)
        ]
        self._check_end(own[-1] + 1 for own in full)
        for places in _passes([len(piece) for piece in pieces]):
            chosen = [slots[place] for place in places]
            hidden_BTH = self._put([(slots[place], pieces[place], full[place]) for place in places])
            for row, (slot, place) in enumerate(zip(chosen, places, strict=True)):
                length = len(pieces[place])
                self._last[slot] = hidden_BTH[row, length - 1 if positions[place] is None else 0 : length]

    def _put(self, rows: Sequence[tuple[int, Sequence[int], Sequence[int]]]) -> Tensor:
        """Hidden states (B, T, H) of ids at positions of slots."""
        width, device = max(len(ids) for _, ids, _ in rows), self.model.device
        for slot, _, positions in rows:
            # In place: a position has one cell.
            self._held[slot].put(positions)
        held = [self._held[slot] for slot, _, _ in rows]
        seen = max(positions[-1] for _, _, positions in rows) + 1
        self._cache.reserve(max(slot for slot, _, _ in rows) + 1, seen)
        # Filled up with copies of the last id at its own position, which change nothing.
        ids_BT = torch.tensor([_filled(ids, width) for _, ids, _ in rows], device=device)
        positions_BT = torch.tensor([_filled(positions, width) for _, _, positions in rows], device=device)
        stands_BS = torch.ones(len(rows), seen, dtype=torch.bool)
        for row, own in zip(stands_BS, held, strict=True):
            row[[gap for gap in own.gaps if gap < seen]] = False
        seen_BTS = stands_BS.to(device)[:, None] & (torch.arange(seen, device=device) <= positions_BT[..., None])
        slots = [slot for slot, _, _ in rows]
        return forward(self.model, self._cache, Rows(slots, [], ids_BT, placed=Placed(positions_BT, seen_BTS)))

    def _check_end(self, ends: Iterable[int]) -> None:
        longest = max(ends)
        if longest > self.config.max_length:
            raise ModelError(f"{longest} positions were asked for; this model has {self.config.max_length}")

    def _pass(self, slots: Sequence[int], pieces: Pieces) -> None:
        lengths = [len(piece) for piece in pieces]
        width = max(lengths)
        starts = [self._held[slot].length for slot in slots]
        self._cache.reserve(max(slots) + 1, max(starts) + width)
        ids = [[*piece, *[self.config.padding] * (width - len(piece))] for piece in pieces]
        ids_BT = torch.tensor(ids, device=self.model.device)
        hidden_B1H = forward(self.model, self._cache, Rows(slots, starts, ids_BT, lengths=lengths))
        for row, (slot, start, length) in enumerate(zip(slots, starts, lengths, strict=True)):
            self._held[slot].length = start + length
            self._last[slot] = hidden_B1H[row]

    @torch.no_grad()
    def logits(self, slots: Sequence[int], ids: range) -> Tensor:
        """Logits of the next ids: only these rows of the head are computed."""
        hidden_PH = torch.cat([self._last[slot] for slot in slots])
        return self.model.head(hidden_PH, ids).float()

    @torch.no_grad()
    def fork(self, slot: int) -> int:
        """A copy of a slot; see the protocol."""
        (copied,) = self.open(1)
        held = self._held[slot].copy()
        self._cache.reserve(copied + 1, held.length)
        self._cache.copy(slot, copied, held.length)
        self._held[copied] = held
        if slot in self._last:
            self._last[copied] = self._last[slot]
        return copied

    def close(self, slots: Sequence[int]) -> None:
        """Give slots back; see the protocol."""
        self._numbers.close(slots)
        for slot in slots:
            self._held.pop(slot, None)
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


def _check_pieces(slots: Sequence[int], pieces: Pieces) -> None:
    if not slots or not all(pieces):
        raise PromptError("no prompt was given, or an empty one; give at least one id each")


def _filled(numbers: Sequence[int], width: int) -> list[int]:
    return [*numbers, *[numbers[-1]] * (width - len(numbers))]
