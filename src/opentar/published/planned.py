"""One published part: read and checked, told what it will become, and written when everything fits.

Files are mapped from the disk, so a plan costs hardly any memory; numbers are read tensor by tensor while a part is
written, and a part is let go before the next one begins.
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

from opentar.core.config import to_dict
from opentar.core.folder import atomic_folder, save_part
from opentar.core.torch_files import check_sums
from opentar.image_to_tokens.published import read_ta_tok
from opentar.language.folder import folder_config
from opentar.language.prompt import PUBLISHED_TEMPLATE
from opentar.language.published import read_llm
from opentar.language.tokenizer import FILE
from opentar.published.licences import licence_of
from opentar.published.sana_folder import read_sana, write_sana
from opentar.published.standing import Canvas, link_tree, pixels_of_ar
from opentar.tokens_to_image.detokenizer import write_settings
from opentar.tokens_to_image.published import read_ar_dtok, read_vqgan

Dtype = Literal["keep", "bf16", "fp32"]
"""How numbers are stored: as they are (types that a part cannot hold become float32), bfloat16 or float32."""
DTYPES: tuple[Dtype, ...] = ("keep", "bf16", "fp32")
Step = Callable[[int, int], None]
"""Called with (tensors done, tensors in all)."""
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
    write: Callable[[Path, Step], None]
    """writes the part's folder, whole or not at all"""


Origins = Mapping[Path, Origin]


def plan_ta_tok(path: Path, dtype: Dtype, origins: Origins) -> Planned:
    """The image tokenizer of a ta_tok.pth. Raises WeightsError as `read_ta_tok`."""
    check_sums(path)
    config, state = read_ta_tok(path)
    stored = _Stored.of(state, dtype)
    note = "pooling heads and the encoder's last layer are left out: nothing reads them"

    def write(folder: Path, step: Step) -> None:
        save_part(folder, to_dict(config), _Counted(read_ta_tok(path)[1], step), stored.storage)

    return Planned(_report("ta_tok", [stored], [path], origins, (note, *stored.notes)), config, 0, write)


def plan_language(folder: Path, grid_side: int, dtype: Dtype, origins: Origins) -> Planned:
    """The language model of a published folder. Raises WeightsError as `read_llm`."""
    config, state, tokenizer, notes = read_llm(folder, grid_side)
    stored = _Stored.of(state, dtype)
    text = tokenizer.to_json().encode("utf-8")

    def write(target: Path, step: Step) -> None:
        state = read_llm(folder, grid_side).state
        save_part(
            target, folder_config(config, PUBLISHED_TEMPLATE), _Counted(state, step), stored.storage, {FILE: text}
        )

    report = _report("language", [stored], [folder], origins, (*notes, *stored.notes), extra_bytes=len(text))
    return Planned(report, config, 0, write)


def read_canvas(path: Path) -> Canvas:
    """The VQGAN of a published file. Raises WeightsError as `read_vqgan`."""
    check_sums(path)
    return Canvas(read_vqgan(path)[0], path, True)


def plan_ar(path: Path, canvas: Canvas, dtype: Dtype, origins: Origins) -> Planned:
    """An AR de-tokenizer and its canvas; its part is called detok_ar until it is named. Raises WeightsError."""
    check_sums(path)
    config, state = read_ar_dtok(path)
    stored = [_Stored.of(state, dtype)]
    files = [path]
    if canvas.published:
        stored.append(_Stored.of(read_vqgan(canvas.path)[1], dtype))
        files.append(canvas.path)

    def write(folder: Path, step: Step) -> None:
        with atomic_folder(folder) as stage:
            state = read_ar_dtok(path)[1]
            save_part(stage / "transformer", to_dict(config), _Counted(state, step), stored[0].storage)
            if canvas.published:
                save_part(stage / "canvas", to_dict(canvas.config), read_vqgan(canvas.path)[1], stored[1].storage)
            else:
                link_tree(canvas.path, stage / "canvas")
            write_settings(stage, "ar", {"canvas": "vqgan"})

    notes = tuple(dict.fromkeys(note for one in stored for note in one.notes))
    if not canvas.published:
        notes = (*notes, f"the canvas is that of {canvas.path.parent.name}")
    report = _report("detok_ar", stored, files, origins, notes)
    return Planned(report, config, pixels_of_ar(config, canvas.config), write)


def plan_sana(folder: Path, dtype: Dtype, origins: Origins) -> Planned:
    """A diffusion de-tokenizer; its part is called detok_diffusion until it is named. Raises as `read_sana`."""
    sana = read_sana(folder)
    wanted = _STORAGES.get(dtype)
    kinds = [
        getattr(torch, wanted) if wanted else kind for tensors in sana.tensors.values() for _, kind in tensors.values()
    ]
    counts = [math.prod(shape) for tensors in sana.tensors.values() for shape, _ in tensors.values()]
    negative = 0 if sana.negative_LD is None else sana.negative_LD.numel()
    stored = _Stored(
        numbers=sum(counts) + negative,
        bytes=sum(count * kind.itemsize for count, kind in zip(counts, kinds, strict=True)) + 4 * negative,
        storage=" and ".join(sorted({str(kind).removeprefix("torch.") for kind in kinds})),
    )

    def write(target: Path, step: Step) -> None:
        with atomic_folder(target) as stage:
            for done in write_sana(sana, stage, wanted):
                step(done, len(counts))

    return Planned(_report("detok_diffusion", [stored], [folder], origins, sana.notes), sana, sana.image_size, write)


class _Stored(NamedTuple):
    """How a set of tensors is stored."""

    numbers: int
    bytes: int
    storage: str
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, state: Mapping[str, Tensor], dtype: Dtype) -> _Stored:
        kinds = {tensor.dtype for tensor in state.values()}
        storage = _STORAGES.get(dtype) or ("bfloat16" if kinds == {torch.bfloat16} else "float32")
        numbers = sum(tensor.numel() for tensor in state.values())
        told = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        same = kinds == {getattr(torch, storage)}
        notes = () if same else (f"the numbers are {told} in the file and are stored as {storage}",)
        return cls(numbers, numbers * getattr(torch, storage).itemsize, storage, notes)


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


class _Counted(Mapping[str, Tensor]):
    """A state that tells how many of its tensors have been read."""

    def __init__(self, state: Mapping[str, Tensor], step: Step) -> None:
        self._state, self._step = state, step
        self._seen: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._state[name]
        if name not in self._seen:
            self._seen.add(name)
            self._step(len(self._seen), len(self._state))
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)
