"""Strips of SANA's autoencoder leave no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from opentar.tokens_to_image.sana_strips import _halo, _local_levels, decode_latents

diffusers = pytest.importorskip("diffusers")


def autoencoder(**changes: Any) -> Any:
    """Of the published kind: convolutions in the three last levels, attention in the deep ones."""
    blocks = ["ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"]
    settings: dict[str, Any] = {
        "latent_channels": 4,
        "attention_head_dim": 4,
        "encoder_block_types": blocks,
        "decoder_block_types": blocks,
        "encoder_block_out_channels": [8, 8, 8, 8],
        "decoder_block_out_channels": [8, 8, 8, 8],
        "encoder_layers_per_block": [1, 1, 1, 1],
        "decoder_layers_per_block": [3, 3, 3, 2],
        "encoder_qkv_multiscales": [[], [], [], [5]],
        "decoder_qkv_multiscales": [[], [], [], [5]],
        "downsample_block_type": "conv",
        "upsample_block_type": "interpolate",
    }
    torch.manual_seed(0)
    return diffusers.AutoencoderDC(**settings | changes).eval()


@torch.no_grad()
@pytest.mark.parametrize("upsample", ["interpolate", "pixel_shuffle"])
@pytest.mark.parametrize("strip", [1, 40 * 48, 96 * 80])
def test_strips_equal_the_whole(upsample: str, strip: int) -> None:
    vae = autoencoder(upsample_block_type=upsample)
    latents = torch.randn(2, 4, 12, 10, generator=torch.Generator().manual_seed(1))
    whole = vae.decode(latents, return_dict=False)[0]
    assert whole.shape == (2, 3, 96, 80)
    made = decode_latents(vae, latents, strip)
    if strip == 96 * 80:
        assert torch.equal(made, whole)
    else:
        torch.testing.assert_close(made, whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_fewer_rows_around_a_strip_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = autoencoder()
    latents = torch.randn(1, 4, 12, 10, generator=torch.Generator().manual_seed(1))
    assert _local_levels(vae.decoder) == 2
    assert _halo(vae.decoder, 2) == 7
    monkeypatch.setattr("opentar.tokens_to_image.sana_strips._halo", lambda decoder, levels: 3)
    difference = decode_latents(vae, latents, 24 * 80) - vae.decode(latents, return_dict=False)[0]
    assert float(difference.abs().max()) > 1e-4


@torch.no_grad()
def test_levels_in_which_all_pixels_meet_are_left_whole() -> None:
    attends = ["EfficientViTBlock"] * 4
    vae = autoencoder(decoder_block_types=attends, decoder_qkv_multiscales=[[5]] * 4)
    assert _local_levels(vae.decoder) == 0
    latents = torch.randn(1, 4, 4, 4)
    assert torch.equal(decode_latents(vae, latents, 1), vae.decode(latents, return_dict=False)[0])
    assert _local_levels(autoencoder(decoder_norm_types="batch_norm").decoder) == 0
