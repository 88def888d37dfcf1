"""Corpora of the nano world: scenes drawn by lot, encoded once, with their descriptions beside the codes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from opentar.core.errors import ConfigError
from opentar.image_to_tokens.ta_tok import TATok
from opentar.nano.stages.pictures import ScenePictures, box_masks
from opentar.nano.world.spec import SceneSpec
from opentar.tokens_to_image.autoencoder import Autoencoder
from opentar.train.corpus import Corpus, Shard, read_shards, write_corpus

SCENES = "scenes.jsonl"
"""Extra file of a shard: the description of each scene, a line each."""


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

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.scenes // self.shard)


@dataclass(frozen=True)
class SceneCorpus(Corpus):
    """A corpus whose scenes are known."""

    specs: tuple[SceneSpec, ...]
    """The scenes, in the order of the codes."""
    styles: tuple[str, ...] | None
    """Drawing styles; None stands for all training styles."""
    tidy: float = 0.0
    """How many scenes stand in fixed places."""

    def inside(self, index: int) -> torch.Tensor:
        """float32 (128, 128), 1 inside the box of any object."""
        return box_masks([self.specs[index]])[0]

    def held_out(self) -> ScenePictures:
        """Validation scenes in the styles and places of this corpus."""
        return ScenePictures(split="val", styles=self.styles, tidy=self.tidy)


def write_scenes(
    folder: Path, settings: CorpusSettings, ta_tok: TATok, autoencoder: Autoencoder | None, *, quiet: bool = False
) -> dict[str, float]:
    """Write the missing shards of a corpus; returns how much of the codebook is in use.

    Raises: ConfigError where latents are asked for without an autoencoder.
    """
    if settings.latents and autoencoder is None:
        raise ConfigError("a corpus with latents needs the autoencoder; give it, or set latents to false")
    source = ScenePictures(styles=settings.styles or None, shares=settings.shares or None, tidy=settings.tidy)

    def make(index: int) -> Shard:
        specs = source.specs(np.random.default_rng([settings.seed, index]), settings.shard)
        lines = "".join(json.dumps(spec.to_dict(), separators=(",", ":")) + "\n" for spec in specs)
        return Shard(source.pictures(specs), {SCENES: lines.encode()})

    painted = autoencoder if settings.latents else None
    return write_corpus(folder, make, settings.shards, ta_tok, painted, quiet=quiet)


def read_scenes(folder: Path, settings: CorpusSettings, *, latents: bool) -> SceneCorpus:
    """Load a whole corpus, with its latents where asked for. Raises DataError naming the first missing shard."""
    corpus, paths = read_shards(folder, settings.shards, latents=latents)
    lines = [line for path in paths for line in (path / SCENES).read_text(encoding="utf-8").splitlines()]
    return SceneCorpus(
        codes=corpus.codes,
        latents=corpus.latents,
        specs=tuple(SceneSpec.from_dict(json.loads(line)) for line in lines),
        styles=settings.styles or None,
        tidy=settings.tidy,
    )
