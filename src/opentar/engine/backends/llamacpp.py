"""The language model in llama.cpp, from the GGUF file of a language folder: the fastest single steps on a CPU.

Slots are sequences of one context that share its cache, so a fork copies nothing. Logits are those of the whole table:
llama.cpp computes no part of a head. They are kept for each slot until it is extended again.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opentar.core.disk import human_bytes
from opentar.core.errors import ModelError, PromptError, WeightsError, shown
from opentar.core.folder import read_config, standing, verify
from opentar.core.gguf_header import read_gguf
from opentar.core.manifest import read_manifest
from opentar.core.memory import available_bytes, check_memory
from opentar.engine.backends.protocol import Pieces
from opentar.engine.backends.slots import Held
from opentar.language.folder import language_config
from opentar.language.gguf_facts import GGUF_FILE, SOURCE_KEY, check_facts
from opentar.language.model import LanguageConfig
from opentar.nn.llama_library import CACHE_FULL, LlamaModel, LlamaSequences, available, load

__all__ = ["LlamaCppBackend", "available", "open_llamacpp"]

SLOTS = 128
"""Most sequences at a time; each costs nothing until it holds ids."""
FIRST_CELLS = 2048
"""Positions of all slots together that the cache begins with; it is doubled when they do not suffice."""
BATCH = 256
"""Ids of one pass. More are hardly faster and take more memory."""
_WORK_BYTES = 400_000_000
"""Memory of the program beside weights and cache, about."""
_CELL_STEP = 256
"""The library rounds the size of its cache up to a multiple of this."""


def open_llamacpp(folder: str | Path, *, slots: int = SLOTS) -> LlamaCppBackend:
    """The backend of a language folder that holds a GGUF file (`opentar quantize DIR --to gguf-q8_0 -o OUT`).

    Every file is compared with the manifest, and the header of the GGUF file with config.json, before the library
    sees it.

    Args:
        folder: the language folder.
        slots: most sequences at a time.

    Raises:
        ModelError: llama.cpp is not installed, the folder holds no GGUF file, or memory does not suffice.
        WeightsError: the folder is damaged, or the file is another model's.
    """
    load()
    folder = standing(Path(folder))
    verify(folder, remember=True)
    config = language_config(folder)
    if GGUF_FILE not in read_manifest(folder):
        raise ModelError(
            f"{shown(folder)} holds no {GGUF_FILE}, which llama.cpp needs; make a model that does with: "
            "opentar quantize MODEL --to gguf-q4_k_m -o OUT"
        )
    return LlamaCppBackend(folder / GGUF_FILE, config, source=gguf_source(folder), slots=slots)


def gguf_source(folder: Path) -> str | None:
    """The hash of the model that the GGUF file of a language folder was made of, where its config.json says it."""
    found = read_config(folder).get("opentar", {}).get(SOURCE_KEY)
    return found if isinstance(found, str) else None


class LlamaCppBackend:
    """A GGUF file behind the backend's protocol.

    Args:
        path: the file; its header is read and compared with `config` first.
        config: of the language model.
        source: hash of the model it must have been made of; None takes any.
        slots: see `open_llamacpp`.
    """

    name = "llamacpp"

    def __init__(self, path: Path, config: LanguageConfig, *, source: str | None = None, slots: int = SLOTS) -> None:
        check_facts(path, read_gguf(path), config, source)
        self.config = config
        self._cell_bytes = 2 * 2 * config.layers * config.kv_heads * config.head_size
        cells = _rounded(min(FIRST_CELLS, slots * config.max_length))
        size = path.stat().st_size
        check_memory(f"running {shown(path)}", size + cells * self._cell_bytes + _WORK_BYTES)
        self._model = LlamaModel(path)
        if self._model.rows != config.table_rows:
            told = f"{shown(path)} has {self._model.rows} rows instead of {config.table_rows}"
            raise WeightsError(f"{told}; get it again")
        self._slots, self._first_cells = slots, cells
        self._begin()

    def _begin(self) -> None:
        self._free = set(range(self._slots))
        self._held: dict[int, Held] = {}
        self._last: dict[int, Tensor] = {}

    @cached_property
    def _sequences(self) -> LlamaSequences:
        # Made when the first ids come: a backend that only lends its weights to others needs no cache.
        return LlamaSequences(
            self._model, cells=self._first_cells, slots=self._slots, batch=BATCH, threads=torch.get_num_threads()
        )

    def again(self) -> LlamaCppBackend:
        """Another backend with the same weights and slots of its own."""
        other = copy(self)
        other.__dict__.pop("_sequences", None)
        other._begin()
        return other

    def open(self, count: int) -> list[int]:
        """Empty slots; see the protocol."""
        if count > len(self._free):
            most = len(self._held) + len(self._free)
            raise ModelError(f"{count} more sequences were asked for; {most} is the most at a time")
        slots = sorted(self._free)[:count]
        self._free.difference_update(slots)
        self._held.update({slot: Held() for slot in slots})
        return slots

    def extend(self, slots: Sequence[int], pieces: Pieces) -> None:
        """Append ids to slots; see the protocol. Nothing is changed where the room does not suffice."""
        self.put(slots, pieces, [None] * len(slots))

    def put(self, slots: Sequence[int], pieces: Pieces, positions: Sequence[Sequence[int] | None]) -> None:
        """Put ids at positions of their slots; see the protocol. Nothing is changed where the room does not suffice."""
        if not slots or not all(pieces):
            raise PromptError("no prompt was given, or an empty one; give at least one id each")
        starts, lengths = [self._held[slot].length for slot in slots], [len(piece) for piece in pieces]
        full = [
            range(start, start + length) if own is None else own
            for start, length, own in zip(starts, lengths, positions, strict=True)
        ]
        longest = max(own[-1] for own in full) + 1
        if longest > self.config.max_length:
            raise ModelError(f"{longest} positions were asked for; this model has {self.config.max_length}")
        ids = np.concatenate([np.asarray(piece, np.int64) for piece in pieces])
        if ids.min() < 0 or ids.max() >= self.config.table_rows:
            raise PromptError(f"an id is outside 0 to {self.config.table_rows - 1}")
        self._reserve(len(ids))
        for slot, own in zip(slots, full, strict=True):
            for position in self._held[slot].put(own):
                self._sequences.remove(slot, position)
        wanted = np.concatenate(
            [np.full(len(own), placed is not None) for own, placed in zip(full, positions, strict=True)]
        )
        wanted[np.cumsum(lengths) - 1] = True
        owners = np.repeat(np.asarray(slots), lengths)
        places = np.concatenate([np.asarray(own) for own in full])
        self._sequences.use_threads(torch.get_num_threads())
        found = self._decode(
            ids.astype(np.int32), places.astype(np.int32), owners.astype(np.int32), wanted.astype(np.int8)
        )
        self._last.update({slot: torch.stack(rows) for slot, rows in found.items()})

    def logits(self, slots: Sequence[int], ids: range) -> Tensor:
        """Float32 logits of the next ids; see the protocol."""
        return torch.cat([self._last[slot][:, ids.start : ids.stop : ids.step] for slot in slots])

    def fork(self, slot: int) -> int:
        """A copy of a slot that shares its cells; see the protocol."""
        (copied,) = self.open(1)
        self._sequences.copy(slot, copied)
        self._held[copied] = self._held[slot].copy()
        if slot in self._last:
            # Never written to, only replaced.
            self._last[copied] = self._last[slot]
        return copied

    def close(self, slots: Sequence[int]) -> None:
        """Give slots back; see the protocol."""
        for slot in slots:
            if self._held.pop(slot, None) is not None:
                self._sequences.remove(slot)
                self._last.pop(slot, None)
                self._free.add(slot)

    def _reserve(self, count: int) -> None:
        """Room for so many more positions, in a larger cache where need be. Raises ModelError."""
        needed = self._sequences.used + count
        if needed <= self._sequences.cells:
            return
        cells = _rounded(max(needed, 2 * self._sequences.cells))
        free = available_bytes()
        if free is not None and free < cells * self._cell_bytes:
            # Doubling is a wish; what is needed is not.
            cells = _rounded(needed)
        if free is not None and free < cells * self._cell_bytes:
            raise ModelError(
                f"{needed} positions of all sequences together need {human_bytes(cells * self._cell_bytes)} of memory "
                f"and {human_bytes(free)} are available; run fewer at a time, or shorter ones"
            )
        self._sequences = self._sequences.moved(cells)

    def _decode(
        self, ids: NDArray[np.int32], positions: NDArray[np.int32], slots: NDArray[np.int32], wanted: NDArray[np.int8]
    ) -> dict[int, list[Tensor]]:
        """Pass by pass; a pass whose ids find no gap beside one another in the cache is cut in two.

        Returns the logits (rows,) of the ids that are wanted, in order, by their slot.
        """
        found: dict[int, list[Tensor]] = {}
        begin, width = 0, self._sequences.batch
        while begin < len(ids):
            part = slice(begin, begin + width)
            count = len(ids[part])
            if self._sequences.decode(ids[part], positions[part], slots[part], wanted[part]) == CACHE_FULL:
                if count == 1:
                    raise ModelError("the cache of llama.cpp is full; run fewer sequences at a time")
                width = count // 2
                continue
            for place in np.flatnonzero(wanted[part]).tolist():
                # A copy: the library writes the next ones to the same place.
                logits = torch.from_numpy(self._sequences.logits(place).copy())
                if not bool(torch.isfinite(logits).all()):
                    raise ModelError("llama.cpp computed NaN or infinity; get the model again, or use the torch engine")
                found.setdefault(int(slots[part][place]), []).append(logits)
            begin += count
        return found


def _rounded(cells: int) -> int:
    return -(-cells // _CELL_STEP) * _CELL_STEP
