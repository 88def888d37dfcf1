"""The flow transformer: loss, condition, sampling."""

from __future__ import annotations

import pytest
import torch

from opentar.core.errors import ConfigError
from opentar.tokens_to_image.flow import FlowConfig, FlowTransformer, draw_times, sample_latents

SHAPE = {"feature_size": 8, "latent_side": 4, "hidden_size": 16, "layers": 2, "heads": 2, "mlp_size": 32}


def build(**changes: object) -> FlowTransformer:
    torch.manual_seed(0)
    return FlowTransformer(FlowConfig(**{**SHAPE, **changes}))  # type: ignore[arg-type]


def batch(count: int = 6) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return torch.randn(count, 4, 4, 4), torch.randn(count, 36, 8), torch.randn(count, 4, 4, 4), draw_times(count)


def test_the_loss_starts_near_the_variance_of_the_velocity() -> None:
    assert 1.0 < build().loss(*batch(200)).item() < 3.0


def test_every_parameter_gets_a_gradient() -> None:
    model = build()
    model.loss(*batch(), dropped_B=torch.tensor([True] + [False] * 5)).backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


def test_a_picture_without_condition_does_not_see_its_features() -> None:
    model = build()
    latents, features, noise, times = batch()
    dropped = torch.ones(6, dtype=torch.bool)
    first = model.loss(latents, features, noise, times, dropped_B=dropped)
    second = model.loss(latents, -features, noise, times, dropped_B=dropped)
    assert first == second
    assert first != model.loss(latents, features, noise, times)


def test_weights_weigh() -> None:
    model = build()
    weight = torch.ones(6, 4, 4)
    assert torch.isclose(model.loss(*batch()), model.loss(*batch(), weight_Bhw=weight))
    assert torch.isclose(2 * model.loss(*batch()), model.loss(*batch(), weight_Bhw=2 * weight))


@pytest.mark.parametrize("changes", [{"attention": "sdpa"}])
def test_both_kinds_of_attention_agree(changes: dict[str, object]) -> None:
    assert torch.isclose(build().loss(*batch()), build(**changes).loss(*batch()), atol=1e-5)


def test_the_activation_is_a_choice() -> None:
    assert build().loss(*batch()) != build(activation="gelu").loss(*batch())


def test_the_scale_side_is_told_apart() -> None:
    model = build()
    flat = torch.zeros(1, 36, 8)
    assert not torch.allclose(model.condition(flat), model.condition(flat[:, :16]))


def test_features_reach_the_latents_at_their_own_place() -> None:
    model = build()
    features = torch.zeros(1, 16, 8)
    features[0, 0] = 1.0
    moved = (model.condition(features) - model.condition(torch.zeros(1, 16, 8))).abs().sum(-1)[0]
    assert moved.nonzero()[:, 0].tolist() == [0]


def test_it_learns_and_the_sampler_follows_the_line() -> None:
    """One latent a feature: after learning, sampling must bring that latent back."""
    model = build(layers=2, hidden_size=32)
    features = torch.tensor([-1.0, 1.0]).view(2, 1, 1).expand(2, 16, 8).contiguous()
    latents = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 4, 4, 4)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        noise = torch.randn(32, 4, 4, 4, generator=generator)
        loss = model.loss(latents.repeat(16, 1, 1, 1), features.repeat(16, 1, 1), noise, draw_times(32, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made = sample_latents(model, features, steps=10, guidance=1.0)
    assert (made - latents).abs().mean() < 0.25


def test_more_steps_change_the_result() -> None:
    model = build()
    torch.nn.init.normal_(model.latents_out.weight)
    features = torch.randn(1, 16, 8)
    assert not torch.allclose(
        sample_latents(model, features, steps=2), sample_latents(model, features, steps=8), atol=1e-4
    )


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"latent_side": 5}, "latent_side 5"), ({"heads": 3}, "heads 3"), ({"steps": 0}, "steps is 0")],
)
def test_configs_that_cannot_be_are_named(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        FlowConfig(**{**SHAPE, **wrong})  # type: ignore[arg-type]


def test_shifted_times_lie_nearer_to_noise_and_inside_the_way():
    plain, shifted = (draw_times(2000, torch.Generator().manual_seed(0), shift=shift) for shift in (1.0, 3.0))
    assert torch.all(shifted > plain) and float(plain.min()) > 0 and float(shifted.max()) < 1
    assert float(shifted.median()) == pytest.approx(0.75, abs=0.03)
