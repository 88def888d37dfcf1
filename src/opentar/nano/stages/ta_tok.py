"""Nano's TA-Tok: the teacher's heads must read names and colours from its features, before and after the bottleneck.

Cosine alone throws colour away, so the dense heads read the decoded features, and those before the bottleneck (the
encoder still learns its trade).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from opentar.core.folder import load_part, strict_load
from opentar.data.pictures import to_unit
from opentar.data.stream import Batch
from opentar.eval.measures import usage
from opentar.image_to_tokens.ta_tok import TATokConfig, TATokOutput
from opentar.nano.stages.heads import DenseHeads, concept_embeddings
from opentar.nano.stages.pictures import ScenePictures, label_batch
from opentar.train.stage import LoopSettings
from opentar.train.stages.ta_tok import TATokModule, TATokStage


@dataclass(frozen=True, kw_only=True)
class TATokSettings:
    """The tokenizer's recipe."""

    loop: LoopSettings
    model: TATokConfig
    mosaic_share: float = 0.15
    tidy: float = 0.0
    """How many of the other pictures stand in fixed places."""
    scale_shares: tuple[float, ...] = (0.12, 0.6, 0.28)
    """How often a batch is encoded at each scale index."""
    learns: tuple[str, ...] = ("",)
    """Name fragments of the weights that learn; the others stay as they start. "" stands in every name."""
    fast: tuple[str, ...] = ("model.decoder.", "painter.")
    """Name fragments of those that learn at ten times the rate."""
    weights: dict[str, float] = field(
        default_factory=lambda: dict(cosine=1.0, codebook=0.2, dense=0.3, free=0.3, paint=1.0, spread=0.1)
    )
    dense: dict[str, float] = field(
        default_factory=lambda: {"concept": 1.0, "colour": 1.0, "centre": 0.5, "background": 0.3, "word": 0.0}
    )


class SceneTATokModule(TATokModule):
    """The tokenizer and the frozen teacher with its heads."""

    frozen = ("teacher.", "heads.")
    recipe: TATokSettings

    def add_parts(self, width: int) -> None:
        self.heads = DenseHeads(width, concept_embeddings())

    def further_terms(self, out: TATokOutput, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        dense = self.heads.losses(out.decoded_BND, batch)
        free = self.heads.losses(out.pooled_BND, batch)
        terms = {"dense": self._weighed(dense), "free": self._weighed(free)}
        return terms, {"concept": dense["concept"], "free_concept": free["concept"]}

    def _weighed(self, losses: dict[str, Tensor]) -> Tensor:
        return sum((self.recipe.dense[name] * value for name, value in losses.items()), torch.zeros(()))


class SceneTATokStage(TATokStage):
    """See the module docstring. `teacher` is the result folder of the teacher stage, `start` a tokenizer's folder."""

    recipe: TATokSettings

    def __init__(self, settings: TATokSettings, teacher: Path | None, start: Path | None) -> None:
        super().__init__(settings, ScenePictures(split="val"), start)
        self.teacher = teacher
        self.source = ScenePictures(mosaic_share=settings.mosaic_share, tidy=settings.tidy)

    def module(self) -> nn.Module:
        encoder = None if self.teacher is None else load_part(self.teacher / "encoder")[1]
        module = SceneTATokModule(self.recipe, encoder, self.start)
        if self.teacher is not None:
            strict_load(module.heads, load_part(self.teacher / "heads")[1], "the teacher's heads")
        return module

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        scale = self.pick_scale(rng)
        specs = self.source.specs(rng, size)
        pixels = self.source.pixels(specs, self.recipe.model.vision.image_size)
        labels = label_batch(specs, scale.side)
        return {"pixels": pixels, "scale": torch.tensor(scale.index), "shows": labels["concept"] >= 0, **labels}

    def scores(self, module: nn.Module) -> dict[str, float]:
        assert isinstance(module, SceneTATokModule)
        scores: dict[str, float] = {}
        source, image_size = ScenePictures(split="val"), self.recipe.model.vision.image_size
        specs = source.specs(np.random.default_rng(7), self.settings.score_size)
        for scale in self.scales:
            total: dict[str, float] = {}
            histogram = torch.zeros(self.recipe.model.quantizer.codebook_size, dtype=torch.int64)
            for start in range(0, len(specs), 64):
                part = specs[start : start + 64]
                codes = module.model.encode(to_unit(source.pixels(part, image_size)), scale)
                histogram += torch.bincount(codes.flatten(), minlength=len(histogram))
                counts = module.heads.read(module.model.decode(codes), label_batch(part, scale.side))
                total = {key: total.get(key, 0.0) + float(value) for key, value in counts.items()}
            scores[f"cell_s{scale.index}"] = total["concept"] / total["cells"]
            scores[f"colour_s{scale.index}"] = total["colour"] / total["cells"]
            scores[f"scene_s{scale.index}"] = total["scene"] / total["scenes"]
            scores |= {f"{key[:-1]}{scale.index}": value for key, value in usage([histogram]).items()}
        return scores
