"""Diffusion de-tokenizer: a flow transformer learns to paint latents from the features of codes.

It learns from corpora (codes and latents made once), at every scale, with the condition dropped now and then so that
guidance works. Position cells under an object weigh more: most of a picture is plain ground. The draft keeps its
dropout while the flow learns, since drafts of pictures that it learned from are better than those of new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from opentar.core.errors import ConfigError
from opentar.core.folder import strict_load
from opentar.data.pictures import PictureSource
from opentar.image_to_tokens.ta_tok import TATok
from opentar.tokens_to_image.autoencoder import Autoencoder
from opentar.tokens_to_image.flow import FlowConfig, FlowDetokenizer, FlowTransformer, draw_times
from opentar.train.corpus import Corpus
from opentar.train.stage import BesideFrozen, LoopSettings
from opentar.train.stages.painting import PaintingStage


@dataclass(frozen=True, kw_only=True)
class FlowSettings:
    """The diffusion de-tokenizer's recipe."""

    loop: LoopSettings
    model: FlowConfig
    scale_shares: tuple[float, ...]
    """How often a batch comes from codes of each scale index."""
    corpus_shares: tuple[float, ...]
    """How often a sample comes from each corpus: what is drawn, more of the same, the drawing style anywhere."""
    drop: float = 0.1
    """Share of samples that learn without their condition."""
    time_shift: float = 1.0
    """Above 1 the training times lie nearer to pure noise, where a picture's shapes are decided."""
    object_weight: float = 2.0
    """Weight of latents under an object; 1 elsewhere, then scaled to a mean of 1."""
    contrast: float = 0.0
    """Above 0 an error under an object weighs object_weight / (this + how far the latents around it vary), as an eye
    sees it: the inner parts of a thing of one hue differ little, yet make it what it is. Weights then have a mean of 1
    over the batch, not over each picture."""

    def __post_init__(self) -> None:
        if self.contrast < 0:
            raise ConfigError(f"contrast is {self.contrast}; give 0 (off) or a positive number")


class FlowModule(BesideFrozen):
    """The flow transformer with its loss; the tokenizer's decoder stands beside it, frozen."""

    def __init__(self, settings: FlowSettings, ta_tok: TATok) -> None:
        super().__init__(ta_tok)
        self.model = FlowTransformer(settings.model)
        self.recipe = settings

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        latents, ta_tok = batch["latents"], cast(TATok, self.frozen[0])
        with torch.no_grad():
            features = ta_tok.decode(batch["codes"])
        # Drawn on the CPU in this order: a seed means the same noise on every device.
        count, noise = len(latents), torch.randn(latents.shape).to(latents)
        loss = self.model.loss(
            latents, features, noise, draw_times(count, shift=self.recipe.time_shift).to(latents.device),
            dropped_B=(torch.rand(count) < self.recipe.drop).to(latents.device), weight_Bhw=batch["weight"],
        )  # fmt: skip
        return loss, {"velocity": loss.detach()}


def spread(latents_BChw: torch.Tensor) -> torch.Tensor:
    """How far latents vary in the 3 x 3 positions around each: standard deviation (B, h, w), over all channels."""

    def around(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)

    return (around(latents_BChw.square()) - around(latents_BChw).square()).clamp(min=0).mean(1).sqrt()


class FlowStage(PaintingStage):
    """See the module docstring."""

    name = "flow"
    shown_scales = (1, 2)

    def __init__(
        self,
        settings: FlowSettings,
        corpora: Sequence[Corpus],
        held_out: PictureSource,
        ta_tok: TATok,
        autoencoder: Autoencoder,
        draft: dict[str, torch.Tensor] | None = None,
        *,
        start: dict[str, torch.Tensor] | None = None,
        name: str = "flow",
    ) -> None:
        """`draft`: weights of the draft that is refined; they stay as they are. `start`: weights of a transformer and
        its draft to start from; both learn. One of them where the model has a draft, else ConfigError.
        """
        super().__init__(settings, corpora, held_out, ta_tok)
        self.draft, self.start, self.name = draft, start, name
        self.recipe, self.autoencoder = settings, autoencoder
        if start is None and (draft is None) != (settings.model.draft is None):
            given = "no draft's weights are" if draft is None else "a draft's weights are"
            raise ConfigError(f"{given} given, and the model {'has a' if draft is None else 'has no'} draft")

    def module(self) -> nn.Module:
        module = FlowModule(self.recipe, self.ta_tok)
        if self.start is None and self.draft is not None and module.model.draft is not None:
            strict_load(module.model.draft, self.draft, "the draft")
            module.model.draft.requires_grad_(False)
        if self.start is not None:
            strict_load(module.model, self.start, "the stage before")
        return module

    def fast_parameters(self) -> tuple[str, ...]:
        return ("side_embedding", "no_condition")

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        codes, latents, inside = self.draw_samples(rng, size)
        covered = F.adaptive_avg_pool2d(inside, self.recipe.model.latent_side)
        return {"codes": codes, "latents": latents, "weight": self.weights(latents, covered)}

    def weights(self, latents_BChw: torch.Tensor, covered_Bhw: torch.Tensor) -> torch.Tensor:
        """Weight (B, h, w) of each latent position, mean 1; `covered_Bhw` is the share of it under an object."""
        weight = self.recipe.object_weight
        if not self.recipe.contrast:
            plain_Bhw = 1 + (weight - 1) * covered_Bhw
            return plain_Bhw / plain_Bhw.mean((1, 2), keepdim=True)
        shown_Bhw = 1 + (weight / (self.recipe.contrast + spread(latents_BChw)) - 1) * covered_Bhw
        return shown_Bhw / shown_Bhw.mean()

    def painter(self, module: nn.Module) -> FlowDetokenizer:
        assert isinstance(module, FlowModule)
        return FlowDetokenizer(module.model, self.autoencoder)

    def finish(self, module: nn.Module, folder: Path) -> None:
        self.painter(module).save(folder / "detok")
