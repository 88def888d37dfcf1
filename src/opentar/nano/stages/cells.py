"""Features of the teacher that are kept, and their cells in a row: quicker to learn from than pictures.

Legend: B pictures, N cells of a grid, M cells of all pictures and scales, D feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from opentar.image_to_tokens.encoder import pool_grid
from opentar.image_to_tokens.ta_tok import cell_roles
from opentar.vocab import Scale


@dataclass(frozen=True)
class Kept:
    """The teacher's features of pictures and their labels."""

    cells: torch.Tensor
    """bfloat16 (B, N, D) on the base grid, not pooled."""
    labels: tuple[dict[str, torch.Tensor], ...]
    """`label_batch` by scale index."""

    def at(self, scale: Scale, rows: torch.Tensor | slice) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """float32 features (B, N, D) and labels of some pictures at a scale."""
        labels = {name: value[rows] for name, value in self.labels[scale.index].items()}
        return pool_grid(self.cells[rows].float(), scale.pool), labels

    def and_more(self, other: Kept) -> Kept:
        """Both one after the other."""
        merged = tuple(
            {name: torch.cat([value, more[name]]) for name, value in own.items()}
            for own, more in zip(self.labels, other.labels, strict=True)
        )
        return Kept(torch.cat([self.cells, other.cells]), merged)


@dataclass(frozen=True)
class Cells:
    """Cells of all kept pictures and of several scales, one after the other."""

    feats_MD: torch.Tensor
    """float32"""
    roles_M: torch.Tensor
    """int64"""
    labels: dict[str, torch.Tensor]
    """concept, colour (-1 for none) and background, int64 (M,)"""

    @classmethod
    def of(cls, kept: Kept, scales: Sequence[Scale], roles: int) -> Cells:
        """Flatten the kept pictures at `scales`."""
        feats, places, labels = [], [], []
        for scale in scales:
            feats_BND, of_BN = kept.at(scale, slice(None))
            feats.append(feats_BND.flatten(0, 1))
            places.append(cell_roles(scale.length, roles).repeat(len(feats_BND)))
            ground_BN = of_BN["background"][:, None].expand_as(of_BN["concept"])
            labels.append({**{name: of_BN[name].flatten() for name in ("concept", "colour")}, "background": ground_BN})
        merged = {name: torch.cat([one[name].flatten() for one in labels]) for name in labels[0]}
        return cls(torch.cat(feats), torch.cat(places), merged)

    @property
    def shows_M(self) -> torch.Tensor:
        """Whether a cell shows an object."""
        return self.labels["concept"] >= 0

    def some(self, picked_M: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and roles of some cells."""
        return self.feats_MD[picked_M], self.roles_M[picked_M]
