"""The continuous autoencoder: picture <-> 8x smaller latents, the canvas of both nano de-tokenizers.

Plain convolution blocks without norm, ReLU, and a second convolution that starts near zero: on a CPU a GroupNorm
or a SiLU costs as much as the convolution beside it, and a residual block that starts as the identity trains
without one.

Legend: B batch, C channels, H W picture, h w latent grid (H / 8).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opentar.core.bounds import LAYERS, SIDE, SIZE, Range, within
from opentar.core.config import from_dict, to_dict
from opentar.core.errors import ConfigError, ImageError, ModelError
from opentar.core.folder import assemble, load_part, save_part


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Shape of an :class:`Autoencoder`."""

    image_size: int = 128
    """Side of the square pictures in pixels."""
    latent_channels: int = 4
    """Channels of a latent."""
    encoder_channels: tuple[int, ...] = (24, 48, 96)
    """Width of each encoder level; every level halves the side, so three levels make 8x smaller latents."""
    decoder_channels: tuple[int, ...] = (128, 64, 32)
    """Width of each decoder level, from the smallest grid up; as many levels as the encoder."""
    encoder_blocks: tuple[int, ...] = (0, 1, 2)
    """Residual blocks of each encoder level, after its halving."""
    decoder_blocks: tuple[int, ...] = (3, 2, 1)
    """Residual blocks of each decoder level, before its doubling."""
    encodes: bool = True
    """False leaves the encoder out, a third of the weights: a finished de-tokenizer only paints."""
    latent_shift: float = 0.0
    """Subtracted from the encoder's output, so that latents centre on zero."""
    latent_scale: float = 1.0
    """Multiplied in after the shift, so that latents have a standard deviation of about one."""

    def __post_init__(self) -> None:
        within(self, SIDE, "image_size")
        within(self, SIZE, "latent_channels", "encoder_channels", "decoder_channels")
        within(self, Range(0, LAYERS.high), "encoder_blocks", "decoder_blocks")
        levels = len(self.encoder_channels)
        for name in ("decoder_channels", "encoder_blocks", "decoder_blocks"):
            if len(getattr(self, name)) != levels:
                raise ConfigError(f"{name} has {len(getattr(self, name))} entries; encoder_channels has {levels}.")
        if not levels:
            raise ConfigError("encoder_channels is empty; give one width per halving.")
        if self.image_size % 2**levels:
            raise ConfigError(f"image_size {self.image_size} is not a multiple of {2**levels} (one halving a level).")
        if self.latent_scale <= 0:
            raise ConfigError(f"latent_scale {self.latent_scale} must be above 0.")

    @property
    def factor(self) -> int:
        """How many pixels a side one latent stands for."""
        return 2 ** len(self.encoder_channels)

    @property
    def latent_side(self) -> int:
        """Side of the latent grid."""
        return self.image_size // self.factor


def _start(conv: nn.Conv2d, nonlinearity: str = "linear") -> nn.Conv2d:
    """Kaiming start: torch's own shrinks the signal at every layer, and without a norm nothing grows it back."""
    nn.init.kaiming_normal_(conv.weight, nonlinearity=nonlinearity)  # type: ignore[arg-type]
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), near the identity at the start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _start(nn.Conv2d(channels, channels, 3, padding=1), "relu")
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        # Near zero, not zero: a zero weight gives the first convolution no gradient at the first step.
        nn.init.normal_(self.second.weight, std=1e-3)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.second(F.relu(self.first(F.relu(x_BCHW))))


class Down(nn.Module):
    """Halves the side: strided convolution beside a parameter-free shortcut (space to depth, mean of groups).

    The shortcut keeps the colour of a cell on a linear way to the latent from the first step; without it the
    norm-free net learns nothing for its first hundred steps at the learning rates it wants later.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.conv = _start(nn.Conv2d(width, channels, 4, stride=2, padding=1), "relu")
        self.group = width * 4 // channels if width * 4 % channels == 0 else 0

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW = self.conv(F.relu(x_BCHW))
        if self.group:
            out_BCHW = out_BCHW + F.pixel_unshuffle(x_BCHW, 2).unflatten(1, (-1, self.group)).mean(2)
        return out_BCHW


class Up(nn.Module):
    """Doubles the side: 1x1 convolution and depth to space, beside the shortcut that mirrors :class:`Down`'s."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.conv = _start(nn.Conv2d(width, channels * 4, 1), "relu")
        self.copies = channels * 4 // width if channels * 4 % width == 0 else 0

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW = self.conv(F.relu(x_BCHW))
        if self.copies:
            out_BCHW = out_BCHW + x_BCHW.repeat_interleave(self.copies, dim=1)
        return F.pixel_shuffle(out_BCHW, 2)


