"""Weights of 4 bits chosen by what their layer is given: what one column loses, the columns after it make up for.

Frantar et al. 2022, "GPTQ" (arXiv 2210.17323), algorithm 1, in the form of core/quantization.py. Scale and middle of a
group are searched when its first column is reached, on the weights as they are then, with errors counted by how large
the inputs of their columns are: that alone halves what GPTQ leaves to lose (docs/lab.md).

Legend: T inputs, K columns (the width of the input), N rows of the weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from opentar.core.errors import ModelError
from opentar.core.quantization import Quantized, pairs, search_group, steps_of

_DAMPING = (0.01, 0.1, 1.0)
"""Shares of the mean of the diagonal that are added to it, until it can be inverted: inputs are few, and some never
occur."""
_BLOCK = 128
"""Columns whose errors are passed on together to those behind them; a multiple of every group."""


class InputGram:
    """Sum of x x' over the inputs of a layer."""

    def __init__(self, width: int) -> None:
        self.sum_KK = torch.zeros(width, width)

    def add(self, x: Tensor) -> None:
        """Count further inputs (..., K)."""
        x_TK = x.detach().reshape(-1, x.shape[-1]).float()
        self.sum_KK.addmm_(x_TK.T, x_TK)


def quantize_for(weight_NK: Tensor, gram_KK: Tensor, group: int, *, zero: bool = False) -> Quantized:
    """A matrix in the form int4/`group`, with `zero` int4z/`group`.

    Args:
        weight_NK: its numbers.
        gram_KK: float32, the sum of products of the inputs it is chosen for; left as it is.
        group: columns that share scale and middle.
        zero: see `search_group`.

    Raises:
        ModelError: the sums hold NaN or infinity.
    """
    left_NK = weight_NK.float().clone()
    rows, columns = left_NK.shape
    upper_KK = _errors_passed_on(gram_KK)
    weights_K = gram_KK.diagonal().clamp_min(gram_KK.diagonal().mean() * 1e-6)
    scale_NG2 = torch.empty(rows, columns // group, 2)
    whole_NK = torch.empty(rows, columns, dtype=torch.uint8)
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        own_KK = upper_KK[start:end, start:end]
        # Turned around, because columns are what is gone through.
        now_KN = left_NK[:, start:end].T.contiguous()
        lost_KN = torch.empty_like(now_KN)
        for place in range(end - start):
            column = start + place
            if column % group == 0:
                ahead = now_KN[place : place + group].T
                scale_NG2[:, column // group] = search_group(ahead, weights_K[column : column + group], zero=zero)
            step_N, middle_N = scale_NG2[:, column // group].unbind(-1)
            q_N = steps_of(now_KN[place, :, None], step_N, middle_N)[:, 0]
            whole_NK[:, column] = (q_N + 8).to(torch.uint8)
            lost_KN[place] = (now_KN[place] - (q_N * step_N + middle_N)) / own_KK[place, place]
            now_KN[place:].addr_(own_KK[place, place:], lost_KN[place], alpha=-1)
        left_NK[:, end:].addmm_(lost_KN.T, upper_KK[start:end, end:], alpha=-1)
    return Quantized(pairs(whole_NK), scale_NG2.half())


def _errors_passed_on(gram_KK: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse: row k says what the columns after k change by for the error of column k."""
    mean = float(gram_KK.diagonal().mean())
    if not 0 <= mean < float("inf"):
        raise ModelError("the inputs of a layer hold NaN or infinity; the model computes no numbers: get it again")
    for share in _DAMPING:
        damped_KK = gram_KK.clone()
        damped_KK.diagonal().add_(share * mean or 1.0)
        factor_KK, failed = torch.linalg.cholesky_ex(damped_KK)
        if not failed:
            upper_KK, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor_KK), upper=True)
        if not failed:
            return upper_KK
    # Errors stay where they are.
    return torch.eye(len(gram_KK))
