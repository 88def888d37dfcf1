"""Picture codes for the AR de-tokenizer: k-means over the autoencoder's latents, then the decoder learns to forgive it.

A VQ learned from scratch loses hue at this size; k-means of a good continuous latent does not (docs/lab.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from opentar.data.pictures import PictureData, to_pictures, to_unit
from opentar.eval.sheet import contact_sheet
from opentar.tokens_to_image.autoencoder import Autoencoder
from opentar.tokens_to_image.vqgan import LatentVQ, LatentVQConfig, fit_kmeans
from opentar.train.stage import LoopSettings, Stage
from opentar.train.stages.autoencoder import decibels, picture_loss


@dataclass(frozen=True, kw_only=True)
class LatentVQSettings:
    """The recipe of the picture codes."""

    loop: LoopSettings
    codebook_size: int = 2048
    """Entries."""
    pictures: int = 3072
    """Pictures whose latents are clustered."""
    object_share: float = 0.85
    """Share of the clustered latents that lie under an object; plain ground needs few entries."""
    rows: int = 120_000
    """Latents that are clustered."""
    rounds: int = 12
    """Lloyd rounds."""
    object_weight: float = 3.0
    """Weight of pixels inside an object's box while the decoder is tuned."""


class LatentVQModule(nn.Module):
    """The canvas; only its decoder learns."""

    def __init__(self, autoencoder: Autoencoder, settings: LatentVQSettings, table: torch.Tensor) -> None:
        super().__init__()
        config = LatentVQConfig(autoencoder=autoencoder.config, codebook_size=settings.codebook_size)
        self.model = LatentVQ(config)
        self.model.autoencoder.load_state_dict(autoencoder.state_dict())
        self.model.codebook.copy_(table)
        self.model.requires_grad_(False)
        self.model.autoencoder.decoder.requires_grad_(True)
        self.object_weight = settings.object_weight

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pixels = to_unit(batch["pixels"])
        with torch.no_grad():
            latents = self.model.latents(self.model.encode(pixels))
        made = self.model.autoencoder.decode(latents).float()
        return picture_loss(made, pixels, batch["inside"], self.object_weight)


class LatentVQStage(Stage):
    """See the module docstring."""

    name = "latent_vq"

    def __init__(self, settings: LatentVQSettings, data: PictureData, autoencoder: Autoencoder) -> None:
        self.recipe, self.settings, self.data, self.autoencoder = settings, settings.loop, data, autoencoder

    def module(self) -> nn.Module:
        return LatentVQModule(self.autoencoder, self.recipe, self._table())

    @torch.inference_mode()
    def _table(self) -> torch.Tensor:
        """(codebook_size, channels): k-means centres, most of them from cells under objects."""
        rng, recipe = np.random.default_rng(21), self.recipe
        under, ground = [], []
        for _ in range(max(1, recipe.pictures // 64)):
            pixels, inside = self.data.train.batch(rng, 64)
            latents = self.autoencoder.encode(to_unit(pixels)).float()
            covered = nn.functional.adaptive_avg_pool2d(inside, latents.shape[-1]) > 0.3
            rows = latents.permute(0, 2, 3, 1)
            under.append(rows[covered])
            ground.append(rows[~covered])
        generator = torch.Generator().manual_seed(21)
        wanted = round(recipe.rows * recipe.object_share)
        picked = [
            torch.cat(parts)[torch.randperm(sum(len(part) for part in parts), generator=generator)[:count]]
            for parts, count in ((under, wanted), (ground, recipe.rows - wanted))
        ]
        return fit_kmeans(torch.cat(picked), recipe.codebook_size, generator, recipe.rounds).clone()

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        pixels, inside = self.data.train.batch(rng, size)
        return {"pixels": pixels, "inside": inside}

    def scores(self, module: nn.Module) -> dict[str, float]:
        assert isinstance(module, LatentVQModule)
        count = max(2, self.settings.score_size // 3)
        given = to_unit(self.data.held_out[""].batch(np.random.default_rng(11), count).pixels_B3SS)
        codes = torch.cat([module.model.encode(part) for part in given.split(32)])
        made = torch.cat([module.model.decode_codes(part) for part in codes.split(32)]) * 2 - 1
        used = codes.unique().numel() / len(module.model.codebook)
        return {"psnr": float(decibels(made, given).mean()), "used": used}

    def samples(self, module: nn.Module, folder: Path, step: int) -> None:
        assert isinstance(module, LatentVQModule)
        given = to_unit(self.data.held_out[""].batch(np.random.default_rng(5), 16).pixels_B3SS)
        made = module.model.decode_codes(module.model.encode(given)) * 2 - 1
        sheet = contact_sheet(to_pictures(given) + to_pictures(made), ["given"] * 16 + ["made"] * 16, 16)
        sheet.save(folder / f"step-{step:07d}.png")

    def finish(self, module: nn.Module, folder: Path) -> None:
        assert isinstance(module, LatentVQModule)
        module.model.save(folder / "canvas")
