"""The AR transformer: cache, loss, sampling."""

from __future__ import annotations

import math

import pytest
import torch

from opentar.core.errors import ConfigError
from opentar.tokens_to_image.ar import ARConfig, ARTransformer
from opentar.tokens_to_image.ar_blocks import Cache
from opentar.tokens_to_image.ar_decoding import sample_codes

SHAPE = {"feature_size": 8, "codes": 16, "codebook_size": 32, "hidden_size": 16, "heads": 2, "mlp_size": 32}


def build(**changes: object) -> ARTransformer:
    torch.manual_seed(0)
    model = ARTransformer(ARConfig(**{**SHAPE, "layers": 2, **changes}))  # type: ignore[arg-type]
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


def inputs(count: int = 3, features: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, features, 8, generator=generator), torch.randint(32, (count, 16), generator=generator)


@torch.no_grad()
@pytest.mark.parametrize(("features", "dtype"), [(144, "float32"), (36, "float32"), (1, "float32"), (36, "bfloat16")])
def test_the_cache_changes_nothing(features: int, dtype: str) -> None:
    model = build().to(getattr(torch, dtype))
    given, codes = inputs(features=features)
    given = given.to(model.positions)
    whole = model(given, codes[:, :-1])
    cache = Cache(model.config, 3, features + 15, given)
    steps = [model.step(model.prefix(given), cache)]
    steps += [model.step(model.codes_in(codes[:, index : index + 1]), cache) for index in range(15)]
    # Logits are as large as 10; bfloat16 keeps 8 bits.
    assert torch.allclose(torch.stack(steps, dim=1), whole, atol=1e-5 if dtype == "float32" else 0.15)


@torch.no_grad()
def test_greedy_drawing_equals_the_argmax_of_the_whole_sequence() -> None:
    model = build()
    given, _ = inputs()
    codes = sample_codes(model, given, temperature=0, guidance=1.0)
    assert torch.equal(model(given, codes[:, :-1]).argmax(-1), codes)


@torch.no_grad()
def test_a_code_sees_only_those_before_it() -> None:
    model = build()
    given, codes = inputs()
    changed = codes.clone()
    changed[:, 8] = (changed[:, 8] + 1) % 32
    before, after = model(given, codes), model(given, changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9], after[:, 9])


def test_the_loss_starts_at_the_logarithm_of_the_codebook() -> None:
    torch.manual_seed(0)
    model = ARTransformer(ARConfig(**SHAPE))  # type: ignore[arg-type]
    assert abs(model.loss(*inputs()).item() - math.log(32)) < 0.2


def test_every_parameter_gets_a_gradient() -> None:
    model = build()
    model.loss(*inputs(features=144)).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())


def test_a_picture_without_condition_does_not_see_its_features() -> None:
    model = build()
    given, codes = inputs()
    dropped = torch.ones(3, dtype=torch.bool)
    assert model.loss(given, codes, dropped_B=dropped) == model.loss(-given, codes, dropped_B=dropped)
    assert model.loss(given, codes, dropped_B=dropped) != model.loss(given, codes)


@torch.no_grad()
def test_both_kinds_of_attention_agree() -> None:
    assert torch.allclose(build()(*inputs()), build(attention="sdpa")(*inputs()), atol=1e-5)


@pytest.mark.parametrize("setting", [{"temperature": 0.1}, {"top_k": 1}, {"top_p": 0.01}, {"guidance": 4.0}])
def test_every_sampling_setting_changes_the_codes(setting: dict[str, float]) -> None:
    model, (given, _) = build(temperature=1.0, guidance=1.0, top_p=1.0), inputs()
    assert not torch.equal(sample_codes(model, given), sample_codes(model, given, **setting))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"codes": 15}, "codes 15"),
        ({"heads": 3}, "heads 3"),
        ({"prefix": 0}, "prefix is 0"),
        ({"top_p": 2.0}, "top_p is"),
    ],
)
def test_configs_that_cannot_be_are_named(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        ARConfig(**{**SHAPE, **wrong})  # type: ignore[arg-type]
