"""AR de-tokenizer: picture codes one after the other, given the features of text-aligned codes as a prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from opentar.data.pictures import PictureSource
from opentar.image_to_tokens.ta_tok import TATok
from opentar.tokens_to_image.ar import ARConfig, ARDetokenizer, ARTransformer
from opentar.tokens_to_image.vqgan import LatentVQ
from opentar.train.corpus import Corpus
from opentar.train.stage import BesideFrozen, LoopSettings
from opentar.train.stages.painting import PaintingStage


@dataclass(frozen=True, kw_only=True)
class ARSettings:
    """The AR de-tokenizer's recipe."""

    loop: LoopSettings
    model: ARConfig
    scale_shares: tuple[float, ...]
    """How often a batch comes from codes of each scale index."""
    corpus_shares: tuple[float, ...]
    """How often a sample comes from each corpus: what is drawn, the drawing style anywhere."""
    drop: float = 0.1
    """Share of samples that learn without their condition (the paper drops a tenth)."""


class ARModule(BesideFrozen):
    """The transformer with its loss; tokenizer and canvas stand beside it, frozen and outside its checkpoints."""

    def __init__(self, settings: ARSettings, ta_tok: TATok, canvas: LatentVQ) -> None:
        super().__init__(ta_tok, canvas)
        self.model = ARTransformer(settings.model)
        self.drop = settings.drop

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        ta_tok, canvas = self.frozen
        assert isinstance(ta_tok, TATok) and isinstance(canvas, LatentVQ)
        with torch.no_grad():
            features = ta_tok.decode(batch["codes"])
            with torch.autocast(features.device.type, enabled=False):
                picture_codes = canvas.quantize(batch["latents"])
        dropped = (torch.rand(len(features)) < self.drop).to(features.device)
        loss = self.model.loss(features, picture_codes, dropped_B=dropped)
        return loss, {"nats": loss.detach()}


class ARStage(PaintingStage):
    """See the module docstring."""

    name = "ar"

    def __init__(
        self,
        settings: ARSettings,
        corpora: Sequence[Corpus],
        held_out: PictureSource,
        ta_tok: TATok,
        canvas: LatentVQ,
    ) -> None:
        super().__init__(settings, corpora, held_out, ta_tok)
        self.recipe, self.canvas = settings, canvas

    def module(self) -> nn.Module:
        return ARModule(self.recipe, self.ta_tok, self.canvas)

    def fast_parameters(self) -> tuple[str, ...]:
        return ("features_in",)

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        codes, latents, _ = self.draw_samples(rng, size)
        return {"codes": codes, "latents": latents}

    def painter(self, module: nn.Module) -> ARDetokenizer:
        assert isinstance(module, ARModule)
        return ARDetokenizer(module.model, self.canvas)

    def finish(self, module: nn.Module, folder: Path) -> None:
        self.painter(module).save(folder / "detok")
