"""Weights of 4 bits chosen by what their layer is given: what one column loses, the columns after it make up for.

Frantar et al. 2022, "GPTQ" (arXiv 2210.17323), algorithm 1, in the form of core/quantization.py: scale and middle of a
group are searched when its first column is reached, on the weights as they are then.

Legend: T inputs, K columns (the width of the input), N rows of the weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from opentar.core.quantization import packed_pairs, search_group

_DAMPING = 0.01
"""Share of the mean of the diagonal that is added to it: inputs are few, and some never occur."""
_BLOCK = 128
"""Columns whose errors are passed on together to those behind them; a multiple of every group."""


class InputGram:
    """Sum of x x' over the inputs of a layer; float32 (K, K)."""

    def __init__(self, width: int) -> None:
        self.sum_KK = torch.zeros(width, width)
        self.inputs = 0

    def add(self, x_TK: Tensor) -> None:
        """Count further inputs (..., K)."""
        flat = x_TK.detach().reshape(-1, x_TK.shape[-1]).float()
        self.sum_KK.addmm_(flat.T, flat)
        self.inputs += len(flat)


def quantize_for(weight_NK: Tensor, gram_KK: Tensor, group: int, *, weighted: bool = False, order: bool = False, damping: float = _DAMPING) -> tuple[Tensor, Tensor]:
    """The two stored tensors of a matrix in the form int4/`group`, for inputs whose sum of products is `gram_KK`."""
    weight_NK = weight_NK.float().clone()
    rows, columns = weight_NK.shape
    gram_KK = gram_KK.clone()
    diagonal = gram_KK.diagonal()
    importance_K = diagonal.clone()
    diagonal += damping * diagonal.mean().clamp_min(1e-12)
    scale = torch.empty(rows, columns // group, 2)
    if order:
        order_K = importance_K.argsort(descending=True)
        for number, part in enumerate(weight_NK.split(group, 1)):
            scale[:, number] = search_group(part, importance_K[number*group:(number+1)*group] if weighted else None)
        weight_NK = weight_NK[:, order_K]
        gram_KK = gram_KK[order_K][:, order_K]
    else:
        order_K = torch.arange(columns)
    upper_KK = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(gram_KK)), upper=True)
    whole_NK = torch.empty(rows, columns, dtype=torch.uint8)
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        own = upper_KK[start:end, start:end]
        now = weight_NK[:, start:end]
        errors = torch.empty_like(now)
        for place in range(end - start):
            column = int(order_K[start + place])
            if not order and column % group == 0:
                imp = importance_K[column:column+group] if weighted else None
                scale[:, column // group] = search_group(now[:, place:place+group], imp)
            step, middle = scale[:, column // group].unbind(-1)
            q = ((now[:, place] - middle) / torch.where(step == 0, 1.0, step)).round_().clamp_(-8, 7)
            whole_NK[:, column] = (q + 8).to(torch.uint8)
            error = (now[:, place] - (q * step + middle)) / own[place, place]
            now[:, place:] -= error[:, None] * own[place, place:]
            errors[:, place] = error
        weight_NK[:, end:] -= errors @ upper_KK[start:end, end:]
    return packed_pairs(whole_NK), scale.half()
