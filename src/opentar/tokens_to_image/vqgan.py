"""Pictures as codes of a picture codebook, and back: the published VQ-16, and the nano model's quantized latents.

Both classes share one surface: `encode(pixels) -> codes`, `decode_codes(codes) -> pixels`, `codebook_size`, `factor`.

Legend: B batch, L codes of a picture (row by row), K codebook entries, C code width, H W picture, h w code grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opentar.core.bounds import EPS, LAYERS, SIZE, within
from opentar.core.config import from_dict, to_dict
from opentar.core.errors import ConfigError, DataError, ImageError, ModelError
from opentar.core.folder import assemble, load_part, save_part
from opentar.tokens_to_image.autoencoder import Autoencoder, AutoencoderConfig


@dataclass(frozen=True, kw_only=True)
class VQGANConfig:
    """Shape of a :class:`VQGAN`; the defaults are the published VQ-16."""

    channels: tuple[int, ...] = (128, 128, 256, 256, 512)
    """Width of each level from full size down; every level but the last halves the side."""
    blocks: int = 2
    """Residual blocks of an encoder level; the decoder has one more."""
    latent_channels: int = 256
    """Width of the encoder's output, before the 1x1 convolution to the code width."""
    code_size: int = 8
    """Width of a codebook entry."""
    codebook_size: int = 16384
    """Entries of the codebook."""
    groups: int = 32
    """Groups of every GroupNorm."""
    norm_eps: float = 1e-6
    """Added to the variance in every GroupNorm."""

    def __post_init__(self) -> None:
        within(self, SIZE, "channels", "latent_channels", "code_size", "codebook_size", "groups")
        within(self, LAYERS, "blocks")
        within(self, EPS, "norm_eps")
        if not self.channels or any(width % self.groups for width in self.channels):
            raise ConfigError(f"channels {self.channels[:8]} must be multiples of groups {self.groups}")

    @property
    def factor(self) -> int:
        """Pixels a side of one code."""
        return 2 ** (len(self.channels) - 1)


class VQResidual(nn.Module):
    """Two 3x3 convolutions behind GroupNorm and swish, plus the input."""

    def __init__(self, config: VQGANConfig, width: int, channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(config, width)
        self.conv1 = nn.Conv2d(width, channels, 3, padding=1)
        self.norm2 = _norm(config, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(width, channels, 1) if width != channels else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x_BCHW)))
        return self.shortcut(x_BCHW) + self.conv2(F.silu(self.norm2(hidden)))


