"""Vision teacher: the encoder learns to name and colour every cell of crowded pictures.

Most of nano's vision is shape memory (301 concepts in 7 styles), so each picture carries as many labelled objects as
it can; the pool is drawn anew for every batch because the tokenizer reads the same features at three scales.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from opentar.core.config import to_dict
from opentar.core.folder import save_part
from opentar.data.pictures import to_unit
from opentar.image_to_tokens.encoder import VisionConfig, VisionEncoder, pool_grid
from opentar.nano.stages.heads import DenseHeads, concept_embeddings
from opentar.nano.stages.pictures import ScenePictures, label_batch, recolour_some
from opentar.train.stage import LoopSettings, Stage

POOL_SHARES = (0.4, 0.4, 0.2)
"""How often a batch is pooled by 1, 2 and 3."""


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """The teacher's recipe."""

    loop: LoopSettings
    vision: VisionConfig
    mosaic_share: float = 0.7
    tidy: float = 0.4
    """How many of the other pictures stand in fixed places, as the drawn ones will."""
    augment: float = 0.2
    weights: dict[str, float] = field(
        default_factory=lambda: {"concept": 1.0, "colour": 0.5, "centre": 0.5, "background": 0.2, "word": 0.3}
    )


class TeacherModule(nn.Module):
    """Encoder and heads; forward takes a batch of `TeacherStage.batch`."""

    def __init__(self, settings: TeacherSettings, text_KT: torch.Tensor) -> None:
        super().__init__()
        self.encoder = VisionEncoder(settings.vision)
        self.heads = DenseHeads(settings.vision.hidden_size, text_KT)
        self.weights = settings.weights

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        feats_BND = pool_grid(self.encoder(to_unit(batch["pixels"])), int(batch["pool"]))
        losses = self.heads.losses(feats_BND, batch)
        total = sum((self.weights[name] * value for name, value in losses.items()), torch.zeros(()))
        return total, {name: value.detach() for name, value in losses.items()}


class TeacherStage(Stage):
    """See the module docstring."""

    name = "teacher"

    def __init__(self, settings: TeacherSettings) -> None:
        self.recipe, self.settings = settings, settings.loop
        self.source = ScenePictures(mosaic_share=settings.mosaic_share, tidy=settings.tidy)

    def module(self) -> nn.Module:
        return TeacherModule(self.recipe, concept_embeddings())

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        pool = 1 + int(rng.choice(3, p=POOL_SHARES))
        specs = self.source.specs(rng, size)
        pixels = self.source.pixels(specs, self.recipe.vision.image_size)
        changed = recolour_some(pixels, self.recipe.augment, rng)
        labels = label_batch(specs, self.recipe.vision.grid_side // pool)
        labels["colour"][changed] = -1
        labels["background"][changed] = -1
        return {"pixels": pixels, "pool": torch.tensor(pool), **labels}

    def scores(self, module: nn.Module) -> dict[str, float]:
        assert isinstance(module, TeacherModule)
        return read_scores(module.encoder, module.heads, self.recipe.vision, self.settings.score_size)

    def finish(self, module: nn.Module, folder: Path) -> None:
        assert isinstance(module, TeacherModule)
        save_part(folder / "encoder", to_dict(self.recipe.vision), module.encoder.state_dict())
        save_part(folder / "heads", {"width": self.recipe.vision.hidden_size}, module.heads.state_dict())


def read_scores(encoder: nn.Module, heads: DenseHeads, vision: VisionConfig, pictures: int) -> dict[str, float]:
    """Share of cells and of whole scenes read right at pool 1 and 2, on held-out combinations and unseen styles."""
    scores = {}
    sources = {"": ScenePictures(split="val"), "style_": ScenePictures(split="train", sprites="val")}
    for prefix, source in sources.items():
        specs = source.specs(np.random.default_rng(7), pictures)
        for pool in (1, 2):
            total: dict[str, float] = {}
            for start in range(0, pictures, 64):
                part = specs[start : start + 64]
                feats = encoder(to_unit(source.pixels(part, vision.image_size)))
                counts = heads.read(pool_grid(feats, pool), label_batch(part, vision.grid_side // pool))
                total = {key: total.get(key, 0.0) + float(value) for key, value in counts.items()}
            scores[f"{prefix}cell_p{pool}"] = total["concept"] / total["cells"]
            scores[f"{prefix}colour_p{pool}"] = total["colour"] / total["cells"]
            scores[f"{prefix}scene_p{pool}"] = total["scene"] / total["scenes"]
    return scores
