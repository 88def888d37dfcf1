"""The continuous autoencoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from opentar.core.errors import ConfigError, ImageError, ModelError
from opentar.tokens_to_image.autoencoder import Autoencoder, AutoencoderConfig

TINY = AutoencoderConfig(image_size=16, encoder_channels=(8, 16, 16), decoder_channels=(16, 16, 8))


@pytest.fixture
def model() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(TINY).eval()


def test_shapes_of_the_default() -> None:
    model = Autoencoder(AutoencoderConfig())
    made, latents = model(torch.zeros(1, 3, 128, 128))
    assert latents.shape == (1, 4, 16, 16)
    assert made.shape == (1, 3, 128, 128)


def test_fit_scale_makes_unit_latents_and_does_not_change_the_picture(model: Autoencoder) -> None:
    pixels = torch.rand(32, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        before = model(pixels)[0]
        model.fit_scale(pixels)
        after, latents = model(pixels)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-4)
    assert torch.allclose(before, after, atol=1e-4)


def test_it_learns(model: Autoencoder) -> None:
    pixels = torch.rand(8, 3, 1, 1).expand(-1, -1, 16, 16) * 2 - 1
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    losses = []
    for _ in range(40):
        loss = (model(pixels)[0] - pixels).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_every_parameter_gets_a_gradient(model: Autoencoder) -> None:
    model(torch.rand(2, 3, 16, 16))[0].square().mean().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_save_and_load(model: Autoencoder, tmp_path: Path, storage: str) -> None:
    pixels = torch.rand(2, 3, 16, 16)
    model.fit_scale(pixels)
    model.save(tmp_path / "part", storage)
    loaded = Autoencoder.from_folder(tmp_path / "part")
    assert loaded.config == TINY
    with torch.no_grad():
        difference = (loaded(pixels)[0] - model(pixels)[0]).abs().max()
    assert difference == 0 if storage == "float32" else difference < 0.1


def test_pictures_of_another_size_are_refused(model: Autoencoder) -> None:
    with pytest.raises(ImageError, match=r"\(1, 3, 20, 16\).*resize"):
        model.encode(torch.zeros(1, 3, 20, 16))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"image_size": 20}, "image_size 20"),
        ({"encoder_blocks": (1,)}, "encoder_blocks has 1"),
        ({"latent_scale": 0.0}, "latent_scale"),
    ],
)
def test_configs_that_cannot_be_are_named(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        AutoencoderConfig(**wrong)  # type: ignore[arg-type]


def test_without_encoder_paints_the_same_and_is_smaller(tmp_path):
    torch.manual_seed(0)
    whole = Autoencoder(AutoencoderConfig(image_size=16)).eval()
    painter = whole.without_encoder()
    painter.save(tmp_path / "painter")
    loaded = Autoencoder.from_folder(tmp_path / "painter")
    latents = torch.randn(2, 4, 2, 2)
    assert torch.equal(loaded.decode_unit(latents), whole.decode_unit(latents))
    assert sum(p.numel() for p in loaded.parameters()) < 0.75 * sum(p.numel() for p in whole.parameters())
    with pytest.raises(ModelError, match="without its encoder"):
        loaded.encode(torch.zeros(1, 3, 16, 16))
