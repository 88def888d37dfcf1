"""The flow de-tokenizer: a small transformer that turns noise into latents along straight lines (rectified flow).

Between clean latents x0 and noise e the line is x_t = (1 - t) x0 + t e; the network predicts its velocity e - x0, and
sampling walks from t = 1 to 0 with Euler steps. The features of the codes are not attended to: they are resized to
the latent grid and added to the token at their own place, which learns faster than cross-attention. Time enters as
PixArt's shared adaLN ("adaLN-single", arXiv 2310.00426, section 2.3): one projection for all, a table a block.
A :class:`Draft` of the latents may be added beside the features: a first guess that the velocity can lean on.

Legend: B batch, N features, D feature width, C latent channels, h w latent grid, T tokens, W model width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opentar.core.bounds import LAYERS, SIDE, SIZE, within
from opentar.core.config import from_dict, to_dict
from opentar.core.errors import ConfigError, ModelError
from opentar.core.folder import assemble, atomic_folder, load_part, save_part
from opentar.nn.sampling import generators, guide, noise
from opentar.tokens_to_image.autoencoder import Autoencoder
from opentar.tokens_to_image.detokenizer import (
    Callback,
    check_guidance,
    check_steps,
    grid_side,
    read_settings,
    write_settings,
)
from opentar.tokens_to_image.draft import Draft, DraftConfig, normed

_TIME_WAVES = 128


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Shape of a :class:`FlowTransformer`."""

    feature_size: int = 256
    """Width of the features it is conditioned on."""
    feature_sides: tuple[int, ...] = (12, 6, 4)
    """Grid sides of the features it knows, one learned embedding each."""
    latent_channels: int = 4
    """Channels of the latents."""
    latent_side: int = 16
    """Side of the latent grid."""
    patch: int = 2
    """Latents a side in one token."""
    hidden_size: int = 256
    """Width of the tokens."""
    layers: int = 6
    """Transformer blocks."""
    heads: int = 4
    """Attention heads."""
    mlp_size: int = 1024
    """Hidden width of a block's MLP."""
    time_size: int | None = None
    """Width of the code of the time; None takes hidden_size."""
    draft: DraftConfig | None = None
    """Shape of the draft that is refined; None paints from the features alone."""
    activation: Literal["relu", "gelu"] = "relu"
    """Activation of the MLPs; ReLU trains fastest on a CPU."""
    attention: Literal["matmul", "sdpa"] = "matmul"
    """Plain softmax(QK)V, or torch's fused kernel; on a CPU the fused one's backward is slower at 64 tokens."""
    steps: int = 10
    """Euler steps when the caller names none."""
    guidance: float = 1.7
    """Guidance when the caller names none; more over-saturates."""

    def __post_init__(self) -> None:
        within(self, SIZE, "feature_size", "latent_channels", "patch", "hidden_size", "heads", "mlp_size", "time_size")
        within(self, SIDE, "latent_side", "feature_sides")
        within(self, LAYERS, "layers")
        if self.latent_side % self.patch:
            raise ConfigError(f"latent_side {self.latent_side} is not a multiple of patch {self.patch}")
        if self.hidden_size % self.heads:
            raise ConfigError(f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}")
        if not self.feature_sides:
            raise ConfigError(f"feature_sides {self.feature_sides} must name at least one grid side above 0")
        for name in ("feature_size", "latent_channels", "latent_side") if self.draft else ():
            if getattr(self.draft, name) != getattr(self, name):
                raise ConfigError(f"{name} is {getattr(self, name)}, but its draft's is {getattr(self.draft, name)}")
        check_steps(self.steps)
        check_guidance(self.guidance)

    @property
    def tokens(self) -> int:
        """Tokens of one picture."""
        return (self.latent_side // self.patch) ** 2


def _activated(x: Tensor, activation: str) -> Tensor:
    return F.relu(x) if activation == "relu" else F.gelu(x, approximate="tanh")


class FlowBlock(nn.Module):
    """Attention and MLP, each between a modulated LayerNorm and a gate."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_in = nn.Linear(width, config.mlp_size)
        self.mlp_out = nn.Linear(config.mlp_size, width)
        # Keys start as queries: tokens look at tokens like them first, and an object is a patch of like tokens.
        with torch.no_grad():
            self.qkv.weight[width : 2 * width] = self.qkv.weight[:width]
        # Rows: shift, scale, gate of the attention, then of the MLP. Gates start open; the small output layers
        # below keep the block near the identity, and unlike zero gates they learn from the first step.
        table = torch.zeros(6, width)
        table[[2, 5]] = 1.0
        self.modulation = nn.Parameter(table)
        for layer in (self.attention_out, self.mlp_out):
            nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * config.layers))
            nn.init.zeros_(layer.bias)

    def forward(self, x_BTW: Tensor, time_B6W: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation + time_B6W).unsqueeze(2).unbind(1)
        x_BTW = x_BTW + gate1 * self._attend(normed(x_BTW) * (1 + scale1) + shift1)
        hidden = self.mlp_in(normed(x_BTW) * (1 + scale2) + shift2)
        return x_BTW + gate2 * self.mlp_out(_activated(hidden, self.config.activation))

    def _attend(self, x_BTW: Tensor) -> Tensor:
        query, key, value = self.qkv(x_BTW).unflatten(-1, (3, self.config.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.config.attention == "sdpa":
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
            mixed = weights.softmax(-1, dtype=weights.dtype) @ value
        return self.attention_out(mixed.transpose(1, 2).flatten(2))


class FlowTransformer(nn.Module):
    """Velocity of noisy latents, given features."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        width, cell = config.hidden_size, config.patch**2
        self.latents_in = nn.Linear(config.latent_channels * cell, width)
        self.positions = nn.Parameter(torch.empty(config.tokens, width))
        # After it is registered: on the meta device nothing is computed, however large a config wants it.
        if not self.positions.is_meta:
            self.positions.data.copy_(_places(config.latent_side // config.patch, width))
        self.features_in = nn.Linear(config.feature_size * cell, width)
        self.side_embedding = nn.Embedding(len(config.feature_sides), width)
        self.no_condition = nn.Parameter(torch.randn(width) * 0.02)
        self.draft = Draft(config.draft) if config.draft else None
        if config.draft:
            self.draft_in = nn.Linear(config.latent_channels * cell, width)
        time_size = config.time_size or width
        self.time_in = nn.Linear(2 * _TIME_WAVES, time_size)
        self.time_out = nn.Linear(time_size, 6 * width)
        self.blocks = nn.ModuleList([FlowBlock(config) for _ in range(config.layers)])
        self.final_modulation = nn.Parameter(torch.zeros(2, width))
        self.time_final = nn.Linear(time_size, 2 * width)
        self.latents_out = nn.Linear(width, config.latent_channels * cell)
        nn.init.normal_(self.side_embedding.weight, std=0.02)
        for layer in (self.time_out, self.time_final, self.latents_out):
            nn.init.normal_(layer.weight, std=0.002)
            nn.init.zeros_(layer.bias)

    def condition(self, features_BND: Tensor) -> Tensor:
        """Features (B, N, D) to what is added to the tokens, (B, T, W); computed once a picture, not once a step.

        Raises:
            ModelError: another width, or a grid side outside the config's `feature_sides`.
        """
        side = grid_side(features_BND, self.config.feature_size)
        if side not in self.config.feature_sides:
            known = ", ".join(str(one * one) for one in self.config.feature_sides)
            raise ModelError(f"{side * side} features a picture; this de-tokenizer was made for {known}")
        grid_BDss = features_BND.transpose(1, 2).unflatten(2, (side, side))
        grid_BDhw = F.interpolate(grid_BDss, size=self.config.latent_side, mode="bilinear", align_corners=False)
        cells_BTE = F.pixel_unshuffle(grid_BDhw, self.config.patch).flatten(2).transpose(1, 2)
        condition_BTW = self.features_in(cells_BTE) + self.side_embedding.weight[self.config.feature_sides.index(side)]
        if self.draft is None:
            return condition_BTW
        return condition_BTW + self.draft_in(self._tokens(self.draft(features_BND)))

    def _tokens(self, latents_BChw: Tensor) -> Tensor:
        """Latents to one row a token, (B, T, C patch^2)."""
        return F.pixel_unshuffle(latents_BChw, self.config.patch).flatten(2).transpose(1, 2)

    def forward(self, latents_BChw: Tensor, times_B: Tensor, condition_BTW: Tensor | None) -> Tensor:
        """Velocity (B, C, h, w) at times (B,) in [0, 1]; condition None is the learned "no condition"."""
        tokens_BTE = self._tokens(latents_BChw)
        added = self.no_condition if condition_BTW is None else condition_BTW
        x_BTW = self.latents_in(tokens_BTE) + self.positions + added
        time_BW = F.silu(self.time_in(_waves(times_B)))
        time_B6W = self.time_out(time_BW).unflatten(1, (6, -1))
        for block in self.blocks:
            x_BTW = block(x_BTW, time_B6W)
        shift, scale = (self.final_modulation + self.time_final(time_BW).unflatten(1, (2, -1))).unsqueeze(2).unbind(1)
        out_BTE = self.latents_out(normed(x_BTW) * (1 + scale) + shift)
        side = self.config.latent_side // self.config.patch
        return F.pixel_shuffle(out_BTE.transpose(1, 2).unflatten(2, (side, side)), self.config.patch)

    def loss(
        self,
        latents_BChw: Tensor,
        features_BND: Tensor,
        noise_BChw: Tensor,
        times_B: Tensor,
        *,
        dropped_B: Tensor | None = None,
        weight_Bhw: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error of the velocity, a float32 scalar.

        Args:
            latents_BChw: clean latents of about unit variance.
            features_BND: their features; all pictures of a batch share one grid.
            noise_BChw: standard normal, the shape of the latents.
            times_B: in [0, 1], see ``draw_times``.
            dropped_B: bool, True where the picture learns without its condition (about one in ten, for guidance).
            weight_Bhw: weight of each latent position, mean about 1 (object cells may weigh more).
        """
        mix_B111 = times_B.view(-1, 1, 1, 1)
        noisy_BChw = (1 - mix_B111) * latents_BChw + mix_B111 * noise_BChw
        condition_BTW = self.condition(features_BND)
        if dropped_B is not None:
            condition_BTW = torch.where(dropped_B.view(-1, 1, 1), self.no_condition.to(condition_BTW), condition_BTW)
        velocity_BChw = self(noisy_BChw, times_B, condition_BTW)
        error_BChw = (velocity_BChw.float() - (noise_BChw - latents_BChw).float()).square()
        return (error_BChw if weight_Bhw is None else error_BChw * weight_Bhw.unsqueeze(1)).mean()

    def save(self, folder: str | Path, storage: str = "float32") -> None:
        """Write config.json, model.safetensors and manifest.json into `folder`."""
        save_part(Path(folder), to_dict(self.config), self.state_dict(), storage)

    @classmethod
    def from_folder(cls, folder: str | Path) -> FlowTransformer:
        """Read what ``save`` wrote, in eval mode and float32. Raises WeightsError or ConfigError."""
        config, state = load_part(Path(folder))
        sizes = from_dict(FlowConfig, config, where=f"{folder}/config.json")
        return assemble(lambda: cls(sizes), state, str(folder))


def _places(side: int, width: int) -> Tensor:
    """Where a token stands, (side^2, width): sines and cosines of its row and column, wave lengths from 2 tokens up.

    Large from the start, because the shape of an object hangs on where in it a token lies, not on what it shows.
    """
    quarter = width // 4
    rates = np.geomspace(math.pi, math.pi / (4 * side), quarter)
    waves = np.arange(side)[:, None] * rates
    line = np.concatenate([np.sin(waves), np.cos(waves)], axis=1)
    places = np.zeros((side, side, width), np.float32)
    places[..., : 2 * quarter], places[..., 2 * quarter : 4 * quarter] = line[:, None], line[None]
    return torch.tensor(places).flatten(0, 1)


def _waves(times_B: Tensor) -> Tensor:
    """Sines and cosines (B, 2 x 128) of the times, wave lengths from about 1/160 of the way to sixty times it."""
    rates = torch.exp(torch.linspace(math.log(0.1), math.log(1000.0), _TIME_WAVES, device=times_B.device))
    angles = times_B.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def draw_times(count: int, generator: torch.Generator | None = None, shift: float = 1.0) -> Tensor:
    """Training times (count,): sigmoid of a standard normal, dense in the middle (Stable Diffusion 3, section 3.1).

    `shift` above 1 moves them towards pure noise, where only the condition tells what to paint (same, section 5.3.2).
    """
    times = torch.randn(count, generator=generator).sigmoid()
    return shift * times / (1 + (shift - 1) * times)


@torch.no_grad()
def sample_latents(
    model: FlowTransformer,
    features_BND: Tensor,
    *,
    seed: int | Sequence[int] = 0,
    steps: int | None = None,
    guidance: float | None = None,
    callback: Callback | None = None,
    decode: Autoencoder | None = None,
) -> Tensor:
    """Latents (B, C, h, w) of features (B, N, D) by Euler steps from seeded noise.

    Args: as in :class:`opentar.tokens_to_image.detokenizer.Detokenizer`; `decode` makes the callback's previews and
    is needed only with a callback.
    """
    config = model.config
    steps = check_steps(config.steps if steps is None else steps)
    guidance = check_guidance(config.guidance if guidance is None else guidance)
    count = len(features_BND)
    shape = (config.latent_channels, config.latent_side, config.latent_side)
    # One picture at a time: a draft is one row of a matrix, and products of one row and of several round differently.
    condition_BTW = torch.cat([model.condition(one_1ND) for one_1ND in features_BND.split(1)])
    latents_BChw = noise(generators(seed, count), shape).to(condition_BTW)
    if guidance != 1:
        condition_BTW = torch.cat([condition_BTW, model.no_condition.expand_as(condition_BTW)])
    for step in range(steps):
        now = 1 - step / steps
        repeats = len(condition_BTW) // max(count, 1)
        times = torch.full((1,), now, device=latents_BChw.device)
        velocity = model(latents_BChw.repeat(repeats, 1, 1, 1), times, condition_BTW)
        if guidance != 1:
            with_BChw, without_BChw = velocity.chunk(2)
            velocity = guide(with_BChw, without_BChw, guidance)
        # The end of the straight line from here: what the model believes the clean latents to be.
        guess_BChw = latents_BChw - now * velocity
        latents_BChw = latents_BChw - velocity / steps
        if callback is not None and decode is not None:
            callback(step + 1, steps, partial(decode.decode_unit, guess_BChw))
    return latents_BChw


class FlowDetokenizer(nn.Module):
    """Flow transformer and autoencoder together: features to pixels. See the ``Detokenizer`` protocol."""

    def __init__(self, transformer: FlowTransformer, autoencoder: Autoencoder) -> None:
        super().__init__()
        latents = (autoencoder.config.latent_channels, autoencoder.config.latent_side)
        if (transformer.config.latent_channels, transformer.config.latent_side) != latents:
            raise ConfigError(
                f"the transformer makes {transformer.config.latent_channels} x {transformer.config.latent_side}^2 "
                f"latents, the autoencoder takes {latents[0]} x {latents[1]}^2; use parts that were trained together"
            )
        self.transformer = transformer
        self.autoencoder = autoencoder
        self.eval()

    @property
    def image_size(self) -> int:
        """Side of the pictures."""
        return self.autoencoder.config.image_size

    @property
    def feature_size(self) -> int:
        """Width of the features."""
        return self.transformer.config.feature_size

    @torch.no_grad()
    def decode(
        self,
        features_BND: Tensor,
        *,
        seed: int | Sequence[int] = 0,
        guidance: float | None = None,
        steps: int | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Features to pixels float32 (B, 3, H, W) in [0, 1], as the ``Detokenizer`` protocol says."""
        features_BND = features_BND.to(self.transformer.positions.dtype)
        latents_BChw = sample_latents(
            self.transformer, features_BND, seed=seed, steps=steps, guidance=guidance,
            callback=callback, decode=self.autoencoder,
        )  # fmt: skip
        return self.autoencoder.decode_unit(latents_BChw)

    def save(self, folder: str | Path, storage: str = "float32") -> None:
        """Write transformer/, autoencoder/, config.json and manifest.json, all or nothing."""
        with atomic_folder(Path(folder)) as unfinished:
            self.transformer.save(unfinished / "transformer", storage)
            self.autoencoder.save(unfinished / "autoencoder", storage)
            write_settings(unfinished, "flow", {})

    @classmethod
    def from_folder(cls, folder: str | Path) -> FlowDetokenizer:
        """Read what ``save`` wrote, in float32. Raises WeightsError, ModelError or ConfigError."""
        folder = Path(folder)
        read_settings(folder, "flow")
        return cls(FlowTransformer.from_folder(folder / "transformer"), Autoencoder.from_folder(folder / "autoencoder"))
