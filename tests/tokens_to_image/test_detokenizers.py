"""What every de-tokenizer of our own promises, proved on tiny ones with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from opentar.core.errors import ConfigError, ModelError, WeightsError
from opentar.tokens_to_image.ar import ARConfig, ARDetokenizer, ARTransformer
from opentar.tokens_to_image.autoencoder import Autoencoder, AutoencoderConfig
from opentar.tokens_to_image.detokenizer import Detokenizer, load_detokenizer
from opentar.tokens_to_image.flow import FlowConfig, FlowDetokenizer, FlowTransformer
from opentar.tokens_to_image.vqgan import VQGAN, LatentVQ, LatentVQConfig, VQGANConfig

CANVAS = AutoencoderConfig(image_size=32, encoder_channels=(8, 8, 8), decoder_channels=(8, 8, 8))
WIDTH = 12


def lively(module: nn.Module) -> nn.Module:
    """Weights far from their careful start, so that every input shows in the picture."""
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.3)
    return module


def flow() -> FlowDetokenizer:
    config = FlowConfig(feature_size=WIDTH, latent_side=4, hidden_size=16, layers=2, heads=2, mlp_size=32, steps=3)
    return FlowDetokenizer(lively(FlowTransformer(config)), Autoencoder(CANVAS))  # type: ignore[arg-type]


def ar_config() -> ARConfig:
    return ARConfig(
        feature_size=WIDTH, codes=16, codebook_size=32, hidden_size=16, layers=2, heads=2, mlp_size=32, temperature=1.0
    )


def ar_latent() -> ARDetokenizer:
    canvas = LatentVQ(LatentVQConfig(autoencoder=CANVAS, codebook_size=32))
    return ARDetokenizer(lively(ARTransformer(ar_config())), canvas)  # type: ignore[arg-type]


def ar_vqgan() -> ARDetokenizer:
    canvas = VQGAN(VQGANConfig(channels=(8, 8, 16), blocks=1, latent_channels=8, codebook_size=32, groups=4))
    return ARDetokenizer(lively(ARTransformer(ar_config())), canvas)  # type: ignore[arg-type]


Painter = FlowDetokenizer | ARDetokenizer


@pytest.fixture(params=[flow, ar_latent, ar_vqgan])
def painter(request: pytest.FixtureRequest) -> Painter:
    torch.manual_seed(0)
    build: Callable[[], Painter] = request.param
    return build()


def features(count: int = 3, codes: int = 36) -> torch.Tensor:
    return torch.randn(count, codes, WIDTH, generator=torch.Generator().manual_seed(1))


def test_it_keeps_the_protocol(painter: Painter) -> None:
    assert isinstance(painter, Detokenizer)
    assert painter.feature_size == WIDTH


@pytest.mark.parametrize("codes", [144, 36, 16])
def test_every_grid_becomes_a_picture(painter: Painter, codes: int) -> None:
    pixels = painter.decode(features(2, codes))
    assert pixels.shape == (2, 3, painter.image_size, painter.image_size)
    assert pixels.dtype == torch.float32
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert not torch.allclose(pixels[0], pixels[1], atol=1e-3)


def test_the_features_show(painter: Painter) -> None:
    assert not torch.allclose(painter.decode(features()), painter.decode(-features()), atol=1e-3)


def test_the_same_seed_gives_the_same_picture_and_another_seed_another(painter: Painter) -> None:
    given = features()
    assert torch.equal(painter.decode(given, seed=4), painter.decode(given, seed=4))
    assert not torch.allclose(painter.decode(given, seed=4), painter.decode(given, seed=9), atol=1e-3)


def test_a_picture_of_a_batch_equals_the_picture_alone(painter: Painter) -> None:
    given = features()
    together = painter.decode(given, seed=[5, 6, 7])
    assert torch.allclose(together[1:2], painter.decode(given[1:2], seed=6), atol=1e-5)
    assert torch.equal(together, painter.decode(given, seed=5))


def test_guidance_changes_the_picture(painter: Painter) -> None:
    given = features()
    assert not torch.allclose(painter.decode(given, guidance=1.0), painter.decode(given, guidance=3.0), atol=1e-3)


def test_the_callback_is_called_after_every_step_and_can_show_and_stop(painter: Painter) -> None:
    calls, previews = [], []

    def look(done: int, total: int, preview: Callable[[], torch.Tensor]) -> None:
        calls.append((done, total))
        if done in (1, total):
            previews.append(preview())

    made = painter.decode(features(1), callback=look)
    total = calls[-1][1]
    assert calls == [(done, total) for done in range(1, total + 1)]
    assert torch.allclose(previews[-1], made, atol=1e-5)
    assert previews[0].shape == made.shape

    def stop(done: int, total: int, preview: Callable[[], torch.Tensor]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        painter.decode(features(1), callback=stop)


def test_save_and_load_paint_the_same(painter: Painter, tmp_path: Path) -> None:
    painter.save(tmp_path / "detok")
    loaded = load_detokenizer(tmp_path / "detok")
    assert type(loaded) is type(painter)
    assert torch.equal(loaded.decode(features(), seed=3), painter.decode(features(), seed=3))


def test_a_damaged_folder_is_named(painter: Painter, tmp_path: Path) -> None:
    painter.save(tmp_path / "detok")
    weights = tmp_path / "detok" / "transformer" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load_detokenizer(tmp_path / "detok")


def test_a_folder_of_another_kind_is_named(tmp_path: Path) -> None:
    Autoencoder(CANVAS).save(tmp_path / "part")
    with pytest.raises(ModelError, match=r"'flow', 'ar' or a SANA folder"):
        load_detokenizer(tmp_path / "part")


def test_features_that_do_not_fit_are_named(painter: Painter) -> None:
    with pytest.raises(ModelError, match=r"takes \(pictures, codes, 12\)"):
        painter.decode(torch.zeros(1, 36, WIDTH + 1))
    with pytest.raises(ModelError, match="35 features are not a square grid"):
        painter.decode(torch.zeros(1, 35, WIDTH))
    with pytest.raises(ModelError, match="169 features"):
        painter.decode(torch.zeros(1, 169, WIDTH))


@pytest.mark.parametrize("settings", [{"guidance": 0.5}, {"guidance": float("nan")}, {"steps": 0}, {"seed": -1}])
def test_settings_out_of_range_are_named(painter: Painter, settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        painter.decode(features(1), **settings)  # type: ignore[arg-type]


def test_parts_that_were_not_trained_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="trained together"):
        FlowDetokenizer(flow().transformer, Autoencoder(AutoencoderConfig()))
    with pytest.raises(ConfigError, match="trained together"):
        ARDetokenizer(ar_latent().transformer, LatentVQ(LatentVQConfig(autoencoder=CANVAS, codebook_size=33)))
