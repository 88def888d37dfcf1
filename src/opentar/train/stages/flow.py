"""Diffusion de-tokenizer: a flow transformer learns to paint latents from the features of codes.

It learns from corpora (codes and latents made once), at every scale, with the condition dropped now and then so that
guidance works. Position cells under an object weigh more: most of a picture is plain ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from opentar.data.sheet import contact_sheet
from opentar.image_to_tokens.ta_tok import TATok
from opentar.tokens_to_image.autoencoder import Autoencoder
from opentar.tokens_to_image.flow import FlowConfig, FlowDetokenizer, FlowTransformer, draw_times
from opentar.train.corpus import Corpus, spell
from opentar.train.stage import LoopSettings, Stage
from opentar.train.stages.autoencoder import box_masks
from opentar.train.stages.pictures import ScenePictures, to_pictures, to_unit
from opentar.train.stages.ta_tok import vocab_of


@dataclass(frozen=True, kw_only=True)
class FlowSettings:
    """The diffusion de-tokenizer's recipe."""

    loop: LoopSettings
    model: FlowConfig
    scale_shares: tuple[float, ...] = (0.2, 0.6, 0.2)
    """How often a batch comes from codes of each scale index."""
    corpus_shares: tuple[float, ...] = (0.6, 0.4)
    """How often a sample comes from each corpus: the drawing style, all styles."""
    drop: float = 0.1
    """Share of samples that learn without their condition."""
    object_weight: float = 2.0
    """Weight of latents under an object; 1 elsewhere, then scaled to a mean of 1."""


class FlowModule(nn.Module):
    """The flow transformer with its loss; the tokenizer's decoder stands beside it, frozen."""

    def __init__(self, settings: FlowSettings, ta_tok: TATok) -> None:
        super().__init__()
        self.model = FlowTransformer(settings.model)
        self.recipe = settings
        # In a list, so that the tokenizer is no part of this module's weights and checkpoints.
        self._ta_tok = [ta_tok.requires_grad_(False)]

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        latents = batch["latents"]
        with torch.no_grad():
            features = self._ta_tok[0].decode(batch["codes"])
        count = len(latents)
        loss = self.model.loss(
            latents, features, torch.randn(latents.shape), draw_times(count),
            dropped_B=torch.rand(count) < self.recipe.drop, weight_Bhw=batch["weight"],
        )  # fmt: skip
        return loss, {"velocity": loss.detach()}


class FlowStage(Stage):
    """See the module docstring."""

    name = "flow"

    def __init__(
        self, settings: FlowSettings, corpora: Sequence[Corpus], ta_tok: TATok, autoencoder: Autoencoder
    ) -> None:
        self.recipe, self.settings = settings, settings.loop
        self.corpora, self.ta_tok, self.autoencoder = corpora, ta_tok, autoencoder
        self.scales = vocab_of(ta_tok.config).scales

    def module(self) -> nn.Module:
        return FlowModule(self.recipe, self.ta_tok)

    def fast_parameters(self) -> tuple[str, ...]:
        return ("side_embedding", "positions", "no_condition")

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        scale = int(rng.choice(3, p=self.recipe.scale_shares))
        codes, latents, specs = [], [], []
        for _ in range(size):
            corpus = self.corpora[int(rng.choice(len(self.corpora), p=self.recipe.corpus_shares))]
            index = int(rng.integers(len(corpus.specs)))
            assert corpus.latents is not None
            codes.append(corpus.codes[scale][index])
            latents.append(corpus.latents[index].float())
            specs.append(corpus.specs[index])
        side = self.recipe.model.latent_side
        covered = F.adaptive_avg_pool2d(box_masks(specs), side)
        weight = 1 + (self.recipe.object_weight - 1) * covered
        weight = weight / weight.mean((1, 2), keepdim=True)
        return {"codes": torch.stack(codes), "latents": torch.stack(latents), "weight": weight}

    def _shown(self, module: nn.Module, count: int, scale: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Held-out pictures in the drawing style and what comes back of them, both in [-1, 1]."""
        assert isinstance(module, FlowModule)
        styles = sorted({item.style for item in self.corpora[0].specs[0].objects})
        source = ScenePictures(split="val", styles=styles)
        specs = source.specs(np.random.default_rng(5), count)
        codes = spell(specs, source, self.ta_tok, None, self.scales)[f"codes{scale}"].long()
        painter = FlowDetokenizer(module.model, self.autoencoder)
        made = painter.decode(self.ta_tok.decode(codes).float(), seed=list(range(count)))
        return to_unit(source.pictures(specs)), made * 2 - 1

    def scores(self, module: nn.Module) -> dict[str, float]:
        scores = {}
        for scale in (1, 2):
            given, made = self._shown(module, max(2, self.settings.score_size // 6), scale)
            mse = (given - made).square().mean((1, 2, 3)).clamp(min=1e-8)
            scores[f"psnr_s{scale}"] = float((10 * torch.log10(4 / mse)).mean())
        return scores

    def samples(self, module: nn.Module, folder: Path, step: int) -> None:
        rows, titles = [], []
        for scale in (1, 2):
            given, made = self._shown(module, 16, scale)
            rows += to_pictures(given) + to_pictures(made)
            titles += ["given"] * 16 + [f"scale {scale}"] * 16
        contact_sheet(rows, titles, 16).save(folder / f"step-{step:07d}.png")

    def finish(self, module: nn.Module, folder: Path) -> None:
        assert isinstance(module, FlowModule)
        FlowDetokenizer(module.model, self.autoencoder).save(folder / "detok")
