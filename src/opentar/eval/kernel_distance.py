"""Kernel distance of two sets of features, and how much farther one set is than another.

Unbiased, with the cubic kernel (Binkowski et al. 2018, "Demystifying MMD GANs", arXiv 1801.01401). The features decide
what it means, so a report names them; of another network than Inception it is no KID.

Legend: N pictures, M others, D width of the features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from opentar.core.errors import DataError
from opentar.eval.paired import Loss, resampled

_RESAMPLES = 1000


def kernel_distance(drawn_ND: NDArray[np.floating], true_MD: NDArray[np.floating]) -> float:
    """0 in the mean for two sets of one kind; below 0 by chance. Raises DataError for fewer than two of either."""
    _check(drawn_ND, true_MD)
    among, beside = _kernel(drawn_ND, drawn_ND), _kernel(true_MD, true_MD)
    return _inside(among) + _inside(beside) - 2 * float(_kernel(drawn_ND, true_MD).mean())


def distance_gained(
    first_ND: NDArray[np.floating], second_ND: NDArray[np.floating], true_ND: NDArray[np.floating]
) -> Loss:
    """How much farther from the truth the second set is than the first, picture i of each drawn for one prompt.

    The interval is a bootstrap over prompts. Raises DataError for sets that are not equally large.
    """
    _check(first_ND, second_ND)
    _check(first_ND, true_ND)
    if not len(first_ND) == len(second_ND) == len(true_ND):
        raise DataError(f"{len(first_ND)}, {len(second_ND)} and {len(true_ND)} pictures were given; give one a prompt")
    # The distance of the truth to itself falls out of the difference.
    own = _kernel(second_ND, second_ND) - _kernel(first_ND, first_ND)
    np.fill_diagonal(own, 0.0)
    across = _kernel(second_ND, true_ND) - _kernel(first_ND, true_ND)
    count = len(own)
    gained = own.sum() / (count * (count - 1)) - 2 * across.mean()
    times = resampled(count, _RESAMPLES, np.random.default_rng(0))
    # A picture that was drawn twice is not compared with itself: its kernel would pass for likeness.
    pairs = times.sum(1) ** 2 - (times**2).sum(1)
    drawn = ((times @ own) * times).sum(1) / pairs - 2 * ((times @ across) * times).sum(1) / times.sum(1) ** 2
    low, high = np.quantile(drawn, (0.025, 0.975))
    differ = int((first_ND != second_ND).any(1).sum())
    return Loss(lost=float(gained), low=float(low), high=float(high), differ=differ)


def _kernel(one: NDArray[np.floating], two: NDArray[np.floating]) -> NDArray[np.float64]:
    made: NDArray[np.float64] = (one.astype(np.float64) @ two.astype(np.float64).T / one.shape[1] + 1) ** 3
    return made


def _inside(kernel: NDArray[np.float64]) -> float:
    count = len(kernel)
    return float((kernel.sum() - kernel.trace()) / (count * (count - 1)))


def _check(one: NDArray[np.floating], two: NDArray[np.floating]) -> None:
    if min(len(one), len(two)) < 2 or one.shape[1:] != two.shape[1:] or one.ndim != 2:
        raise DataError(f"features of shapes {one.shape} and {two.shape} were given; give two or more of one width")
