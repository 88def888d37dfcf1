"""What the stages of de-tokenizers share: samples from corpora, and held-out pictures decoded again from codes."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from opentar.data.pictures import PictureSource, to_pictures, to_unit
from opentar.data.task import check_shares
from opentar.eval.sheet import contact_sheet
from opentar.image_to_tokens.ta_tok import TATok
from opentar.train.corpus import Corpus, encode_pictures, scales_of
from opentar.train.stage import LoopSettings, Stage
from opentar.train.stages.autoencoder import decibels


class Painter(Protocol):
    """What a painting stage is looked at through."""

    def decode(self, features_BND: torch.Tensor, *, seed: Sequence[int]) -> torch.Tensor:
        """Features (B, N, D) to pixels float32 (B, 3, H, W) in [0, 1]."""


class PaintingSettings(Protocol):
    """What the recipes of all painting stages say."""

    @property
    def loop(self) -> LoopSettings:
        """Of the training loop."""

    @property
    def scale_shares(self) -> tuple[float, ...]:
        """How often a batch comes from codes of each scale index."""

    @property
    def corpus_shares(self) -> tuple[float, ...]:
        """How often a sample comes from each corpus."""


class PaintingStage(Stage):
    """A stage that learns pictures from codes.

    Args:
        settings: the recipe.
        corpora: what it learns from.
        held_out: pictures that scores and samples are made of.
        ta_tok: the trained tokenizer.

    Raises:
        ConfigError: not every scale and every corpus has its share.
    """

    shown_scales: tuple[int, ...] = (1,)
    """Scales that are scored and shown."""

    def __init__(
        self, settings: PaintingSettings, corpora: Sequence[Corpus], held_out: PictureSource, ta_tok: TATok
    ) -> None:
        self.corpora, self.held_out, self.ta_tok, self.settings = corpora, held_out, ta_tok, settings.loop
        self.scales = scales_of(ta_tok.config)
        self.scale_shares = check_shares("scale_shares", settings.scale_shares, len(self.scales))
        self.corpus_shares = check_shares("corpus_shares", settings.corpus_shares, len(corpora))

    @abc.abstractmethod
    def painter(self, module: nn.Module) -> Painter:
        """What paints with the weights that are being trained."""

    def pick(self, rng: np.random.Generator, size: int) -> tuple[int, list[tuple[int, int]]]:
        """A scale index for a batch, and (number of the corpus, index in it) of each of its samples."""
        scale = int(rng.choice(len(self.scales), p=self.scale_shares))
        picked = []
        for _ in range(size):
            number = int(rng.choice(len(self.corpora), p=self.corpus_shares))
            picked.append((number, int(rng.integers(len(self.corpora[number])))))
        return scale, picked

    def draw_samples(self, rng: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes int64 (B, N) of one scale, latents float32 (B, C, h, w) and where objects are, float32 (B, S, S)."""
        scale, rows = self.pick(rng, size)
        picked = [(self.corpora[number], index) for number, index in rows]
        codes = torch.stack([corpus.codes[scale][index] for corpus, index in picked])
        latents = torch.stack([corpus.latents[index] for corpus, index in picked if corpus.latents is not None])
        assert len(latents) == size, "a corpus without latents cannot teach painting"
        return codes, latents.float(), torch.stack([corpus.inside(index) for corpus, index in picked])

    def shown(self, module: nn.Module, count: int, scale: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Held-out pictures and what comes back of their codes, both in [-1, 1]."""
        pixels = self.held_out.batch(np.random.default_rng(5), count).pixels_B3SS
        codes = encode_pictures(pixels, self.ta_tok, None, self.scales)[f"codes{scale}"].long()
        made = self.painter(module).decode(self.ta_tok.decode(codes).float(), seed=list(range(count)))
        return to_unit(pixels), made * 2 - 1

    def scores(self, module: nn.Module) -> dict[str, float]:
        """PSNR in dB at each shown scale."""
        count = max(2, self.settings.score_size // 8)
        return {
            f"psnr_s{scale}": float(decibels(*reversed(self.shown(module, count, scale))).mean())
            for scale in self.shown_scales
        }

    def samples(self, module: nn.Module, folder: Path, step: int) -> None:
        """A sheet: given pictures, and the same painted from their codes."""
        rows, titles = [], []
        for scale in self.shown_scales:
            given, made = self.shown(module, 16, scale)
            rows += to_pictures(given) + to_pictures(made)
            titles += ["given"] * 16 + [f"scale {scale}"] * 16
        contact_sheet(rows, titles, 16).save(folder / f"step-{step:07d}.png")
