"""Pictures encoded once: the language model and the de-tokenizers learn from codes and latents, not from pixels.

A corpus is a folder of shards; each shard is a checkpoint folder (tensors, extra files, manifest), complete or absent,
so that an interrupted corpus is resumed at its first missing shard. A shard is a pure function of its index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from opentar.core.device import has_bf16_cpu
from opentar.core.errors import DataError
from opentar.core.folder import load_part, save_part
from opentar.data.pictures import shrink, to_unit
from opentar.eval.measures import usage
from opentar.image_to_tokens.ta_tok import TATok, TATokConfig
from opentar.tokens_to_image.autoencoder import Autoencoder
from opentar.train.logger import Logger
from opentar.vocab import Scale, Vocab


@dataclass(frozen=True)
class Corpus:
    """A corpus in memory."""

    codes: tuple[Tensor, ...]
    """One int64 (pictures, length) tensor a scale, by scale index."""
    latents: Tensor | None
    """float32 (pictures, C, h, w) where kept and asked for."""

    def __len__(self) -> int:
        return len(self.codes[0])

    def inside(self, index: int) -> Tensor:
        """float32 (S, S) of one picture, 1 where an error weighs more; a corpus that does not know gives zeros."""
        return torch.zeros(1, 1)


class Shard(NamedTuple):
    """What one shard is made of."""

    pixels_B3SS: Tensor
    """uint8"""
    extra: Mapping[str, bytes]
    """Files that stand beside the codes: what is known about the pictures."""


def scales_of(config: TATokConfig) -> tuple[Scale, ...]:
    """The scales of a tokenizer on its own; the number of words plays no part."""
    vocab = Vocab(text_size=1, codebook_size=config.quantizer.codebook_size, grid_side=config.vision.grid_side)
    return vocab.scales


def write_corpus(
    folder: Path,
    make: Callable[[int], Shard],
    shards: int,
    ta_tok: TATok,
    autoencoder: Autoencoder | None,
    *,
    quiet: bool = False,
) -> dict[str, float]:
    """Write the missing shards of a corpus into `folder`; returns how much of the codebook is in use.

    Args:
        folder: of the corpus.
        make: shard number -> its pictures, the same every time.
        shards: how many there are.
        ta_tok: the trained tokenizer.
        autoencoder: its latents are kept beside the codes where it is given.
        quiet: print no progress.
    """
    logger, scales = Logger(folder, folder.name, shards, quiet=quiet), scales_of(ta_tok.config)
    used = [torch.zeros(ta_tok.config.quantizer.codebook_size, dtype=torch.int64) for _ in scales]
    for index in range(shards):
        path = folder / f"shard-{index:04d}"
        if not path.exists():
            pixels, extra = make(index)
            state = encode_pictures(pixels, ta_tok, autoencoder, scales)
            save_part(path, {"scenes": len(pixels)}, state, storage="bfloat16", extra=extra)
        _, state = load_part(path)
        for scale, count in zip(scales, used, strict=True):
            count += torch.bincount(state[f"codes{scale.index}"].long().flatten(), minlength=len(count))
        logger.row(
            index + 1, {f"used_{scale.index}": float((n > 0).sum()) for scale, n in zip(scales, used, strict=True)}
        )
    logger.close()
    return usage(used)


@torch.inference_mode()
def encode_pictures(
    pixels_B3SS: Tensor,
    ta_tok: TATok,
    autoencoder: Autoencoder | None,
    scales: tuple[Scale, ...],
    batch: int = 64,
) -> dict[str, Tensor]:
    """Codes of uint8 pictures at every scale (int32), and latents (float32) where an autoencoder is given."""
    rows: dict[str, list[Tensor]] = {}
    for pictures in pixels_B3SS.split(batch):
        pixels = to_unit(shrink(pictures, ta_tok.config.vision.image_size))
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=False):
            for scale, codes in zip(scales, ta_tok.encode_scales(pixels, scales), strict=True):
                rows.setdefault(f"codes{scale.index}", []).append(codes.to(torch.int32))
        if autoencoder is not None:
            # Latents are stored as bfloat16 and learned from in noise; codes are the very ones that reading gives.
            with torch.autocast(pixels.device.type, torch.bfloat16, enabled=has_bf16_cpu()):
                rows.setdefault("latents", []).append(autoencoder.encode(to_unit(pictures)).float())
    return {name: torch.cat(parts) for name, parts in rows.items()}


def read_shards(folder: Path, shards: int, *, latents: bool) -> tuple[Corpus, list[Path]]:
    """A whole corpus, with its latents where asked for, and the folders of its shards.

    Raises DataError naming the first missing shard.
    """
    states, paths = [], []
    for index in range(shards):
        path = folder / f"shard-{index:04d}"
        if not path.exists():
            raise DataError(f"the corpus in {folder} has no {path.name}; run its stage again, it resumes there")
        state = load_part(path)[1]
        states.append({key: value for key, value in state.items() if latents or key != "latents"})
        paths.append(path)
    names = sorted(name for name in states[0] if name.startswith("codes"))
    codes = tuple(torch.cat([state[name] for state in states]).long() for name in names)
    kept = torch.cat([state["latents"] for state in states]) if "latents" in states[0] else None
    return Corpus(codes, kept), paths
