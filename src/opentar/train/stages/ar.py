"""AR de-tokenizer: picture codes one after the other, given the features of text-aligned codes as a prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from opentar.data.sheet import contact_sheet
from opentar.image_to_tokens.ta_tok import TATok
from opentar.tokens_to_image.ar import ARConfig, ARDetokenizer, ARTransformer
from opentar.tokens_to_image.vqgan import LatentVQ
from opentar.train.corpus import Corpus, spell
from opentar.train.stage import LoopSettings, Stage
from opentar.train.stages.pictures import ScenePictures, to_pictures, to_unit
from opentar.train.stages.ta_tok import vocab_of


@dataclass(frozen=True, kw_only=True)
class ARSettings:
    """The AR de-tokenizer's recipe."""

    loop: LoopSettings
    model: ARConfig
    scale_shares: tuple[float, ...] = (0.1, 0.65, 0.25)
    """How often a batch comes from codes of each scale index."""
    corpus_shares: tuple[float, ...] = (0.7, 0.3)
    """How often a sample comes from each corpus: the drawing style, all styles."""
    drop: float = 0.1
    """Share of samples that learn without their condition (the paper drops a tenth)."""


class ARModule(nn.Module):
    """The transformer with its loss; tokenizer and canvas stand beside it, frozen and outside its checkpoints."""

    def __init__(self, settings: ARSettings, ta_tok: TATok, canvas: LatentVQ) -> None:
        super().__init__()
        self.model = ARTransformer(settings.model)
        self.drop = settings.drop
        self._frozen = [ta_tok.requires_grad_(False), canvas.requires_grad_(False)]

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        ta_tok, canvas = self._frozen
        assert isinstance(ta_tok, TATok) and isinstance(canvas, LatentVQ)
        with torch.no_grad():
            features = ta_tok.decode(batch["codes"])
            with torch.autocast(features.device.type, enabled=False):
                picture_codes = canvas.quantize(batch["latents"])
        dropped = torch.rand(len(features)) < self.drop
        loss = self.model.loss(features, picture_codes, dropped_B=dropped)
        return loss, {"nats": loss.detach()}


class ARStage(Stage):
    """See the module docstring."""

    name = "ar"

    def __init__(self, settings: ARSettings, corpora: Sequence[Corpus], ta_tok: TATok, canvas: LatentVQ) -> None:
        self.recipe, self.settings = settings, settings.loop
        self.corpora, self.ta_tok, self.canvas = corpora, ta_tok, canvas
        self.scales = vocab_of(ta_tok.config).scales

    def module(self) -> nn.Module:
        return ARModule(self.recipe, self.ta_tok, self.canvas)

    def fast_parameters(self) -> tuple[str, ...]:
        return ("clip_proj",)

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        scale = int(rng.choice(3, p=self.recipe.scale_shares))
        codes, latents = [], []
        for _ in range(size):
            corpus = self.corpora[int(rng.choice(len(self.corpora), p=self.recipe.corpus_shares))]
            index = int(rng.integers(len(corpus.specs)))
            assert corpus.latents is not None
            codes.append(corpus.codes[scale][index])
            latents.append(corpus.latents[index].float())
        return {"codes": torch.stack(codes), "latents": torch.stack(latents)}

    def _shown(self, module: nn.Module, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert isinstance(module, ARModule)
        styles = sorted({item.style for item in self.corpora[0].specs[0].objects})
        source = ScenePictures(split="val", styles=styles)
        specs = source.specs(np.random.default_rng(5), count)
        codes = spell(specs, source, self.ta_tok, None, self.scales)["codes1"].long()
        features = self.ta_tok.decode(codes).float()
        made = ARDetokenizer(module.model, self.canvas).decode(features, seed=list(range(count)))
        return to_unit(source.pictures(specs)), made * 2 - 1

    def scores(self, module: nn.Module) -> dict[str, float]:
        given, made = self._shown(module, max(2, self.settings.score_size // 12))
        mse = (given - made).square().mean((1, 2, 3)).clamp(min=1e-8)
        return {"psnr_s1": float((10 * torch.log10(4 / mse)).mean())}

    def samples(self, module: nn.Module, folder: Path, step: int) -> None:
        given, made = self._shown(module, 16)
        sheet = contact_sheet(to_pictures(given) + to_pictures(made), ["given"] * 16 + ["made"] * 16, 16)
        sheet.save(folder / f"step-{step:07d}.png")

    def finish(self, module: nn.Module, folder: Path) -> None:
        assert isinstance(module, ARModule)
        ARDetokenizer(module.model, self.canvas).save(folder / "detok")