def _encoder(config: AutoencoderConfig) -> nn.Sequential:
    # The first halving is a space-to-depth: no full-resolution feature map is ever made.
    layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
    width = 3 * 4
    for level, (channels, blocks) in enumerate(zip(config.encoder_channels, config.encoder_blocks, strict=True)):
        layers.append(Down(width, channels) if level else _start(nn.Conv2d(width, channels, 3, padding=1)))
        layers += [ResidualBlock(channels) for _ in range(blocks)]
        width = channels
    layers.append(_start(nn.Conv2d(width, config.latent_channels, 3, padding=1)))
    return nn.Sequential(*layers)


def _decoder(config: AutoencoderConfig) -> nn.Sequential:
    width = config.decoder_channels[0]
    layers: list[nn.Module] = [_start(nn.Conv2d(config.latent_channels, width, 3, padding=1))]
    for level, (channels, blocks) in enumerate(zip(config.decoder_channels, config.decoder_blocks, strict=True)):
        if level:
            layers.append(Up(width, channels))
        layers += [ResidualBlock(channels) for _ in range(blocks)]
        width = channels
    layers += [_start(nn.Conv2d(width, 3 * 4, 3, padding=1)), nn.PixelShuffle(2)]
    return nn.Sequential(*layers)


class Autoencoder(nn.Module):
    """Encoder and decoder between pixels in [-1, 1] and latents of about unit variance.

    The shift and scale live in the buffers ``latent_shift`` and ``latent_scale`` (they start from the config and
    ``fit_scale`` measures them), so that a checkpoint carries them.
    """

    latent_shift: Tensor
    latent_scale: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _encoder(config) if config.encodes else None
        self.decoder = _decoder(config)
        self.register_buffer("latent_shift", torch.full((config.latent_channels,), float(config.latent_shift)))
        self.register_buffer("latent_scale", torch.full((config.latent_channels,), float(config.latent_scale)))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, pixels_B3HW: Tensor) -> Tensor:
        """Picture to latents.

        Args:
            pixels_B3HW: float (B, 3, image_size, image_size) in [-1, 1].

        Returns:
            float (B, latent_channels, side, side), shifted and scaled to about unit variance.

        Raises:
            ImageError: when the pictures have another shape.
            ModelError: this one was stored without its encoder.
        """
        if self.encoder is None:
            raise ModelError("this autoencoder was stored without its encoder and only paints; use the training's own")
        size = self.config.image_size
        if pixels_B3HW.ndim != 4 or tuple(pixels_B3HW.shape[1:]) != (3, size, size):
            raise ImageError(
                f"pictures of shape {tuple(pixels_B3HW.shape)}; the autoencoder takes (B, 3, {size}, {size}): resize"
            )
        raw_BChw = self.encoder(pixels_B3HW.contiguous(memory_format=torch.channels_last))
        return (raw_BChw - self.latent_shift.view(1, -1, 1, 1)) * self.latent_scale.view(1, -1, 1, 1)

    def decode(self, latents_BChw: Tensor) -> Tensor:
        """Latents (B, latent_channels, side, side) to pixels (B, 3, 8 side, 8 side), about [-1, 1], not clamped."""
        raw_BChw = latents_BChw / self.latent_scale.view(1, -1, 1, 1) + self.latent_shift.view(1, -1, 1, 1)
        return self.decoder(raw_BChw.contiguous(memory_format=torch.channels_last))

    @torch.no_grad()
    def decode_unit(self, latents_BChw: Tensor) -> Tensor:
        """Latents to finished pixels: float32 (B, 3, H, W), clamped to [0, 1]."""
        return (self.decode(latents_BChw).float() * 0.5 + 0.5).clamp(0, 1)

    def forward(self, pixels_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """(reconstruction, latents) of a batch, for training."""
        latents_BChw = self.encode(pixels_B3HW)
        return self.decode(latents_BChw), latents_BChw

    @torch.no_grad()
    def fit_scale(self, pixels_B3HW: Tensor) -> None:
        """Set shift and scale, a channel each, so that the latents of these pictures have mean 0 and deviation 1."""
        self.latent_shift.zero_()
        self.latent_scale.fill_(1.0)
        raw_BChw = self.encode(pixels_B3HW).float()
        self.latent_shift.copy_(raw_BChw.mean(dim=(0, 2, 3)))
        self.latent_scale.copy_(1 / raw_BChw.std(dim=(0, 2, 3)).clamp(min=1e-4))

    def without_encoder(self) -> Autoencoder:
        """The same painter, in eval mode, a copy; its `encode` raises ModelError."""
        painter = Autoencoder(replace(self.config, encodes=False))
        painter.load_state_dict({name: value for name, value in self.state_dict().items() if "encoder." not in name})
        return painter.eval()

    def save(self, folder: str | Path, storage: str = "float32") -> None:
        """Write the folder (config.json, model.safetensors, manifest.json)."""
        save_part(Path(folder), to_dict(self.config), self.state_dict(), storage)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Autoencoder:
        """Read what ``save`` wrote, in eval mode and float32. Raises WeightsError or ConfigError naming the file."""
        config, state = load_part(Path(folder))
        sizes = from_dict(AutoencoderConfig, config, where=f"{folder}/config.json")
        return assemble(lambda: cls(sizes), state, str(folder))
