"""Pictures as codes and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from opentar.core.errors import ConfigError, DataError, ImageError, ModelError
from opentar.tokens_to_image.autoencoder import AutoencoderConfig
from opentar.tokens_to_image.vqgan import VQGAN, LatentVQ, LatentVQConfig, VQGANConfig, fit_kmeans

Canvas = VQGAN | LatentVQ


@pytest.fixture(params=["vqgan", "latent"])
def canvas(request: pytest.FixtureRequest) -> Canvas:
    torch.manual_seed(0)
    if request.param == "vqgan":
        config = VQGANConfig(channels=(8, 8, 8, 16), blocks=1, latent_channels=8, codebook_size=64, groups=4)
        return VQGAN(config).eval()
    shape = AutoencoderConfig(image_size=32, encoder_channels=(8, 8, 8), decoder_channels=(8, 8, 8))
    return LatentVQ(LatentVQConfig(autoencoder=shape, codebook_size=64)).eval()


def test_codes_and_pixels_have_the_promised_shapes(canvas: Canvas) -> None:
    codes = canvas.encode(torch.rand(2, 3, 32, 32) * 2 - 1)
    assert codes.shape == (2, 16)
    assert codes.dtype == torch.int64
    pixels = canvas.decode_codes(codes)
    assert pixels.shape == (2, 3, 32, 32)
    assert 0 <= pixels.min() <= pixels.max() <= 1


def test_save_and_load(canvas: Canvas, tmp_path: Path) -> None:
    canvas.save(tmp_path / "part")
    loaded = type(canvas).from_folder(tmp_path / "part")
    pixels = torch.rand(1, 3, 32, 32)
    assert torch.equal(loaded.encode(pixels), canvas.encode(pixels))
    codes = torch.arange(16)[None]
    assert torch.equal(loaded.decode_codes(codes), canvas.decode_codes(codes))


def test_pictures_and_codes_that_do_not_fit_are_named(canvas: Canvas) -> None:
    with pytest.raises(ImageError, match="30"):
        canvas.encode(torch.zeros(1, 3, 30, 32))
    with pytest.raises(ModelError, match="square"):
        canvas.decode_codes(torch.zeros(1, 15, dtype=torch.int64))
    with pytest.raises(ModelError, match="outside 0 to 63"):
        canvas.decode_codes(torch.full((1, 16), 64))


def test_quantizing_takes_the_nearest_entry() -> None:
    shape = AutoencoderConfig(image_size=32, encoder_channels=(8, 8, 8), decoder_channels=(8, 8, 8))
    canvas = LatentVQ(LatentVQConfig(autoencoder=shape, codebook_size=64))
    codes = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))
    assert torch.equal(canvas.quantize(canvas.latents(codes) + 1e-3), codes)
    latents = torch.randn(2, 4, 4, 4)
    distances = torch.cdist(latents.flatten(2).transpose(1, 2), canvas.codebook[None].expand(2, -1, -1))
    assert torch.equal(canvas.quantize(latents), distances.argmin(-1))


def test_kmeans_repeats_and_finds_separate_clusters() -> None:
    rows = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]]).repeat(40, 1)
    rows = rows + 0.1 * torch.randn(120, 2, generator=torch.Generator().manual_seed(0))
    found = fit_kmeans(rows, 3, torch.Generator().manual_seed(3))
    assert torch.equal(found, fit_kmeans(rows, 3, torch.Generator().manual_seed(3)))
    assert torch.cdist(rows, found).min(1).values.max() < 1.0


def test_kmeans_uses_every_entry_and_lowers_the_error() -> None:
    latents = torch.randn(20, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    rows = latents.permute(0, 2, 3, 1).flatten(0, 2)
    errors = [
        torch.cdist(rows, fit_kmeans(latents, 64, torch.Generator().manual_seed(1), rounds)).min(1).values.mean()
        for rounds in (0, 2, 15)
    ]
    assert errors[0] > errors[1] > errors[2]
    found = fit_kmeans(latents, 64, torch.Generator().manual_seed(1))
    assert torch.cdist(rows, found).argmin(1).unique().numel() == 64


def test_too_few_latents_are_refused() -> None:
    with pytest.raises(DataError, match="3 latents for 8"):
        fit_kmeans(torch.zeros(3, 4), 8, torch.Generator())


def test_configs_that_cannot_be_are_named() -> None:
    with pytest.raises(ConfigError, match="multiples of groups 32"):
        VQGANConfig(channels=(30,))
    with pytest.raises(ConfigError, match="codebook_size is 0"):
        LatentVQConfig(codebook_size=0)


def test_canvas_without_encoder_paints_the_same():
    torch.manual_seed(0)
    whole = LatentVQ(LatentVQConfig(autoencoder=AutoencoderConfig(image_size=16), codebook_size=32)).eval()
    painter = whole.without_encoder()
    codes = torch.randint(32, (2, 4))
    assert torch.equal(painter.decode_codes(codes), whole.decode_codes(codes))
    with pytest.raises(ModelError, match="without its encoder"):
        painter.encode(torch.zeros(1, 3, 16, 16))


def test_a_decoder_in_bfloat16_paints_nearly_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = VQGANConfig(channels=(8, 8, 8, 16), blocks=1, latent_channels=8, codebook_size=64, groups=4)
    VQGAN(config).save(tmp_path / "part")
    codes = torch.arange(64)[None]
    whole, narrow = (
        VQGAN.from_folder(tmp_path / "part", decoder=dtype).decode_codes(codes)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert whole.dtype == narrow.dtype == torch.float32
    assert not torch.equal(whole, narrow)
    # 40 dB
    assert float((whole - narrow).square().mean()) < 1e-4
