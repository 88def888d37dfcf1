"""One published part: read and checked, told what it will become, and written when everything fits.

Files are mapped from the disk, so a plan costs hardly any memory. Numbers are read and checked tensor by tensor while a
part is written, once, and a part is let go before the next one begins. A trial run reads and checks them the same way.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from opentar.checkpoints.convert.fitting import Canvas, link_tree, pixels_of_ar
from opentar.checkpoints.convert.licences import licence_of
from opentar.checkpoints.convert.sana_folder import check_sana, read_sana, write_sana
from opentar.core.config import to_dict
from opentar.core.folder import atomic_folder, save_part
from opentar.core.progress import Count
from opentar.core.storage import SHARD_BYTES
from opentar.core.tensors import check_numbers
from opentar.core.torch_files import Sums
from opentar.image_to_tokens.published import read_ta_tok
from opentar.language.folder import folder_config
from opentar.language.prompt import PUBLISHED_TEMPLATE
from opentar.language.published import llm_state, read_llm
from opentar.language.tokenizer import FILE
from opentar.tokens_to_image.detokenizer import write_settings
from opentar.tokens_to_image.published import read_ar_dtok, read_vqgan

Dtype = Literal["keep", "bf16", "fp32"]
"""How numbers are stored: as they are (types that a part cannot hold become float32), bfloat16 or float32."""
DTYPES: tuple[Dtype, ...] = ("keep", "bf16", "fp32")
_STORAGES = {"bf16": "bfloat16", "fp32": "float32"}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a file or folder that is imported came from."""

    repository: str
    """owner/name on the hub"""
    commit: str
    """commit of the repository"""
    licence: str = ""
    """what the repository's page states; empty when it says nothing"""


@dataclass(frozen=True, kw_only=True)
class PartReport:
    """What a part of the model folder is, or will be."""

    part: str
    """folder of the part"""
    numbers: int
    """parameters that are written"""
    bytes: int
    """size of their tensors on the disk, and of the tokenizer"""
    storage: str
    """float32 or bfloat16, or both joined by " and " """
    files: tuple[str, ...]
    """what it is made of, as in ModelConfig.sources"""
    licence: str
    """as in ModelConfig.part_licences"""
    notes: tuple[str, ...] = ()
    """what was left out or is worth knowing, one line each"""


class Planned(NamedTuple):
    """A part that can be written."""

    report: PartReport
    config: Any
    """its config as read"""
    pixels: int
    """side of the pictures of a de-tokenizer, 0 for other parts"""
    held: int
    """most bytes of tensors in memory while it is written"""
    write: Callable[[Path, Count], None]
    """writes the part's folder, whole or not at all; raises WeightsError for numbers that no model can be made of"""
    check: Callable[[], None]
    """reads all that `write` reads, refuses what it refuses, and writes nothing"""


Origins = Mapping[Path, Origin]


def plan_ta_tok(path: Path, dtype: Dtype, origins: Origins) -> Planned:
    """The image tokenizer of a ta_tok.pth. Raises WeightsError as `read_ta_tok`."""
    sums = Sums(path)
    config, state = read_ta_tok(path)
    stored = _Stored.of(state, dtype)
    note = "pooling heads and the encoder's last layer are left out: nothing reads them"

    def checked(step: Count = _silent) -> _Checked:
        return _Checked(read_ta_tok(path)[1], path, stored.kind, step, sums)

    def write(folder: Path, step: Count) -> None:
        save_part(folder, to_dict(config), checked(step), stored.storage)

    report = _report("ta_tok", [stored], [path], origins, (note, *stored.notes))
    return Planned(report, config, 0, stored.held, write, lambda: checked().read())


def plan_language(folder: Path, grid_side: int, dtype: Dtype, origins: Origins) -> Planned:
    """The language model of a published folder. Raises WeightsError as `read_llm`."""
    config, state, tokenizer, notes = read_llm(folder, grid_side)
    stored = _Stored.of(state, dtype)
    text = tokenizer.to_json().encode("utf-8")

    def checked(step: Count = _silent) -> _Checked:
        return _Checked(*llm_state(folder, config), stored.kind, step)

    def write(target: Path, step: Count) -> None:
        settings = folder_config(config, PUBLISHED_TEMPLATE)
        save_part(target, settings, checked(step), stored.storage, {FILE: text})

    report = _report("language", [stored], [folder], origins, (*notes, *stored.notes), extra_bytes=len(text))
    return Planned(report, config, 0, stored.held, write, lambda: checked().read())


def read_canvas(path: Path) -> Canvas:
    """The VQGAN of a published file. Raises WeightsError as `read_vqgan`."""
    return Canvas(read_vqgan(path)[0], path, True, [])


def plan_ar(path: Path, canvas: Canvas, dtype: Dtype, origins: Origins) -> Planned:
    """An AR de-tokenizer and its canvas; its part is called detok_ar until it is named. Raises WeightsError."""
    sums = Sums(path)
    config, state = read_ar_dtok(path)
    stored = [_Stored.of(state, dtype)]
    files = [path]
    if canvas.published:
        stored.append(_Stored.of(read_vqgan(canvas.path)[1], dtype))
        files.append(canvas.path)

    def transformer(step: Count = _silent) -> _Checked:
        return _Checked(read_ar_dtok(path)[1], path, stored[0].kind, step, sums)

    def painted(step: Count = _silent) -> _Checked:
        return _Checked(read_vqgan(canvas.path)[1], canvas.path, stored[1].kind, step, Sums(canvas.path))

    def write(folder: Path, step: Count) -> None:
        with atomic_folder(folder) as unfinished:
            save_part(unfinished / "transformer", to_dict(config), transformer(step), stored[0].storage)
            if canvas.published and not canvas.written:
                save_part(unfinished / "canvas", to_dict(canvas.config), painted(), stored[1].storage)
            else:
                link_tree(canvas.written[0] if canvas.written else canvas.path, unfinished / "canvas")
            write_settings(unfinished, "ar", {"canvas": "vqgan"})
        if canvas.published:
            canvas.written[:] = [folder / "canvas"]

    def check() -> None:
        transformer().read()
        if canvas.published:
            painted().read()

    notes = tuple(dict.fromkeys(note for one in stored for note in one.notes))
    if not canvas.published:
        notes = (*notes, f"the canvas is that of {canvas.path.parent.name}")
    report = _report("detok_ar", stored, files, origins, notes)
    held = max(one.held for one in stored)
    return Planned(report, config, pixels_of_ar(config, canvas.config), held, write, check)


