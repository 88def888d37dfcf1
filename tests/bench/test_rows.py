"""Rows: medians, ratios, rates, shares and targets, from times that are made up."""

from __future__ import annotations

import pytest

from opentar.bench.rows import Measured, Need, row_of
from opentar.bench.run import MOST_RUNS, alternate
from opentar.bench.targets import AT_MOST, TARGETS, Target, met, targets_of

RATIO = Target(size="nano", work="decode", quantity="ratio", bound=2.5, aim=4)
SECONDS = Target(size="nano", work="decode", quantity="seconds", bound=2.0, aim=1)


def test_a_row_holds_medians_and_what_follows_from_them() -> None:
    row = row_of(
        "decode",
        "torch",
        [Measured(2.0, 20), Measured(1.0, 20), Measured(4.0, 20)],
        exact=True,
        baseline="the slow way",
        baseline_runs=[Measured(5.0), Measured(7.0), Measured(6.0)],
        need=Need(flops=1e9, bytes=2e9, seconds=0.5),
        peak_gb=1.5,
        baseline_peak_gb=3.0,
        targets=[RATIO, SECONDS],
    )
    assert (row.seconds, row.baseline_seconds, row.ratio) == (2.0, 6.0, 3.0)
    assert (row.tokens_per_s, row.share_of_limit, row.peak_gb, row.baseline_peak_gb) == (10.0, 0.25, 1.5, 3.0)
    assert (row.meets, row.target, row.runs) == (True, "ratio >= 2.5; seconds <= 2", 3)
    assert (row.flops, row.bytes, row.baseline) == (1e9, 2e9, "the slow way")


def test_what_was_not_measured_is_none() -> None:
    row = row_of("encode 16", "torch", [Measured(2.0)], exact=False, targets=[RATIO])
    assert row.baseline_seconds is row.ratio is row.tokens_per_s is row.share_of_limit is row.peak_gb is None
    assert row.meets is None and row.baseline is None and row.target == "ratio >= 2.5"


@pytest.mark.parametrize(
    ("targets", "values", "expected"),
    [
        ((), {"ratio": 9.0}, None),
        ((RATIO,), {"ratio": 2.5}, True),
        ((RATIO,), {"ratio": 2.49}, False),
        ((RATIO,), {"ratio": None}, None),
        ((SECONDS,), {"seconds": 2.0}, True),
        ((SECONDS,), {"seconds": 2.1}, False),
        ((RATIO, SECONDS), {"ratio": 3.0, "seconds": 2.1}, False),
    ],
)
def test_targets_are_bounds_from_one_side(targets, values, expected) -> None:
    assert met(targets, values) is expected


def test_targets_are_chosen_by_model_work_exactness_and_bits() -> None:
    exact = [target.bound for target in targets_of("tar-1.5b", "draw 81 ar", True, None)]
    several = [target.bound for target in targets_of("tar-1.5b", "draw 81 ar", False, None)]
    four_bits = targets_of("tar-1.5b", "draw 81 ar", True, 4)
    assert (exact, several) == ([2.5], [5])
    assert [target.quantity for target in four_bits] == ["ratio", "peak_gb"]
    assert targets_of("", "draw 81 ar", True, None) == targets_of("nano", "decode", True, None) == []


def test_the_aim_of_a_target_is_no_easier_than_its_bound() -> None:
    for target in TARGETS:
        assert target.aim <= target.bound if target.quantity in AT_MOST else target.aim >= target.bound, target


def test_sides_alternate_and_the_budget_holds() -> None:
    order: list[str] = []

    def side(name: str, seconds: float):
        def run() -> Measured:
            order.append(name)
            return Measured(seconds)

        return run

    runs = alternate([side("baseline", 2.0), side("ours", 1.0)], seconds=9.5)
    assert order == ["baseline", "ours"] * 3
    assert [[one.seconds for one in kept] for kept in runs] == [[2.0] * 3, [1.0] * 3]
    # Longer than the budget: once in any case. Short ones end too.
    assert [len(kept) for kept in alternate([side("baseline", 60.0)], seconds=1.0)] == [1]
    assert [len(kept) for kept in alternate([side("ours", 0.0)], seconds=1.0)] == [MOST_RUNS]
