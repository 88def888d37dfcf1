"""What one model loses beside another on the same examples, with an interval.

Paired, because two models that are given the same example mostly succeed or fail together: the difference is known far
better than either score. Examples that hang together (the questions about one picture) are drawn together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opentar.core.errors import DataError

RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Loss:
    """How much less the second model has, in the unit of the outcomes, and the ends of the 95% interval."""

    lost: float
    low: float
    high: float
    differ: int
    """Examples whose outcomes differ; with 0 of them the interval is as wide as the resamples, which is nothing."""


def paired_loss(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[str],
    groups: Sequence[str] | None = None,
    factors: Mapping[str, float] | None = None,
    *,
    resamples: int = RESAMPLES,
) -> Loss:
    """The mean outcome of the first minus that of the second, by a bootstrap over clusters with a fixed seed.

    Args:
        first: one outcome an example.
        second: those of the other model, in the same order.
        clusters: what each example hangs together with; drawn as wholes.
        groups: the kind of each example; resampled each by itself, and the result is the mean of their means.
        factors: what the mean of each group is multiplied by.
        resamples: how many are drawn.

    Raises:
        DataError: no outcomes, or lists of different lengths.
    """
    groups = ["all"] * len(first) if groups is None else groups
    if not first or len({len(first), len(second), len(clusters), len(groups)}) != 1:
        raise DataError(
            f"{len(first)} and {len(second)} outcomes, {len(clusters)} clusters and {len(groups)} groups were given; "
            "give one of each an example, and at least one example"
        )
    random = np.random.default_rng(0)
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    names = sorted(set(groups))
    lost, drawn = 0.0, np.zeros(resamples)
    for name in names:
        inside = np.array([group == name for group in groups])
        own = [cluster for cluster, there in zip(clusters, inside, strict=True) if there]
        _, places = np.unique(own, return_inverse=True)
        sums, counts = np.bincount(places, difference[inside]), np.bincount(places).astype(np.float64)
        times = resampled(len(sums), resamples, random)
        factor = (factors or {}).get(name, 1.0) / len(names)
        lost += factor * sums.sum() / counts.sum()
        drawn += factor * (times @ sums) / (times @ counts)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Loss(lost=float(lost), low=float(low), high=float(high), differ=int((difference != 0).sum()))


def resampled(count: int, resamples: int, random: np.random.Generator) -> NDArray[np.float64]:
    """How often each of `count` things is in each resample, (resamples, count)."""
    return random.multinomial(count, np.full(count, 1 / count), resamples).astype(np.float64)
