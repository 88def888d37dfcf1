"""Which rows of a codebook lie nearest to each other.

Shape suffixes: M codes that are asked about, K rows of the codebook, C its width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ROWS = 4096
"""Rows that are computed with at once: the published codebook in float32 would be 400 MB."""


class Neighbours:
    """The rows of a codebook by their cosine to one another.

    Args:
        table_KC: the rows, of any type and on any device; not copied.
    """

    def __init__(self, table_KC: Tensor) -> None:
        self._table_KC = table_KC.detach()

    def nearest(self, codes: Sequence[int], count: int) -> list[list[int]]:
        """For each code `count` rows, all where there are fewer: the code itself, then the others, nearest first."""
        own_MC = torch.nn.functional.normalize(self._table_KC[list(codes)].float(), dim=-1)
        best_M, found_M = own_MC.new_empty(len(codes), 0), torch.empty(len(codes), 0, dtype=torch.int64)
        for start in range(0, len(self._table_KC), _ROWS):
            rows_RC = torch.nn.functional.normalize(self._table_KC[start : start + _ROWS].float(), dim=-1)
            near_M, place_M = (own_MC @ rows_RC.T).topk(min(count, len(rows_RC)), dim=-1)
            near_M, place_M = torch.cat([best_M, near_M], -1), torch.cat([found_M, place_M.cpu() + start], -1)
            best_M, kept_M = near_M.topk(min(count, near_M.shape[1]), dim=-1)
            found_M = place_M.gather(-1, kept_M.cpu())
        # Rows that coincide tie with the code itself; it still comes first.
        return [
            [code, *(row for row in rows if row != code)][:count]
            for code, rows in zip(codes, found_M.tolist(), strict=True)
        ]