class VQAttention(nn.Module):
    """One attention head over all positions, plus the input."""

    def __init__(self, config: VQGANConfig, width: int) -> None:
        super().__init__()
        self.norm = _norm(config, width)
        self.query, self.key, self.value, self.out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        normed = self.norm(x_BCHW)
        query, key, value = (layer(normed).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
        return x_BCHW + self.out(mixed.transpose(1, 2).unflatten(2, x_BCHW.shape[2:]))


def _norm(config: VQGANConfig, width: int) -> nn.GroupNorm:
    return nn.GroupNorm(config.groups, width, eps=config.norm_eps)


class VQLevel(nn.Module):
    """Residual blocks, each followed by attention at the lowest level, then a change of size."""

    def __init__(
        self, config: VQGANConfig, width: int, channels: int, blocks: int, *, attends: bool, resize: str | None
    ) -> None:
        super().__init__()
        widths = [width] + [channels] * (blocks - 1)
        self.blocks = nn.ModuleList([VQResidual(config, one, channels) for one in widths])
        self.attention = nn.ModuleList([VQAttention(config, channels) for _ in range(blocks if attends else 0)])
        self.resize = resize
        if resize is not None:
            self.conv = nn.Conv2d(
                channels, channels, 3, stride=2 if resize == "down" else 1, padding=1 if resize == "up" else 0
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            x_BCHW = block(x_BCHW)
            if self.attention:
                x_BCHW = self.attention[index](x_BCHW)
        if self.resize == "down":
            # One row and column of zeros at the far sides only, as the published weights expect.
            return self.conv(F.pad(x_BCHW, (0, 1, 0, 1)))
        if self.resize == "up":
            return self.conv(F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest"))
        return x_BCHW


class VQCoder(nn.Module):
    """Encoder (pixels to `latent_channels`) or decoder (back) of a VQGAN."""

    def __init__(self, config: VQGANConfig, *, encoder: bool) -> None:
        super().__init__()
        self.encoder = encoder
        widths = config.channels if encoder else config.channels[::-1]
        first, lowest = widths[0], config.channels[-1]
        self.conv_in = nn.Conv2d(3 if encoder else config.latent_channels, first, 3, padding=1)
        self.middle = nn.Sequential(
            VQResidual(config, lowest, lowest), VQAttention(config, lowest), VQResidual(config, lowest, lowest)
        )
        last = len(widths) - 1
        self.levels = nn.ModuleList(
            VQLevel(
                config,
                widths[max(index - 1, 0)],
                width,
                config.blocks if encoder else config.blocks + 1,
                attends=index == (last if encoder else 0),
                resize=None if index == last else "down" if encoder else "up",
            )
            for index, width in enumerate(widths)
        )
        self.norm_out = _norm(config, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.latent_channels if encoder else 3, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.conv_in(x_BCHW)
        parts = [*self.levels, self.middle] if self.encoder else [self.middle, *self.levels]
        for part in parts:
            x_BCHW = part(x_BCHW)
        return self.conv_out(F.silu(self.norm_out(x_BCHW)))


class VQGAN(nn.Module):
    """The published kind: GroupNorm, swish, attention, and an L2-normalised codebook."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VQCoder(config, encoder=True)
        self.decoder = VQCoder(config, encoder=False)
        # On a CPU a quarter of its time goes into reordering otherwise.
        self.decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.codebook = nn.Parameter(torch.randn(config.codebook_size, config.code_size))
        self.codes_in = nn.Conv2d(config.latent_channels, config.code_size, 1)
        self.codes_out = nn.Conv2d(config.code_size, config.latent_channels, 1)

    @property
    def codebook_size(self) -> int:
        """Entries of the codebook."""
        return self.config.codebook_size

    @property
    def factor(self) -> int:
        """Pixels a side of one code."""
        return self.config.factor

    @torch.no_grad()
    def encode(self, pixels_B3HW: Tensor) -> Tensor:
        """Pixels float (B, 3, H, W) in [-1, 1], sides multiples of `factor`, to codes int64 (B, L).

        Raises:
            ImageError: pictures of another shape.
        """
        if pixels_B3HW.ndim != 4 or pixels_B3HW.shape[1] != 3 or any(n % self.factor for n in pixels_B3HW.shape[2:]):
            raise ImageError(
                f"pictures of shape {tuple(pixels_B3HW.shape)}; the VQGAN takes (B, 3, H, W) with sides that are "
                f"multiples of {self.factor}: resize first"
            )
        z_BLC = self.codes_in(self.encoder(pixels_B3HW)).flatten(2).transpose(1, 2)
        # Of unit vectors the nearest is the one with the largest dot product.
        return (F.normalize(z_BLC, dim=-1) @ F.normalize(self.codebook, dim=-1).T).argmax(-1)

    @torch.no_grad()
    def decode_codes(self, codes_BL: Tensor) -> Tensor:
        """Codes int64 (B, L), L a square number, to pixels float32 (B, 3, H, W) clamped to [0, 1]."""
        return self.decode_raw(codes_BL).float().clamp(0, 1)

    def decode_raw(self, codes_BL: Tensor) -> Tensor:
        """As ``decode_codes``, before clamping. Raises ModelError for codes that are no square grid or out of range."""
        side = _checked_side(codes_BL, self.codebook_size)
        entries_BLC = F.normalize(self.codebook, dim=-1)[codes_BL]
        grid_BChw = entries_BLC.transpose(1, 2).unflatten(2, (side, side))
        latents_BChw = self.codes_out(grid_BChw).to(self.decoder.conv_in.weight.dtype)
        return self.decoder(latents_BChw.contiguous(memory_format=torch.channels_last)).float() * 0.5 + 0.5

    def save(self, folder: str | Path, storage: str = "float32") -> None:
        """Write config.json, model.safetensors and manifest.json into `folder`."""
        save_part(Path(folder), to_dict(self.config), self.state_dict(), storage)

    @classmethod
    def from_folder(cls, folder: str | Path, decoder: torch.dtype = torch.float32) -> VQGAN:
        """Read what ``save`` wrote, in eval mode and float32.

        Args:
            folder: the part.
            decoder: type of the decoder, float32 or bfloat16. On a CPU bfloat16 paints in half the time.

        Raises WeightsError or ConfigError.
        """
        config, state = load_part(Path(folder))
        sizes = from_dict(VQGANConfig, config, where=f"{folder}/config.json")
        canvas = assemble(lambda: cls(sizes), state, str(folder))
        canvas.decoder.to(decoder)
        return canvas


@dataclass(frozen=True, kw_only=True)
class LatentVQConfig:
    """Shape of a :class:`LatentVQ`."""

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """The continuous autoencoder whose latents are quantized."""
    codebook_size: int = 2048
    """Entries of the codebook."""

    def __post_init__(self) -> None:
        within(self, SIZE, "codebook_size")


class LatentVQ(nn.Module):
    """The nano kind: a continuous autoencoder first, then a k-means codebook over its latents.

    A VQ trained from scratch loses hue and costs more; the decoder may be tuned further on quantized latents.
    """

    codebook: Tensor

    def __init__(self, config: LatentVQConfig) -> None:
        super().__init__()
        self.config = config
        self.autoencoder = Autoencoder(config.autoencoder)
        self.register_buffer("codebook", torch.randn(config.codebook_size, config.autoencoder.latent_channels))

    @property
    def codebook_size(self) -> int:
        """Entries of the codebook."""
        return self.config.codebook_size

    @property
    def factor(self) -> int:
        """Pixels a side of one code."""
        return self.config.autoencoder.factor

    @torch.no_grad()
    def encode(self, pixels_B3HW: Tensor) -> Tensor:
        """Pixels float (B, 3, image_size, image_size) in [-1, 1] to codes int64 (B, L). Raises ImageError."""
        return self.quantize(self.autoencoder.encode(pixels_B3HW))

    @torch.no_grad()
    def quantize(self, latents_BChw: Tensor) -> Tensor:
        """Latents float (B, C, h, w) to the codes int64 (B, L) of their nearest entries."""
        rows = latents_BChw.float().flatten(2).transpose(1, 2)
        return _nearest(rows.flatten(0, 1), self.codebook)[0].view(rows.shape[:2])

    def latents(self, codes_BL: Tensor) -> Tensor:
        """Codes int64 (B, L) to their entries as latents (B, C, h, w). Raises ModelError."""
        side = _checked_side(codes_BL, self.codebook_size)
        return self.codebook[codes_BL].transpose(1, 2).unflatten(2, (side, side))

    @torch.no_grad()
    def decode_codes(self, codes_BL: Tensor) -> Tensor:
        """Codes int64 (B, L), L a square number, to pixels float32 (B, 3, H, W) in [0, 1]. Raises ModelError."""
        return self.autoencoder.decode_unit(self.latents(codes_BL))

    def without_encoder(self) -> LatentVQ:
        """The same canvas for painting alone, a copy in eval mode; its `encode` raises ModelError."""
        painter = self.autoencoder.without_encoder()
        canvas = LatentVQ(replace(self.config, autoencoder=painter.config))
        canvas.autoencoder = painter
        canvas.codebook.copy_(self.codebook)
        return canvas.eval()

    def save(self, folder: str | Path, storage: str = "float32") -> None:
        """Write config.json, model.safetensors and manifest.json into `folder`."""
        save_part(Path(folder), to_dict(self.config), self.state_dict(), storage)

    @classmethod
    def from_folder(cls, folder: str | Path) -> LatentVQ:
        """Read what ``save`` wrote, in eval mode and float32. Raises WeightsError or ConfigError."""
        config, state = load_part(Path(folder))
        sizes = from_dict(LatentVQConfig, config, where=f"{folder}/config.json")
        return assemble(lambda: cls(sizes), state, str(folder))


@torch.no_grad()
def fit_kmeans(latents: Tensor, count: int, generator: torch.Generator, rounds: int = 20) -> Tensor:
    """k-means of latents by Lloyd's rounds from random rows; the same input and seed give the same table.

    Args:
        latents: float (B, C, h, w), or rows (R, C); R at least `count`.
        count: entries to find.
        generator: CPU generator that picks the first entries.
        rounds: Lloyd rounds.

    Returns:
        float32 (count, C).

    Raises:
        DataError: fewer rows than entries.
    """
    rows = (latents.permute(0, 2, 3, 1).flatten(0, 2) if latents.ndim == 4 else latents).float().contiguous()
    if len(rows) < count:
        raise DataError(f"{len(rows)} latents for {count} codebook entries; give more pictures")
    centres = rows[torch.randperm(len(rows), generator=generator)[:count]].clone()
    for _ in range(rounds):
        codes, distances = _nearest(rows, centres)
        sums = torch.zeros_like(centres).index_add_(0, codes, rows)
        sizes = torch.bincount(codes, minlength=count)
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centres)
        empty = (sizes == 0).nonzero()[:, 0]
        # Empty entries move to the rows that are served worst.
        centres[empty] = rows[distances.topk(len(empty)).indices]
    return centres


def _nearest(rows: Tensor, table: Tensor, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """Index (R,) int64 of the nearest row of `table` and its squared distance (R,), in chunks to bound memory."""
    half = table.square().sum(1) / 2
    codes, distances = [], []
    for part in rows.split(chunk):
        best = torch.addmm(half, part, table.T, alpha=-1).min(1)
        codes.append(best.indices)
        distances.append(part.square().sum(1) + 2 * best.values)
    if not codes:
        return rows.new_zeros(0, dtype=torch.int64), rows.new_zeros(0)
    return torch.cat(codes), torch.cat(distances)


def _checked_side(codes_BL: Tensor, codebook_size: int) -> int:
    side = math.isqrt(codes_BL.shape[-1])
    if codes_BL.ndim != 2 or side == 0 or side * side != codes_BL.shape[1]:
        raise ModelError(f"picture codes of shape {tuple(codes_BL.shape)}; (pictures, a square number) is needed")
    if codes_BL.numel() and not 0 <= int(codes_BL.min()) <= int(codes_BL.max()) < codebook_size:
        raise ModelError(f"a picture code lies outside 0 to {codebook_size - 1}; use the codes of this codebook")
    return side
