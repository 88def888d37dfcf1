"""Codes' rows -> features: a linear layer and a small vision transformer over any square grid.

It is drawn as a training aid in the paper, but every picture needs it: the de-tokenizers are conditioned on its output.

Shape suffixes: B batch, N cells of a square grid row by row, C codebook width, D hidden size, P rows of the
position table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from opentar.core.bounds import EPS, LAYERS, SIDE, SIZE, within
from opentar.core.errors import ConfigError, shown
from opentar.image_to_tokens.layers import ATTENTION, check_activation, transformer_layer


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes and kinds of a FeatureDecoder. The defaults are the published kinds (a SigLIP2 vision model, patch 1)."""

    input_size: int
    """width C of the codebook rows"""
    hidden_size: int
    """width of the transformer"""
    output_size: int
    """width of the features it gives; those of the teacher it imitates"""
    layers: int = 3
    """transformer layers"""
    heads: int = 12
    """attention heads"""
    mlp_size: int = 3072
    """hidden width of the layers' MLP"""
    position_side: int = 16
    """side of the learned position table, resized to each grid"""
    activation: str = "gelu_pytorch_tanh"
    """activation of the MLPs, by its name in transformers"""
    attention: str = "sdpa"
    """"sdpa" or "matmul": same result, different speed"""
    norm_eps: float = 1e-6
    """epsilon of the LayerNorms"""
    front_size: int | None = None
    """hidden width of a residual net over each single row, where what a row says is no linear matter; None = none, as
    published"""

    def __post_init__(self) -> None:
        within(self, SIZE, "input_size", "hidden_size", "output_size", "heads", "mlp_size", "front_size")
        within(self, LAYERS, "layers")
        within(self, SIDE, "position_side")
        within(self, EPS, "norm_eps")
        if self.hidden_size % self.heads:
            raise ConfigError(f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}; change one")
        if self.attention not in ATTENTION:
            raise ConfigError(f"attention is {shown(self.attention)}; choose one of {', '.join(ATTENTION)}")
        check_activation(self.activation)


class FeatureDecoder(nn.Module):
    """out_linear [+ front] -> patch Linear + resized positions -> layers -> post_layernorm -> Linear, Tanh, Linear."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.out_linear = nn.Linear(config.input_size, config.input_size)
        self.front: nn.Sequential | None = None
        if config.front_size is not None:
            self.front = nn.Sequential(
                nn.Linear(config.input_size, config.front_size),
                nn.ReLU(),
                nn.Linear(config.front_size, config.input_size),
            )
        self.patch_embedding = nn.Linear(config.input_size, config.hidden_size)
        self.position_PD = nn.Parameter(torch.randn(config.position_side**2, config.hidden_size) * 0.02)
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
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.task_layer = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size),
            nn.Tanh(),
            nn.Linear(config.hidden_size, config.output_size),
        )

    def forward(self, rows_BNC: torch.Tensor) -> torch.Tensor:
        """Codebook rows of square grids -> features.

        Args:
            rows_BNC: (B, N, input_size) float, N any square number.

        Returns:
            (B, N, output_size) in the dtype of the weights (or of autocast).

        Raises:
            ConfigError: N is not a square number.
        """
        cells = rows_BNC.shape[1]
        side = math.isqrt(cells)
        if side * side != cells or not cells:
            raise ConfigError(f"got {cells} codes, which make no square grid; give a whole grid, such as 36 or 144")
        x_BND = self.rows_in(rows_BNC.to(self.position_PD.dtype))
        x_BND = x_BND + resize_positions(self.position_PD, side).to(x_BND.dtype)
        for layer in self.layers:
            x_BND = layer(x_BND)
        return self.task_layer(self.post_layernorm(x_BND))

    def rows_in(self, rows_BNC: torch.Tensor) -> torch.Tensor:
        """What each single row says, before any looks at its neighbours: (..., input_size) -> (..., hidden_size)."""
        x_BNC = self.out_linear(rows_BNC)
        if self.front is not None:
            x_BNC = x_BNC + self.front(x_BNC)
        return self.patch_embedding(x_BNC)


def resize_positions(table_PD: torch.Tensor, side: int) -> torch.Tensor:
    """A square position table for another grid: bilinear, antialias, align_corners False, computed in float32.

    Args:
        table_PD: (P, D) float with P a square number, rows of the grid one after the other.
        side: cells a side of the wanted grid.

    Returns:
        (side**2, D) in the table's dtype.
    """
    own = math.isqrt(len(table_PD))
    assert own * own == len(table_PD), table_PD.shape
    if own == side:
        return table_PD
    grid_1DHW = table_PD.float().T.reshape(1, -1, own, own)
    resized = F.interpolate(grid_1DHW, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    return resized[0].flatten(1).T.to(table_PD.dtype)
