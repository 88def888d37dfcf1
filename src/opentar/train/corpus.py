"""Scenes spelled in codes once: the language model and the de-tokenizers learn without drawing or encoding.

A corpus is a folder of shards; each shard is a checkpoint folder (tensors + scenes.jsonl + manifest), complete or
absent, so that a broken-off corpus goes on at its first missing shard. A shard is a pure function of (seed, its index).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from opentar.core.device import has_bf16_cpu
from opentar.core.errors import ConfigError, DataError
from opentar.core.folder import load_part, save_part
from opentar.data.spec import SceneSpec
from opentar.eval.measures import usage
from opentar.image_to_tokens.ta_tok import TATok
from opentar.tokens_to_image.autoencoder import Autoencoder
from opentar.train.journal import Journal
from opentar.train.stages.pictures import ScenePictures, shrink, to_unit
from opentar.vocab import Scale

SCENES = "scenes.jsonl"


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """What a corpus holds."""

    scenes: int
    """Number of scenes, rounded up to whole shards."""
    shard: int = 2048
    """Scenes a shard."""
    styles: tuple[str, ...] = ()
    """Drawing styles; empty means all training styles."""
    shares: dict[str, float] = field(default_factory=dict)
    """Shares of the kinds; empty means the world's own."""
    tidy: float = 0.0
    """How many scenes stand in fixed places."""
    latents: bool = False
    """Keep the autoencoder's latents as well (2 kB a scene)."""
    seed: int = 0
    """Seed of the scenes."""

    def __post_init__(self) -> None:
        if self.scenes < 1 or self.shard < 1:
            raise ConfigError(f"a corpus of {self.scenes} scenes in shards of {self.shard} is empty; give at least 1")


@dataclass(frozen=True)
class Corpus:
    """A corpus in memory."""

    codes: tuple[torch.Tensor, ...]
    """One int64 (scenes, length) tensor a scale, by scale index."""
    specs: tuple[SceneSpec, ...]
    """The scenes, in the same order."""
    latents: torch.Tensor | None
    """float32 (scenes, 4, 16, 16) where kept and asked for."""
    styles: tuple[str, ...] | None
    """Drawing styles; None stands for all training styles."""
    tidy: float = 0.0
    """How many scenes stand in fixed places."""


def write_corpus(
    folder: Path,
    settings: CorpusSettings,
    ta_tok: TATok,
    autoencoder: Autoencoder | None,
    scales: tuple[Scale, ...],
    *,
    quiet: bool = False,
) -> dict[str, float]:
    """Write the missing shards of a corpus into `folder`; returns what a look at the codes tells.

    Raises: ConfigError where latents are asked for without an autoencoder.
    """
    if settings.latents and autoencoder is None:
        raise ConfigError("a corpus with latents needs the autoencoder; give it, or set latents to false")
    source = ScenePictures(styles=settings.styles or None, shares=settings.shares or None, tidy=settings.tidy)
    shards = -(-settings.scenes // settings.shard)
    journal = Journal(folder, folder.name, shards, quiet=quiet)
    used = [torch.zeros(ta_tok.config.quantizer.codebook_size, dtype=torch.int64) for _ in scales]
    for index in range(shards):
        path = folder / f"shard-{index:04d}"
        if not path.exists():
            specs = source.specs(np.random.default_rng([settings.seed, index]), settings.shard)
            state = spell(specs, source, ta_tok, autoencoder if settings.latents else None, scales)
            lines = "".join(json.dumps(spec.to_dict(), separators=(",", ":")) + "\n" for spec in specs)
            save_part(path, {"scenes": len(specs)}, state, storage="bfloat16", extra={SCENES: lines.encode()})
        _, state = load_part(path)
        for scale, count in zip(scales, used, strict=True):
            count += torch.bincount(state[f"codes{scale.index}"].long().flatten(), minlength=len(count))
        journal.row(
            index + 1, {f"used_{scale.index}": float((n > 0).sum()) for scale, n in zip(scales, used, strict=True)}
        )
    journal.close()
    return usage(used)


@torch.inference_mode()
def spell(
    specs: list[SceneSpec],
    source: ScenePictures,
    ta_tok: TATok,
    autoencoder: Autoencoder | None,
    scales: tuple[Scale, ...],
    batch: int = 64,
) -> dict[str, torch.Tensor]:
    """Codes of scenes at every scale (int32), and latents (float32) where an autoencoder is given."""
    rows: dict[str, list[torch.Tensor]] = {}
    for start in range(0, len(specs), batch):
        part = specs[start : start + batch]
        pictures = source.pictures(part)
        pixels = to_unit(shrink(pictures, ta_tok.config.vision.image_size))
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=False):
            for scale, codes in zip(scales, ta_tok.encode_scales(pixels, scales), strict=True):
                rows.setdefault(f"codes{scale.index}", []).append(codes.to(torch.int32))
        if autoencoder is not None:
            # Latents are stored as bfloat16 and learned from in noise; codes are the very ones that reading gives.
            with torch.autocast(pixels.device.type, torch.bfloat16, enabled=has_bf16_cpu()):
                rows.setdefault("latents", []).append(autoencoder.encode(to_unit(pictures)).float())
    return {name: torch.cat(parts) for name, parts in rows.items()}


def read_corpus(folder: Path, settings: CorpusSettings, *, latents: bool) -> Corpus:
    """Load a whole corpus, with its latents where asked for. Raises DataError naming the first missing shard."""
    states, specs = [], []
    for index in range(-(-settings.scenes // settings.shard)):
        path = folder / f"shard-{index:04d}"
        if not path.exists():
            raise DataError(f"the corpus in {folder} has no {path.name}; run its stage again, it goes on from there")
        state = load_part(path)[1]
        states.append({key: value for key, value in state.items() if latents or key != "latents"})
        lines = (path / SCENES).read_text(encoding="utf-8").splitlines()
        specs += [SceneSpec.from_dict(json.loads(line)) for line in lines]
    names = sorted(name for name in states[0] if name.startswith("codes"))
    return Corpus(
        codes=tuple(torch.cat([state[name] for state in states]).long() for name in names),
        specs=tuple(specs),
        latents=torch.cat([state["latents"] for state in states]) if "latents" in states[0] else None,
        styles=settings.styles or None,
        tidy=settings.tidy,
    )
