"""Picture -> one feature vector per cell of the base grid: a SigLIP-type vision transformer.

Config alone decides the size. The published encoder (google/siglip2-so400m-patch14-384, trained further inside
TA-Tok) is `PUBLISHED`; the nano one has a small convolutional stem, because convolutions find shapes in far fewer
samples than a patch Linear does.

Shape suffixes: B batch, C channels, H height, W width, N = grid_side**2 cells row by row, D hidden size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from opentar.core.bounds import EPS, LAYERS, SIDE, SIZE, Range, within
from opentar.core.errors import ConfigError, shown
from opentar.image_to_tokens.layers import ATTENTION, check_activation, made, transformer_layer


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Sizes and kinds of a VisionEncoder."""

    image_size: int
    """side of the square input in pixels"""
    grid_side: int
    """cells a side of the output grid; the encoder gives grid_side**2 features"""
    stem: str = "patch"
    """pixels -> cells: "patch" (one convolution, kernel = stride, as published) or "conv" (a small residual CNN)"""
    stem_widths: tuple[int, ...] = ()
    """channels of each level of the "conv" stem"""
    stem_strides: tuple[int, ...] = ()
    """downsampling of each level of the "conv" stem; empty = 2 everywhere; the product is image_size / grid_side"""
    stem_blocks: tuple[int, ...] = ()
    """residual blocks of each level of the "conv" stem; empty = one each"""
    hidden_size: int
    """width of the features"""
    layers: int
    """transformer layers that are run; the published features are hidden_states[-2], so 26 of its 27"""
    heads: int
    """attention heads"""
    mlp_size: int
    """hidden width of the layers' MLP"""
    activation: str = "gelu_pytorch_tanh"
    """activation of the MLPs and of the "conv" stem, by its name in transformers; relu is the fast one on a CPU"""
    norm: str = "none"
    """norm inside the "conv" stem: "none" or "group" (GroupNorm, slow on a CPU)"""
    final_norm: bool = False
    """LayerNorm over the output; the published features are taken before it"""
    attention: str = "sdpa"
    """"sdpa" or "matmul": same result, different speed"""
    norm_eps: float = 1e-6
    """epsilon of all norms"""

    def __post_init__(self) -> None:
        within(self, SIDE, "image_size", "grid_side")
        within(self, SIZE, "hidden_size", "heads", "mlp_size", "stem_widths", "stem_strides")
        within(self, Range(0, LAYERS.high), "layers", "stem_blocks")
        within(self, EPS, "norm_eps")
        if self.hidden_size % self.heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}; change one of them"
            )
        choices = {"stem": ("patch", "conv"), "attention": ATTENTION, "norm": ("none", "group")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {shown(getattr(self, name))}; choose one of {', '.join(allowed)}")
        check_activation(self.activation)
        if self.stem == "conv":
            self._check_stem()
        elif self.stem_widths or self.stem_strides or self.stem_blocks or self.norm != "none":
            raise ConfigError(
                'stem_widths, stem_strides, stem_blocks and norm belong to stem "conv"; remove them or set it'
            )
        elif self.image_size < self.grid_side:
            raise ConfigError(f"image_size {self.image_size} is smaller than grid_side {self.grid_side}; enlarge it")
        elif self.image_size // (self.image_size // self.grid_side) != self.grid_side:
            raise ConfigError(f"image_size {self.image_size} cannot be cut into {self.grid_side} patches; change one")

    def _check_stem(self) -> None:
        if not self.stem_widths:
            raise ConfigError('stem "conv" needs stem_widths, such as (48, 96, 192)')
        for name, values in (("stem_strides", self.strides), ("stem_blocks", self.blocks)):
            if len(values) != len(self.stem_widths):
                raise ConfigError(
                    f"{name} {values} does not fit stem_widths {self.stem_widths}; give one for each level"
                )
        if self.grid_side * math.prod(self.strides) != self.image_size:
            raise ConfigError(
                f"image_size {self.image_size} is not grid_side {self.grid_side} x the product of the stem's strides"
                f" {self.strides}; change one of them"
            )

    @property
    def strides(self) -> tuple[int, ...]:
        """Downsampling of each level of the "conv" stem."""
        return self.stem_strides or (2,) * len(self.stem_widths)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Residual blocks of each level of the "conv" stem."""
        return self.stem_blocks or (1,) * len(self.stem_widths)

    @property
    def cells(self) -> int:
        """Number of features of one picture."""
        return self.grid_side**2


PUBLISHED = VisionConfig(image_size=384, grid_side=27, hidden_size=1152, layers=26, heads=16, mlp_size=4304)
"""google/siglip2-so400m-patch14-384 up to hidden_states[-2]"""


class ConvBlock(nn.Module):
    """x + conv(act(conv(act(x)))), 3x3, width kept; starts near the identity, which stands in for the missing norm."""

    def __init__(self, width: int, activation: str, norm: str, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(8, width), width, eps=norm_eps) if norm == "group" else nn.Identity()
        self.activation = made(activation)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        start_convolution(self.conv1, nonlinearity="relu")
        start_convolution(self.conv2, nonlinearity="relu")
        self.conv2.weight.data.mul_(0.1)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) float -> the same shape."""
        hidden = self.conv1(self.activation(self.norm(x_BCHW)))
        return x_BCHW + self.conv2(self.activation(hidden))


class ConvStem(nn.Module):
    """Strided convolutions with residual blocks between them, then a 1x1 convolution to the hidden size."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        widths = (3, *config.stem_widths)
        levels: list[nn.Module] = []
        for level, (stride, blocks) in enumerate(zip(config.strides, config.blocks, strict=True)):
            # kernel = stride + 2 with padding 1 gives exactly size / stride, and neighbours overlap
            down = nn.Conv2d(widths[level], widths[level + 1], stride + 2, stride=stride, padding=1)
            start_convolution(down, nonlinearity="linear" if level == 0 else "relu")
            if level:
                levels.append(made(config.activation))
            levels.append(down)
            width = widths[level + 1]
            levels += [ConvBlock(width, config.activation, config.norm, config.norm_eps) for _ in range(blocks)]
        self.levels = nn.Sequential(*levels)
        self.out = nn.Conv2d(widths[-1], config.hidden_size, 1)
        for weight in self.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, pixels_B3HW: torch.Tensor) -> torch.Tensor:
        """(B, 3, image_size, image_size) -> (B, hidden_size, grid_side, grid_side)."""
        return self.out(self.levels(pixels_B3HW.contiguous(memory_format=torch.channels_last)))


class VisionEncoder(nn.Module):
    """Stem, learned positions, pre-norm layers. Source: SigLIP (transformers), up to layer -2 as TA-Tok takes it."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        if config.stem == "conv":
            self.stem: nn.Module = ConvStem(config)
        else:
            patch = config.image_size // config.grid_side
            self.stem = nn.Conv2d(3, config.hidden_size, patch, stride=patch)
        self.position_ND = nn.Parameter(torch.randn(config.cells, config.hidden_size) * 0.02)
        self.layers = nn.ModuleList(
            transformer_layer(
                hidden_size=config.hidden_size,
                heads=config.heads,
                mlp_size=config.mlp_size,
                activation=config.activation,
                attention=config.attention,
                norm_eps=config.norm_eps,
                depth=config.layers,
            )
            for _ in range(config.layers)
        )
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps) if config.final_norm else nn.Identity()

    def forward(self, pixels_B3HW: torch.Tensor) -> torch.Tensor:
        """Features of every cell.

        Args:
            pixels_B3HW: (B, 3, image_size, image_size) float in [-1, 1].

        Returns:
            (B, grid_side**2, hidden_size) in the dtype of the weights (or of autocast), cells row by row.

        Raises:
            ConfigError: the pictures have another size.
        """
        size = self.config.image_size
        if pixels_B3HW.shape[1:] != (3, size, size):
            raise ConfigError(
                f"got pixels of shape {tuple(pixels_B3HW.shape)}; the encoder takes (batch, 3, {size}, {size})"
            )
        cells_BDHW = self.stem(pixels_B3HW.to(self.position_ND.dtype))
        x_BND = cells_BDHW.flatten(2).transpose(1, 2) + self.position_ND.to(cells_BDHW.dtype)
        for layer in self.layers:
            x_BND = layer(x_BND)
        return self.final_norm(x_BND)


def start_convolution(conv: nn.Conv2d, *, nonlinearity: Literal["linear", "relu"]) -> None:
    """Kaiming weights and a bias of zero."""
    nn.init.kaiming_normal_(conv.weight, nonlinearity=nonlinearity)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)


def pool_grid(feats_BND: torch.Tensor, pool: int) -> torch.Tensor:
    """Average-pool a square grid of features by `pool` (kernel = stride); a remainder of rows and columns is dropped.

    Args:
        feats_BND: (B, side**2, D), cells row by row.
        pool: 1, 2 or 3.

    Returns:
        (B, (side // pool)**2, D) of the same dtype.
    """
    if pool == 1:
        return feats_BND
    batch, cells, width = feats_BND.shape
    side = math.isqrt(cells)
    assert side * side == cells, cells
    grid_BDHW = feats_BND.transpose(1, 2).reshape(batch, width, side, side)
    return nn.functional.avg_pool2d(grid_BDHW, pool, stride=pool).flatten(2).transpose(1, 2)
