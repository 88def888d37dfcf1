"""The nearest row of a large codebook, found in bfloat16 and decided in float64.

Of the 65,536 published rows all but a handful are out of the question for any feature. Products in bfloat16, several
times faster than float32 on CPUs that have them, say which: a row stays in while its rounded score is not further below
the best one than rounding can explain. The few that stay are compared in float64. So the code is that of exact
arithmetic on the float32 numbers, the same alone and in a batch. Only where rows crowd, so that more than 64 stay for a
feature, is a block of features compared with all rows in float32.

Shape suffixes: M features, K codebook entries, C codebook width, P pairs of a feature and a row that stayed in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from opentar.core.device import has_bf16_cpu

LEAST_NUMBERS = 1 << 24
"""A codebook of fewer numbers is compared in float32: that takes a few hundredths of a second at most"""
_BLOCK = 256
"""features compared at once; their scores take 34 MB for 65,536 rows"""
_MOST_PAIRS = 64
"""Rows that may stay in for a feature, on average over a block; with more, the block is compared in float32"""
_PAIRS_AT_ONCE = 2048
_HALF_ULP = 2.0**-9
"""Largest relative error of rounding to bfloat16"""
_SUM_ERROR = 2.0**-23
"""Relative error of a sum in float32, for each number added"""


def pays(table_KC: Tensor) -> bool:
    """Whether `NearestRows` is faster than a product in float32: a large table on a CPU that has bfloat16."""
    return table_KC.device.type == "cpu" and table_KC.numel() >= LEAST_NUMBERS and has_bf16_cpu()


class NearestRows:
    """Finds rows by their direction.

    Args:
        table_KC: (K, C) float32 rows of length 1. Half as much memory is taken beside it.
    """

    def __init__(self, table_KC: Tensor) -> None:
        self.table_KC = table_KC
        self.narrow_KC = torch.empty_like(table_KC, dtype=torch.bfloat16)
        lost: list[float] = []
        for wide, narrow in zip(table_KC.split(4096), self.narrow_KC.split(4096), strict=True):
            narrow.copy_(wide)
            lost.append(float((wide - narrow).norm(dim=-1).max()))
        self.lost = max(lost)
        """longest difference of a row and its rounded form"""

    def find(self, unit_MC: Tensor) -> Tensor:
        """Index (M,) int64 of the row with the largest dot product, the lowest among equals, for (M, C) float32."""
        parts = [self._find(block) for block in unit_MC.split(_BLOCK)]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)

    def _find(self, unit_MC: Tensor) -> Tensor:
        narrow_MC = unit_MC.bfloat16()
        scores_MK = narrow_MC @ self.narrow_KC.T
        inside_MK = scores_MK >= self._bar(unit_MC, narrow_MC, scores_MK)[:, None]
        if int(inside_MK.count_nonzero()) > _MOST_PAIRS * len(unit_MC):
            return (unit_MC @ self.table_KC.T).argmax(dim=-1)
        features_P, rows_P = inside_MK.nonzero(as_tuple=True)
        exact_P = torch.cat(
            [
                (unit_MC[features].double() * self.table_KC[rows].double()).sum(-1)
                for features, rows in zip(features_P.split(_PAIRS_AT_ONCE), rows_P.split(_PAIRS_AT_ONCE), strict=True)
            ]
        )
        best_M = exact_P.new_full((len(unit_MC),), -torch.inf).scatter_reduce(0, features_P, exact_P, "amax")
        won_P = exact_P == best_M[features_P]
        last_M = torch.full((len(unit_MC),), len(self.table_KC) - 1)
        return last_M.scatter_reduce(0, features_P[won_P], rows_P[won_P], "amin")

    def _bar(self, unit_MC: Tensor, narrow_MC: Tensor, scores_MK: Tensor) -> Tensor:
        """The rounded score (M,) below which no row can be the nearest.

        With z = z' + dz and c = c' + dc, where ' is rounded, z c - z' c' = dz c' + z dc: at most |dz| |c'| + |z| |dc|
        by Cauchy and Schwarz. The sum in float32 and the rounding of the score come on top, and all of it counts
        twice: for the best row and for the one compared with it.
        """
        long_M = unit_MC.norm(dim=-1)
        lost_M = (unit_MC - narrow_MC).norm(dim=-1)
        error_M = lost_M * (1 + self.lost) + (long_M + lost_M) * (self.lost + unit_MC.shape[1] * _SUM_ERROR)
        best_M = scores_MK.amax(dim=-1).float()
        bar_M = best_M - 2 * error_M
        bar_M = bar_M - 2 * _HALF_ULP * (best_M.abs() + bar_M.abs())
        # Rounded to bfloat16 for the comparison, it must not rise.
        return (bar_M - 2 * _HALF_ULP * bar_M.abs()).bfloat16()
