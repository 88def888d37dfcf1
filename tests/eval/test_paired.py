"""Paired losses and their intervals, against numbers that can be known."""

from __future__ import annotations

import numpy as np
import pytest

from opentar.core.errors import DataError
from opentar.eval.kernel_distance import distance_gained, kernel_distance
from opentar.eval.paired import paired_loss


def test_the_interval_is_that_of_the_normal_approximation() -> None:
    random = np.random.default_rng(3)
    first, second = (random.random(2000) < 0.8).astype(float), (random.random(2000) < 0.7).astype(float)
    loss = paired_loss(first.tolist(), second.tolist(), [str(place) for place in range(2000)])
    difference = first - second
    half = 1.96 * difference.std() / np.sqrt(2000)
    assert loss.lost == pytest.approx(difference.mean())
    assert loss.low == pytest.approx(difference.mean() - half, abs=0.003)
    assert loss.high == pytest.approx(difference.mean() + half, abs=0.003)
    assert loss.differ == int((difference != 0).sum())


def test_the_same_outcomes_lose_nothing() -> None:
    loss = paired_loss([1.0, 0.0, 1.0], [1.0, 0.0, 1.0], ["a", "b", "c"])
    assert (loss.lost, loss.low, loss.high, loss.differ) == (0, 0, 0, 0)


def test_examples_that_hang_together_widen_the_interval() -> None:
    random = np.random.default_rng(4)
    own = (random.random(100) < 0.5).astype(float)
    first, second = np.repeat(own, 10).tolist(), [0.5] * 1000
    alone = paired_loss(first, second, [str(place) for place in range(1000)])
    together = paired_loss(first, second, [str(place // 10) for place in range(1000)])
    assert together.lost == pytest.approx(alone.lost)
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


def test_groups_count_alike_and_times_their_factor() -> None:
    first, second = [1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0, 0.0]
    groups, clusters = ["a", "a", "a", "a", "b"], ["1", "2", "3", "4", "5"]
    assert paired_loss(first, second, clusters, groups).lost == pytest.approx((0.25 + 1) / 2)
    assert paired_loss(first, second, clusters, groups, {"b": 2.0}).lost == pytest.approx((0.25 + 2) / 2)


def test_lists_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="2 and 1 outcomes"):
        paired_loss([1.0, 0.0], [1.0], ["a", "b"])
    with pytest.raises(DataError, match="at least one example"):
        paired_loss([], [], [])


def test_distance_of_one_kind_is_nothing_and_of_two_it_grows() -> None:
    random = np.random.default_rng(5)
    true, same = random.normal(size=(300, 8)), random.normal(size=(300, 8))
    near, far = same + 0.3, same + 1.0
    assert abs(kernel_distance(same, true)) < 0.05 < kernel_distance(near, true) < kernel_distance(far, true)
    gained = distance_gained(near, far, true)
    assert gained.lost == pytest.approx(kernel_distance(far, true) - kernel_distance(near, true))
    assert 0 < gained.low < gained.lost < gained.high and gained.differ == 300
    nothing = distance_gained(near, near, true)
    assert (nothing.lost, nothing.low, nothing.high, nothing.differ) == (0, 0, 0, 0)


def test_features_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="give two or more of one width"):
        kernel_distance(np.zeros((5, 4)), np.zeros((5, 3)))
    with pytest.raises(DataError, match="one a prompt"):
        distance_gained(np.zeros((5, 4)), np.zeros((5, 4)), np.zeros((6, 4)))
