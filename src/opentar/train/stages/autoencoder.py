"""Autoencoder: 128 px pictures to 16x16x4 latents and back, the canvas of small de-tokenizers.

Loss: 5 MSE + L1 + L1 of the pixel gradients, object cells weighted up, plus two gentle hands on the latents: noise, so
that the decoder forgives a de-tokenizer's small errors, and a pull towards unit variance a channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from opentar.data.pictures import PictureData, PictureSource, shrink, to_pictures, to_unit
from opentar.eval.sheet import contact_sheet
from opentar.tokens_to_image.autoencoder import Autoencoder, AutoencoderConfig
from opentar.train.stage import LoopSettings, Stage


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings:
    """The autoencoder's recipe."""

    loop: LoopSettings
    model: AutoencoderConfig
    mosaic_share: float = 0.4
    """How many pictures are mosaics, where the source has them."""
    object_weight: float = 3.0
    """Weight of pixels inside an object's box; 1 elsewhere."""
    latent_noise: float = 0.1
    """Standard deviation of the noise on latents of unit variance while training."""
    latent_pull: float = 0.01
    """Weight of the pull towards mean 0 and variance 1."""


class AutoencoderModule(nn.Module):
    """The autoencoder with its loss."""

    def __init__(self, settings: AutoencoderSettings) -> None:
        super().__init__()
        self.model = Autoencoder(settings.model)
        self.recipe = settings

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pixels = to_unit(batch["pixels"])
        latents = self.model.encode(pixels)
        flat = latents.float().transpose(0, 1).flatten(1)
        pull = flat.mean(1).square().mean() + (flat.var(1) - 1).square().mean()
        noisy = latents + self.recipe.latent_noise * torch.randn(latents.shape).to(latents)
        made = self.model.decode(noisy).float()
        loss, shown = picture_loss(made, pixels, batch["inside"], self.recipe.object_weight)
        return loss + self.recipe.latent_pull * pull, {**shown, "pull": pull.detach()}


def picture_loss(
    made: torch.Tensor, pixels: torch.Tensor, inside: torch.Tensor, object_weight: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """5 MSE + L1 + L1 of the pixel gradients between pictures (B, 3, H, W) in [-1, 1], and what a log shows of it.

    `inside` (B, H, W) is 1 inside an object's box, where everything weighs `object_weight`.
    """
    weight = 1 + (object_weight - 1) * inside.unsqueeze(1)
    down, right = made.diff(dim=2) - pixels.diff(dim=2), made.diff(dim=3) - pixels.diff(dim=3)
    edges = (down.abs() * weight[:, :, 1:]).mean() + (right.abs() * weight[:, :, :, 1:]).mean()
    error = made - pixels
    loss = 5 * (error.square() * weight).mean() + (error.abs() * weight).mean() + edges
    return loss, {"psnr": decibels(made.detach(), pixels).mean(), "edges": edges.detach()}


def decibels(made: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """PSNR (B,) in dB of pictures (B, 3, H, W) in [-1, 1], what is beyond cut off."""
    return 10 * torch.log10(4 / (made.clamp(-1, 1) - given).square().mean((1, 2, 3)).clamp(min=1e-8))


class AutoencoderStage(Stage):
    """See the module docstring. `fit`: pictures that the latents are scaled to variance 1 on, at the end."""

    name = "autoencoder"

    def __init__(self, settings: AutoencoderSettings, data: PictureData, fit: PictureSource) -> None:
        self.recipe, self.settings, self.data, self.fit = settings, settings.loop, data, fit

    def module(self) -> nn.Module:
        return AutoencoderModule(self.recipe)

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        pixels, inside = self._pictures(self.data.train, rng, size)
        return {"pixels": pixels, "inside": inside}

    def _pictures(
        self, source: PictureSource, rng: np.random.Generator, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, inside = source.batch(rng, count)
        return shrink(pixels, self.recipe.model.image_size), inside

    def scores(self, module: nn.Module) -> dict[str, float]:
        assert isinstance(module, AutoencoderModule)
        scores = {}
        for prefix, source in self.data.held_out.items():
            rng = np.random.default_rng(11)
            pixels, inside = self._pictures(source, rng, max(2, self.settings.score_size // 3))
            squared = torch.cat(
                [(module.model(to_unit(part))[0].clamp(-1, 1) - to_unit(part)).square() for part in pixels.split(32)]
            ).mean(1)
            scores[f"{prefix}psnr"] = float((10 * torch.log10(4 / squared.mean((1, 2)).clamp(min=1e-8))).mean())
            boxed = (squared * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
            scores[f"{prefix}psnr_box"] = float((10 * torch.log10(4 / boxed.clamp(min=1e-8))).mean())
        return scores

    def samples(self, module: nn.Module, folder: Path, step: int) -> None:
        assert isinstance(module, AutoencoderModule)
        pixels = to_unit(self._pictures(self.data.held_out[""], np.random.default_rng(5), 16)[0])
        made = module.model(pixels)[0]
        pairs = [picture for pair in zip(to_pictures(pixels), to_pictures(made), strict=True) for picture in pair]
        contact_sheet(pairs, ["given", "made"] * 16, 8).save(folder / f"step-{step:07d}.png")

    def finish(self, module: nn.Module, folder: Path) -> None:
        """Fit the latent scale on training pictures, then save."""
        assert isinstance(module, AutoencoderModule)
        with torch.inference_mode():
            module.model.fit_scale(to_unit(self._pictures(self.fit, np.random.default_rng(3), 512)[0]))
        module.model.save(folder / "autoencoder")
