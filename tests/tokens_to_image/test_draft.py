"""The draft: shapes, errors, dropout, and what the flow makes of it."""

from __future__ import annotations

import pytest
import torch

from opentar.core.errors import ConfigError, ModelError
from opentar.tokens_to_image.draft import Draft, DraftConfig
from opentar.tokens_to_image.flow import FlowConfig, FlowTransformer, draw_times

SHAPE = {"feature_size": 8, "latent_side": 4, "cell_size": 6, "hidden_size": 32}


def build(**changes: object) -> Draft:
    torch.manual_seed(0)
    return Draft(DraftConfig(**{**SHAPE, **changes}))  # type: ignore[arg-type]


@pytest.mark.parametrize("cells", [144, 36, 16])
def test_features_of_every_grid_become_one_picture_of_latents(cells: int) -> None:
    model = build().eval()
    features = torch.randn(3, cells, 8)
    together = model(features)
    assert together.shape == (3, 4, 4, 4)
    assert torch.allclose(torch.cat([model(one[None]) for one in features]), together, atol=1e-6)


def test_wrong_features_are_named() -> None:
    with pytest.raises(ModelError, match=r"takes \(pictures, codes, 8\)"):
        build()(torch.zeros(1, 16, 7))


def test_it_leaves_things_out_only_while_training() -> None:
    model, features = build(dropout=0.5), torch.randn(2, 16, 8)
    assert not torch.equal(model(features), model(features))
    model.eval()
    assert torch.equal(model(features), model(features))


def test_it_learns_a_product_of_two_things() -> None:
    """Shape in one cell, hue in another: the latents are the product, which no linear layer can give."""
    model = build(dropout=0.0)
    signs = torch.tensor([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
    features = torch.zeros(4, 16, 8)
    features[:, 0, 0], features[:, 5, 1] = signs[:, 0], signs[:, 1]
    latents = signs.prod(1).view(4, 1, 1, 1).expand(4, 4, 4, 4)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        loss = model.loss(latents, features)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"side": 0}, "side is 0"), ({"hidden_size": -1}, "hidden_size is -1"), ({"dropout": 1.0}, "dropout is 1.0")],
)
def test_configs_that_cannot_be_are_named(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        DraftConfig(**{**SHAPE, **wrong})  # type: ignore[arg-type]


def flow() -> FlowTransformer:
    torch.manual_seed(0)
    draft = DraftConfig(**SHAPE)  # type: ignore[arg-type]
    return FlowTransformer(
        FlowConfig(feature_size=8, latent_side=4, hidden_size=16, layers=2, heads=2, mlp_size=32, draft=draft)
    )


def test_a_flow_and_its_draft_must_fit() -> None:
    with pytest.raises(ConfigError, match="latent_side is 4, but its draft's is 16"):
        FlowConfig(feature_size=256, latent_side=4, draft=DraftConfig())


def test_every_parameter_of_both_gets_a_gradient() -> None:
    model = flow()
    latents, features, noise = torch.randn(6, 4, 4, 4), torch.randn(6, 36, 8), torch.randn(6, 4, 4, 4)
    dropped = torch.tensor([True] + [False] * 5)
    model.loss(latents, features, noise, draw_times(6), dropped_B=dropped).backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


def test_both_come_back_from_a_folder(tmp_path) -> None:
    model, features = flow().eval(), torch.randn(1, 16, 8)
    model.save(tmp_path / "flow")
    again = FlowTransformer.from_folder(tmp_path / "flow")
    assert again.config == model.config
    assert torch.allclose(again.condition(features), model.condition(features), atol=1e-6)
