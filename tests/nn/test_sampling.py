"""Sampling: what is kept, what is drawn, and that it repeats."""

from __future__ import annotations

import pytest
import torch

from opentar.core.errors import ConfigError, ModelError
from opentar.nn.sampling import (
    generators,
    guide,
    gumbel_noise,
    gumbel_sample,
    noise,
    probabilities,
    sample,
    top_k_top_p,
)

KNOWN = [2.834159200404896, 1.7404472771006925, -0.8617113523868352, -0.5489027973286853, -0.6829175286514261]
"""Noise of seed 3 at position 7: pictures change when this changes."""
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


# Noise fixed for each (seed, position).


@pytest.mark.parametrize(
    ("settings", "size"),
    [((1.0, 0, 1.0), 8), ((0.7, 0, 0.8), 8), ((1.3, 3, 1.0), 8), ((1.0, 5, 0.9), 8), ((1.0, 4, 0.95), 64)],
)
def test_fixed_noise_follows_the_distribution(settings: tuple[float, int, float], size: int) -> None:
    """Chi-square over 20,000 positions of one seed, then over 20,000 seeds at one position."""
    count = 20_000
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(2)) * 1.5
    expected = probabilities(logits, *settings)[0].double() * count
    kept = expected > 0
    for seeds, positions in (([9] * count, range(count)), (range(count), [9] * count)):
        drawn = torch.bincount(gumbel_sample(logits.expand(count, -1), *settings, seeds, positions), minlength=size)
        assert drawn[~kept].sum() == 0
        square = ((drawn - expected)[kept].square() / expected[kept]).sum().item()
        degrees = int(kept.sum()) - 1
        # Mean and deviation of chi-square: beyond four deviations about once in ten thousand.
        assert abs(square - degrees) < 4 * (2 * degrees) ** 0.5 + 4


def test_fixed_noise_is_the_rows_own_in_any_order_and_company() -> None:
    logits = torch.randn(6, 5000, generator=torch.Generator().manual_seed(3)) * 3
    seeds, positions = [4, 4, 5, 5, 4, 2**63 - 1], [0, 1, 0, 1, 2**20, 7]
    for settings in ((1.0, 0, 1.0), (0.9, 0, 0.9), (1.0, 50, 0.95), (1.0, 50, 1.0)):
        together = gumbel_sample(logits, *settings, seeds, positions)
        order = [3, 5, 0, 4, 1, 2]
        mixed = gumbel_sample(logits[order], *settings, [seeds[i] for i in order], [positions[i] for i in order])
        assert torch.equal(mixed, together[order])
        alone = [gumbel_sample(logits[i : i + 1], *settings, seeds[i : i + 1], positions[i : i + 1]) for i in range(6)]
        assert torch.equal(torch.cat(alone), together)


def test_noise_of_pairs_is_unrelated() -> None:
    """Neither equal, nor shifted, nor correlated: for neighbours in seed, in position, and for swapped pairs."""
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (2**32, 0), (0, 2**32), (2**32 + 1, 1), (3, 5), (5, 3), (8, 0), (4, 4)]
    made = gumbel_noise([seed for seed, _ in pairs], [position for _, position in pairs], 4096)
    assert torch.isfinite(made).all()
    centred = (made - made.mean(-1, keepdim=True)) / made.std(-1, keepdim=True)
    spectra = torch.fft.rfft(centred, dim=-1)
    for one in range(len(pairs)):
        for other in range(one):
            # The correlation at every shift at once; chance gives 0.016 at one shift, 0.06 as the largest of 4,096.
            shifted = torch.fft.irfft(spectra[one] * spectra[other].conj(), n=4096) / 4096
            assert shifted.abs().max() < 0.1, (pairs[one], pairs[other])
    assert abs(made.mean() - 0.5772) < 0.03
    assert abs(made.std() - torch.pi / 6**0.5) < 0.03


def test_noise_is_that_of_every_machine_and_size() -> None:
    noise = gumbel_noise([3], [7], 5)[0]
    assert torch.equal(gumbel_noise([1, 3], [1, 7], 4096)[1, :5], noise)
    assert torch.allclose(noise, torch.tensor(KNOWN, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("tied", [False, True])
def test_few_candidates_are_chosen_from_as_all_are(tied: bool) -> None:
    """Large vocabularies look at the likeliest only; what is kept is that of the sort, ties at the edge included."""
    logits = torch.randn(40, 8192, generator=torch.Generator().manual_seed(5)) * torch.linspace(0.1, 8, 40)[:, None]
    if tied:
        logits = logits.round()
    positions = list(range(40))
    for top_k, top_p in ((0, 0.5), (0, 0.95), (100, 1.0), (100, 0.9), (1, 1.0), (300, 0.0)):
        plain = top_k_top_p(logits, top_k, top_p).double() + gumbel_noise([1] * 40, positions, 8192)
        drawn = gumbel_sample(logits, 1.0, top_k, top_p, [1] * 40, positions)
        assert torch.equal(drawn, plain.argmax(-1)), (top_k, top_p)


def test_fixed_noise_with_temperature_zero_is_the_argmax() -> None:
    assert gumbel_sample(LOGITS.bfloat16(), 0, 0, 1.0, [3], [3]).tolist() == [0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("settings", [(0.0, 0, 1.0), (1.0, 0, 1.0), (1.0, 2, 0.9)])
def test_fixed_noise_refuses_broken_logits(bad: float, settings: tuple[float, int, float]) -> None:
    logits = torch.zeros(2, 50)
    logits[1, 3] = bad
    with pytest.raises(ModelError, match="NaN or infinity"):
        gumbel_sample(logits, *settings, [0, 1], [0, 0])


def test_fixed_noise_names_settings_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"top_p is 1\.5"):
        gumbel_sample(LOGITS, 1.0, 0, 1.5, [0], [0])