def plan_sana(folder: Path, dtype: Dtype, origins: Origins) -> Planned:
    """A diffusion de-tokenizer; its part is called detok_diffusion until it is named. Raises as `read_sana`."""
    sana = read_sana(folder)
    wanted = _STORAGES.get(dtype)
    tensors = [entry for part in sana.tensors.values() for entry in part.values()]
    kinds = [getattr(torch, wanted) if wanted else kind for _, kind in tensors]
    counts = [math.prod(shape) for shape, _ in tensors]
    sizes = [count * kind.itemsize for count, kind in zip(counts, kinds, strict=True)]
    negative = 0 if sana.negative_LD is None else sana.negative_LD.numel()
    stored = _Stored(
        numbers=sum(counts) + negative,
        bytes=sum(sizes) + 4 * negative,
        # Copied one tensor at a time where nothing changes; else a file is collected before it is written.
        held=max(sizes) if wanted is None else _held(sum(sizes), max(sizes)),
        storage=" and ".join(sorted({str(kind).removeprefix("torch.") for kind in kinds})),
    )

    def write(target: Path, step: Count) -> None:
        with atomic_folder(target) as unfinished:
            for done in write_sana(sana, unfinished, wanted):
                step(done, len(counts))

    report = _report("detok_diffusion", [stored], [folder], origins, sana.notes)
    return Planned(report, sana, sana.image_size, stored.held, write, lambda: check_sana(sana, wanted))


def _silent(done: int, total: int) -> None:
    """The step of a part that nobody watches."""


def _held(total: int, largest: int) -> int:
    """Most bytes in memory while so many are written in files of at most SHARD_BYTES: one file, and the next tensor."""
    return min(total, SHARD_BYTES + largest)


class _Stored(NamedTuple):
    """How a set of tensors is stored."""

    numbers: int
    bytes: int
    held: int
    """most bytes in memory while they are written"""
    storage: str
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> torch.dtype:
        """The type they become."""
        kind: torch.dtype = getattr(torch, self.storage)
        return kind

    @classmethod
    def of(cls, state: Mapping[str, Tensor], dtype: Dtype) -> _Stored:
        kinds = {tensor.dtype for tensor in state.values()}
        storage = _STORAGES.get(dtype) or ("bfloat16" if kinds == {torch.bfloat16} else "float32")
        numbers = sum(tensor.numel() for tensor in state.values())
        told = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        same = kinds == {getattr(torch, storage)}
        notes = () if same else (f"the numbers are {told} in the file and are stored as {storage}",)
        width = getattr(torch, storage).itemsize
        largest = max((tensor.numel() for tensor in state.values()), default=0)
        return cls(numbers, width * numbers, _held(width * numbers, width * largest), storage, notes)


def _report(
    part: str,
    stored: Iterable[_Stored],
    paths: list[Path],
    origins: Origins,
    notes: tuple[str, ...],
    extra_bytes: int = 0,
) -> PartReport:
    stored = list(stored)
    files, licences = [], []
    for path in paths:
        origin = origins.get(path)
        licences.append(licence_of(origin.repository, origin.licence) if origin else licence_of(""))
        if origin is None:
            # Links are not followed: in the cache of huggingface_hub they lead to a hash, and the name is lost.
            files.append(os.path.basename(os.path.abspath(path)))
        elif path.is_dir():
            files.append(f"{origin.repository}@{origin.commit}")
        else:
            files.append(f"{origin.repository}@{origin.commit}/{path.name}")
    return PartReport(
        part=part,
        numbers=sum(one.numbers for one in stored),
        bytes=sum(one.bytes for one in stored) + extra_bytes,
        storage=" and ".join(dict.fromkeys(one.storage for one in stored)),
        files=tuple(files),
        licence="; ".join(dict.fromkeys(licences)),
        notes=notes,
    )


class _Checked(Mapping[str, Tensor]):
    """A state whose tensors are checked when they are asked for, and that tells how many have been.

    Args:
        state: the tensors.
        source: their file, or the file of each.
        kind: the type they are stored in.
        step: called after each new one.
        sums: the checksums of their file, where it has any.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        source: Path | Mapping[str, Path],
        kind: torch.dtype,
        step: Count,
        sums: Sums | None = None,
    ) -> None:
        self._state, self._source, self._kind, self._step, self._sums = state, source, kind, step, sums
        self._seen: set[str] = set()

    def read(self) -> None:
        """Check all of them."""
        for name in self._state:
            self[name]

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._state[name]
        if name not in self._seen:
            self._seen.add(name)
            if self._sums is not None:
                self._sums.check(name, tensor)
            source = self._source if isinstance(self._source, Path) else self._source[name]
            check_numbers(source, name, tensor, self._kind)
            self._step(len(self._seen), len(self._state))
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)
