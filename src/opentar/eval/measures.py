"""Measures of pictures and codes that need no judge and none of its packages, so that training can take them too."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from opentar.core.errors import DataError


def psnr(first: NDArray[np.uint8], second: NDArray[np.uint8], inside: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures of one shape, over `inside` (H, W) where given.

    Equal pictures give 99. Raises DataError for different shapes or an empty region.
    """
    if first.shape != second.shape:
        raise DataError(f"pictures of shapes {first.shape} and {second.shape} were given; PSNR needs equal shapes")
    difference = first.astype(np.float64) - second.astype(np.float64)
    if inside is not None:
        difference = difference[inside]
    if difference.size == 0:
        raise DataError("an empty region was given; PSNR needs at least one pixel")
    error = float(np.mean(difference**2))
    return min(99.0, 10 * math.log10(255**2 / error)) if error else 99.0


def usage(counts: Sequence[torch.Tensor]) -> dict[str, float]:
    """How much of the codebook is in use, from one histogram (codebook_size,) of codes a scale.

    `used_I`: share of the codes that occur, 0 to 1. `perplexity_I`: exp of the codes' entropy, 1 to codebook_size.
    I is the place in `counts`. A histogram without any code gives 0 and 1.
    """
    scores = {}
    for index, count in enumerate(counts):
        share = count.double() / count.sum().clamp(min=1)
        scores[f"used_{index}"] = float((count > 0).double().mean())
        scores[f"perplexity_{index}"] = float((-(share * share.clamp(min=1e-12).log()).sum()).exp())
    return scores
