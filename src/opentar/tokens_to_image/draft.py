"""A draft of a picture's latents, all at once from the features of its codes: what the flow de-tokenizer refines.

Codes name things; outlines and inner parts have to be known by heart. A transformer that learns them from noise, token
by token, needs hundreds of thousands of pictures; one wide gated layer over the whole grid learns the mean picture of
its codes for a hundredth of the arithmetic. A gate multiplies, as shape and hue do (GLU, arXiv 2002.05202).

Legend: B batch, N features, D feature width, E width of a cell, C latent channels, h w latent grid.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from opentar.core.bounds import SIDE, SIZE, within
from opentar.core.errors import ConfigError
from opentar.tokens_to_image.detokenizer import grid_side


@dataclass(frozen=True, kw_only=True)
class DraftConfig:
    """Shape of a :class:`Draft`."""

    feature_size: int = 256
    """Width of the features it is made from."""
    latent_channels: int = 4
    """Channels of the latents."""
    latent_side: int = 16
    """Side of the latent grid."""
    side: int = 4
    """Side of the grid that features of any grid are resized to, by bilinear samples: it sees 16 cells of 12 x 12."""
    cell_size: int = 32
    """Width of one cell of that grid."""
    hidden_size: int = 704
    """Width of the gated layer."""
    dropout: float = 0.1
    """Share of the grid's numbers left out while training; those who learn from drafts meet their mistakes, too."""

    def __post_init__(self) -> None:
        within(self, SIDE, "latent_side", "side")
        within(self, SIZE, "feature_size", "latent_channels", "cell_size", "hidden_size")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; give a number from 0 to below 1")


class Draft(nn.Module):
    """Features (B, N, D) of any square grid to the mean latents (B, C, h, w) of their pictures."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.config = config
        cells = config.side**2 * config.cell_size
        self.features_in = nn.Linear(config.feature_size, config.cell_size)
        self.gated = nn.Linear(cells, 2 * config.hidden_size)
        self.latents_out = nn.Linear(config.hidden_size, config.latent_channels * config.latent_side**2)

    def forward(self, features_BND: Tensor) -> Tensor:
        """Raises ModelError for features of another width or no square grid."""
        config, side = self.config, grid_side(features_BND, self.config.feature_size)
        grid_BEss = self.features_in(features_BND).transpose(1, 2).unflatten(2, (side, side))
        flat_BX = F.interpolate(grid_BEss, size=config.side, mode="bilinear", align_corners=False).flatten(1)
        flat_BX = F.dropout(normed(flat_BX), config.dropout, self.training)
        gate_BH, value_BH = self.gated(flat_BX).chunk(2, -1)
        latents_BX = self.latents_out(normed(F.relu(gate_BH) * value_BH))
        return latents_BX.unflatten(1, (config.latent_channels, config.latent_side, config.latent_side))

    def loss(self, latents_BChw: Tensor, features_BND: Tensor) -> Tensor:
        """Mean squared error of the draft of clean latents, a float32 scalar."""
        return (self(features_BND).float() - latents_BChw.float()).square().mean()


def normed(x: Tensor) -> Tensor:
    """LayerNorm over the last dimension, without weights."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)
