"""The language model in OpenVINO: the fastest prompts on a CPU, and quick steps of many rows.

Keys and values lie in blocks of our own memory, which OpenVINO's paged attention reads and writes where they are. Rows
of any lengths go through the layers one behind the other, so nothing is filled up; a fork copies at most one block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from opentar.core.disk import human_bytes
from opentar.core.errors import ModelError, PromptError
from opentar.core.memory import available_bytes
from opentar.engine.backends.blocks import BlockTable
from opentar.engine.backends.protocol import Pieces
from opentar.engine.backends.slots import SlotNumbers
from opentar.language.openvino_model import OpenVINOLanguage, as_input
from opentar.nn.openvino_ops import BLOCK

PASS_IDS = 1024
"""Most ids of one pass: more would hold large intermediate results and be no faster."""
FIRST_BLOCKS = 32
"""Room at the start; doubled when it does not suffice."""


class OpenVINOBackend:
    """`OpenVINOLanguage` behind the backend's protocol; several may share one."""

    name = "openvino"

    def __init__(self, language: OpenVINOLanguage) -> None:
        self.config, self._language = language.config, language
        self._layers = language.layers.again()
        self._numbers, self._blocks = SlotNumbers(), BlockTable(BLOCK)
        self._cache: dict[str, Tensor] = {}
        self._room = 0
        self._lengths: dict[int, int] = {}
        self._last: dict[int, Tensor] = {}

    def open(self, count: int) -> list[int]:
        """Empty slots; see the protocol."""
        slots = self._numbers.open(count)
        for slot in slots:
            self._lengths[slot] = 0
            self._blocks.open(slot)
        return slots

    def extend(self, slots: Sequence[int], pieces: Pieces) -> None:
        """Append ids to slots; see the protocol. Nothing is changed where the room does not suffice."""
        if not slots or not all(pieces):
            raise PromptError("no prompt was given, or an empty one; give at least one id each")
        ends = [self._lengths[slot] + len(piece) for slot, piece in zip(slots, pieces, strict=True)]
        if max(ends) > self.config.max_length:
            raise ModelError(f"{max(ends)} positions were asked for; this model has {self.config.max_length}")
        if min(map(min, pieces)) < 0 or max(map(max, pieces)) >= self.config.table_rows:
            raise PromptError(f"an id is outside 0 to {self.config.table_rows - 1}")
        self._reserve(self._blocks.most(slots, ends))
        for slot, end in zip(slots, ends, strict=True):
            copy = self._blocks.extend(slot, self._lengths[slot], end)
            if copy is not None:
                for kept in self._cache.values():
                    kept[copy[1]] = kept[copy[0]]
        for those in _passes(slots, pieces):
            self._pass([slot for slot, _ in those], [piece for _, piece in those])

    def _pass(self, slots: Sequence[int], pieces: Pieces) -> None:
        lengths = [len(piece) for piece in pieces]
        starts = [self._lengths[slot] for slot in slots]
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        blocks = [self._blocks[slot][: -(-end // BLOCK)] for slot, end in zip(slots, ends, strict=True)]
        begins = np.cumsum([0, *lengths])
        rows = {
            "past_lens": starts,
            "subsequence_begins": begins,
            "block_indices": np.concatenate(blocks),
            "block_indices_begins": np.cumsum([0, *map(len, blocks)]),
            "max_context_len": max(ends),
            "wanted": begins[1:] - 1,
        }
        positions_T = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])
        inputs = self._language.inputs([token for piece in pieces for token in piece], positions_T)
        told = {name: np.asarray(values, np.int32) for name, values in rows.items()}
        hidden_BH = self._layers({**inputs, **told})
        for slot, end, last_H in zip(slots, ends, hidden_BH, strict=True):
            self._lengths[slot], self._last[slot] = end, last_H

    def logits(self, slots: Sequence[int], ids: range) -> Tensor:
        """Logits of the next ids: only the parts of the head that hold them are computed."""
        return self._language.head(torch.stack([self._last[slot] for slot in slots]), ids)

    def fork(self, slot: int) -> int:
        """A slot that shares the blocks of another one; see the protocol."""
        (copied,) = self._numbers.open(1)
        self._blocks.fork(slot, copied)
        self._lengths[copied] = self._lengths[slot]
        if slot in self._last:
            # Never written to, only replaced.
            self._last[copied] = self._last[slot]
        return copied

    def close(self, slots: Sequence[int]) -> None:
        """Give slots back; see the protocol."""
        self._numbers.close(slots)
        for slot in slots:
            if self._lengths.pop(slot, None) is not None:
                self._blocks.close(slot)
                self._last.pop(slot, None)

    def _reserve(self, blocks: int) -> None:
        """Room for so many blocks, in a larger cache where need be. Raises ModelError."""
        if blocks <= self._room:
            return
        size, free = self._language.block_bytes(), available_bytes()
        room = max(blocks, 2 * self._room, FIRST_BLOCKS)
        if free is not None and free < room * size:
            # Doubling is a wish; what is needed is not.
            room = blocks
        if free is not None and free < room * size:
            raise ModelError(
                f"{blocks * BLOCK} positions of all sequences together need {human_bytes(room * size)} of memory and "
                f"{human_bytes(free)} are available; run fewer at a time, or shorter ones"
            )
        fresh = self._language.cache(room)
        for name, kept in self._cache.items():
            fresh[name][: self._room] = kept
        self._cache, self._room = fresh, room
        self._layers.keep({name: as_input(kept) for name, kept in fresh.items()})


def _passes(slots: Sequence[int], pieces: Pieces) -> Iterator[list[tuple[int, Sequence[int]]]]:
    """Slots and ids that go through the model together, in the order given; a long piece is cut."""
    chosen: list[tuple[int, Sequence[int]]] = []
    room = PASS_IDS
    for slot, piece in zip(slots, pieces, strict=True):
        while len(piece) > room:
            if room:
                chosen.append((slot, piece[:room]))
                piece = piece[room:]
            yield chosen
            chosen, room = [], PASS_IDS
        chosen.append((slot, piece))
        room -= len(piece)
    if chosen:
        yield chosen
