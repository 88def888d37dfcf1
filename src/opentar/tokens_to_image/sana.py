"""The published diffusion de-tokenizer: a diffusers SANA folder, conditioned on features in place of a text.

diffusers keeps the transformer, the DC-AE and the scheduler; the loop here is ours, because the pipeline class wants a
text encoder, one number of condition tokens and 1024 pixels. The folder's text encoder is neither loaded nor written.

Legend: B batch, N features, D feature width, C latent channels, h w latent grid.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opentar.core.bounds import SIDE, within
from opentar.core.config import from_dict, to_dict
from opentar.core.errors import ConfigError, ModelError, shown
from opentar.core.folder import CONFIG, MANIFEST, atomic_folder, read_config, verify
from opentar.core.storage import write_tensors
from opentar.nn.sampling import generators, guide, noise
from opentar.tokens_to_image.detokenizer import Callback, check_guidance, check_steps, grid_side, write_settings
from opentar.tokens_to_image.sana_parts import NEGATIVE_NAME, read_parts, settings_tried
from opentar.tokens_to_image.sana_strips import decode_latents

if TYPE_CHECKING:
    from diffusers import AutoencoderDC, SanaTransformer2DModel, SchedulerMixin

    from opentar.core.storage import LoadDtype


@dataclass(frozen=True, kw_only=True)
class SanaConfig:
    """How a SANA folder is run."""

    image_size: int | None = None
    """Side of the pictures; None takes what the transformer was trained at."""
    steps: int = 20
    """Scheduler steps when the caller names none."""
    guidance: float = 1.0
    """Guidance when the caller names none; 1 needs no second run of the transformer."""

    def __post_init__(self) -> None:
        within(self, SIDE, "image_size")
        check_steps(self.steps)
        check_guidance(self.guidance)


class SanaDetokenizer(nn.Module):
    """SANA transformer, scheduler and DC-AE: features to pixels. See the ``Detokenizer`` protocol.

    Args:
        config: how to run it.
        transformer: predicts from noisy latents and features.
        vae: latents to pixels.
        scheduler: its settings; every picture gets a fresh copy, because schedulers remember.
        negative_LD: float (L, D), the features of "no condition"; None forbids guidance.
    """

    negative_LD: Tensor | None

    def __init__(
        self,
        config: SanaConfig,
        transformer: SanaTransformer2DModel,
        vae: AutoencoderDC,
        scheduler: SchedulerMixin,
        negative_LD: Tensor | None,
    ) -> None:
        super().__init__()
        self.config = config
        self.transformer: Any = transformer
        self.vae: Any = vae
        self.scheduler: Any = scheduler
        self.register_buffer("negative_LD", negative_LD, persistent=False)
        self._told: set[int] = set()
        self.eval()

    @property
    def factor(self) -> int:
        """Pixels a side of one latent."""
        return 2 ** (len(self.vae.config.encoder_block_out_channels) - 1)

    @property
    def image_size(self) -> int:
        """Side of the pictures when the caller names none."""
        return self.config.image_size or self.transformer.config.sample_size * self.factor

    @property
    def feature_size(self) -> int:
        """Width of the features."""
        return self.transformer.config.caption_channels

    @torch.no_grad()
    def decode(
        self,
        features_BND: Tensor,
        *,
        seed: int | Sequence[int] = 0,
        guidance: float | None = None,
        steps: int | None = None,
        callback: Callback | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> Tensor:
        """Features to pixels float32 (B, 3, height, width) in [0, 1], as the ``Detokenizer`` protocol says.

        Any square number of features will do. The negative features of guidance were published for one number; for
        another they are fitted, which is told once as a warning: two squares are resized as grids (bilinear,
        antialiased), else what is too long is cropped and what is too short is interpolated along its length.
        `height` and `width` are multiples of `factor`; None takes `image_size`. ConfigError otherwise.
        """
        size = tuple(self.image_size if side is None else side for side in (height, width))
        if any(side < self.factor or side % self.factor for side in size):
            raise ConfigError(f"a picture of {size[0]} x {size[1]} px; both sides must be multiples of {self.factor}")
        shape = (self.transformer.config.in_channels, size[0] // self.factor, size[1] // self.factor)
        latents_BChw = noise(generators(seed, len(features_BND)), shape)
        return self.pixels(self.denoise(features_BND, latents_BChw, guidance, steps, callback))

    @torch.no_grad()
    def denoise(
        self,
        features_BND: Tensor,
        latents_BChw: Tensor,
        guidance: float | None = None,
        steps: int | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Clean latents float32 (B, C, h, w) from noise of that shape; the other arguments as in ``decode``."""
        steps = check_steps(self.config.steps if steps is None else steps)
        guidance = check_guidance(self.config.guidance if guidance is None else guidance)
        grid_side(features_BND, self.feature_size)
        device, dtype = self.transformer.device, self.transformer.dtype
        # The reference holds features in bfloat16, whatever the arithmetic; not rounding them moves latents by 5e-4.
        condition = features_BND.to(device, torch.bfloat16).float()
        if guidance > 1:
            negative_ND = self._negative(condition.shape[1]).to(device, torch.bfloat16).float()
            condition = torch.cat([negative_ND.expand_as(condition), condition])
        condition = condition.to(dtype)
        mask = torch.ones(condition.shape[:2], dtype=dtype, device=device)
        with settings_tried("the SANA scheduler"):
            scheduler = type(self.scheduler).from_config(self.scheduler.config)
            scheduler.set_timesteps(steps, device=device)
        latents_BChw = latents_BChw.to(device, torch.float32)
        repeats = 2 if guidance > 1 else 1
        for done, time in enumerate(scheduler.timesteps, start=1):
            with settings_tried("the SANA transformer"):
                guess = self.transformer(
                    latents_BChw.repeat(repeats, 1, 1, 1).to(dtype),
                    encoder_hidden_states=condition,
                    encoder_attention_mask=mask,
                    timestep=time.expand(len(condition)) * self.transformer.config.timestep_scale,
                    return_dict=False,
                )[0].float()
            if guidance > 1:
                without, given = guess.chunk(2)
                guess = guide(given, without, guidance)
            # Some SANA transformers also predict a variance, which the solvers do not use.
            guess = guess[:, : latents_BChw.shape[1]]
            with settings_tried("the SANA scheduler"):
                latents_BChw = scheduler.step(guess, time, latents_BChw, return_dict=False)[0]
            if callback is not None:
                seen_BChw = latents_BChw if done == len(scheduler.timesteps) else _believed(scheduler, latents_BChw)
                callback(done, len(scheduler.timesteps), partial(self.pixels, seen_BChw))
        return latents_BChw

    @torch.no_grad()
    def pixels(self, latents_BChw: Tensor) -> Tensor:
        """Latents (B, C, h, w) to pixels float32 (B, 3, h * factor, w * factor) clamped to [0, 1].

        Above 512 x 512 pixels in strips, which show in memory alone (sana_strips.py).
        """
        scaled = (latents_BChw / self.vae.config.scaling_factor).to(self.vae.dtype)
        # As the weights lie.
        scaled = scaled.contiguous(memory_format=torch.channels_last)
        with settings_tried("the SANA autoencoder"):
            return (decode_latents(self.vae, scaled).float() * 0.5 + 0.5).clamp(0, 1)

    def _negative(self, count: int) -> Tensor:
        """The negative features (count, D), fitted as ``decode`` says."""
        if self.negative_LD is None:
            raise ConfigError(f"this SANA folder has no {NEGATIVE_NAME}, so guidance must be 1")
        length = len(self.negative_LD)
        if length == count:
            return self.negative_LD
        if count not in self._told:
            self._told.add(count)
            warnings.warn(
                f"the negative features are {length} long and the picture has {count} codes: they were fitted to it",
                stacklevel=3,
            )
        side, wanted = math.isqrt(length), math.isqrt(count)
        if side * side == length and wanted * wanted == count:
            grid_1Dss = self.negative_LD.float().T.unflatten(1, (side, side))[None]
            resized = F.interpolate(grid_1Dss, (wanted, wanted), mode="bilinear", antialias=True, align_corners=False)
            return resized[0].flatten(1).T
        if length > count:
            return self.negative_LD[:count]
        return F.interpolate(self.negative_LD.float().T[None], count, mode="linear", align_corners=False)[0].T

    def save(self, folder: str | Path) -> None:
        """Write a diffusers folder of the three parts and the negative features, all or nothing; no text encoder."""
        import diffusers

        index = {
            "_class_name": "SanaPipeline",
            "_diffusers_version": diffusers.__version__,
            "scheduler": ["diffusers", type(self.scheduler).__name__],
            "text_encoder": [None, None],
            "tokenizer": [None, None],
            "transformer": ["diffusers", type(self.transformer).__name__],
            "vae": ["diffusers", type(self.vae).__name__],
        }
        with atomic_folder(Path(folder)) as unfinished:
            for name in ("transformer", "vae"):
                getattr(self, name).save_pretrained(unfinished / name, safe_serialization=True)
            self.scheduler.save_pretrained(unfinished / "scheduler")
            (unfinished / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
            if self.negative_LD is not None:
                write_tensors(unfinished, {NEGATIVE_NAME: self.negative_LD}, "float32", stem=NEGATIVE_NAME)
            write_settings(unfinished, "sana", to_dict(self.config))

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        config: SanaConfig | None = None,
        dtype: LoadDtype = "stored",
        autoencoder: torch.dtype = torch.float32,
    ) -> SanaDetokenizer:
        """Read a SANA folder, as published or as ``save`` wrote it.

        Args:
            folder: holds transformer/, vae/, scheduler/ and, for guidance, negative_prompt_embeds.pth.
            config: how to run it; None takes the folder's own settings, if ``save`` wrote it, or the defaults.
            dtype: arithmetic of the transformer; "stored" is that of its file. Its weights and the features are
                rounded to bfloat16 first in any case, as the authors run them.
            autoencoder: arithmetic of the autoencoder, float32 or bfloat16. In bfloat16 it takes half the time; how
                much of that shows in pictures of the published weights has not been measured.

        Raises:
            ModelError: diffusers is not installed.
            WeightsError: a part is missing, damaged or of another class.
        """
        folder = Path(folder)
        ours = (folder / CONFIG).is_file()
        # A published folder has neither of the two; in ours a missing manifest is damage.
        if ours or (folder / MANIFEST).is_file():
            verify(folder, remember=True)
        if config is None:
            stored = read_config(folder) if ours else {"kind": "sana"}
            if stored.pop("kind", None) != "sana":
                raise ModelError(f"{shown(folder)} is no SANA folder: its config.json names another kind of model")
            # Once a setting of the folder; now the caller's, or that of the file.
            stored.pop("dtype", None)
            config = from_dict(SanaConfig, stored, where=f"{folder}/{CONFIG}")
        return cls(config, *read_parts(folder, dtype, autoencoder))


def _believed(scheduler: Any, latents_BChw: Tensor) -> Tensor:
    """The clean latents as the last step saw them, where the scheduler keeps them; else the latents as they are."""
    kept = getattr(scheduler, "model_outputs", None)
    if kept and isinstance(kept[-1], Tensor) and str(scheduler.config.get("algorithm_type")).endswith("dpmsolver++"):
        return kept[-1]
    return latents_BChw
