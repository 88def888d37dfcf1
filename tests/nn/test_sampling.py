"""Sampling: what is kept, what is drawn, and that it repeats."""

from __future__ import annotations

import pytest
import torch

from opentar.core.errors import ConfigError
from opentar.nn.sampling import generators, guide, noise, probabilities, sample, top_k_top_p

LOGITS = torch.tensor([[3.0, 2.0, 2.0, 1.0, -1.0]])


def kept(top_k: int, top_p: float) -> list[int]:
    return top_k_top_p(LOGITS, top_k, top_p).isfinite()[0].nonzero()[:, 0].tolist()


def test_top_k_keeps_ties_with_the_last() -> None:
    assert kept(1, 1.0) == [0]
    assert kept(2, 1.0) == [0, 1, 2]
    assert kept(0, 1.0) == kept(99, 1.0) == [0, 1, 2, 3, 4]


def test_the_nucleus_keeps_the_entry_that_crosses_and_never_nothing() -> None:
    # The probabilities are .53 .19 .19 .07 .01.
    assert kept(0, 0.0) == [0]
    assert kept(0, 0.5) == [0]
    assert len(kept(0, 0.6)) == 2
    assert kept(0, 0.9) == [0, 1, 2]
    assert kept(0, 0.95) == [0, 1, 2, 3]


def test_the_logits_given_are_left_as_they_are() -> None:
    before = LOGITS.clone()
    top_k_top_p(LOGITS, 2, 0.5)
    assert torch.equal(LOGITS, before)


def test_guidance_one_is_the_condition_and_more_goes_beyond_it() -> None:
    cond, uncond = torch.tensor([1.0]), torch.tensor([0.5])
    assert guide(cond, uncond, 1.0) is cond
    assert guide(cond, uncond, 3.0).item() == 2.0


def test_temperature_zero_takes_the_likeliest_without_randomness() -> None:
    assert sample(LOGITS, temperature=0).tolist() == [0]
    assert probabilities(LOGITS, temperature=0).tolist() == [[1, 0, 0, 0, 0]]


def test_draws_follow_the_distribution() -> None:
    draws = sample(LOGITS.expand(20000, -1), generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(draws, minlength=5) / 20000
    assert torch.allclose(shares, LOGITS.softmax(-1)[0], atol=0.015)


def test_a_row_depends_on_its_own_seed_only() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    together = sample(logits, generator=generators([5, 6, 7], 3))
    alone = sample(logits[1:2], generator=generators([6], 1))
    assert together[1] == alone[0]
    assert torch.equal(together, sample(logits, generator=generators(5, 3)))


def test_noise_of_a_picture_does_not_depend_on_its_neighbours() -> None:
    assert torch.equal(noise(generators(5, 3), (2, 4))[2], noise(generators(7, 1), (2, 4))[0])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -3}, "top_k is -3"),
        ({"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        sample(LOGITS, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("seed", "named"), [(-1, "seed -1"), ([1, 2], "2 seeds for 3"), (2**63, "seed 9223")])
def test_seeds_out_of_range_are_named(seed: int | list[int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        generators(seed, 3)
