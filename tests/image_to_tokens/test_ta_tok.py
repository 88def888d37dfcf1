from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from opentar.core.config import from_dict, to_dict
from opentar.core.errors import ConfigError, WeightsError
from opentar.image_to_tokens.ta_tok import TATok, TATokConfig, cell_roles
from opentar.vocab import Vocab


@pytest.mark.parametrize("index", [0, 1, 2])
def test_every_scale(tokenizer: TATok, vocab: Vocab, pixels: torch.Tensor, index: int) -> None:
    scale = vocab.scale(index)
    codes = tokenizer.encode(pixels, scale)
    assert codes.shape == (3, scale.length)
    assert codes.dtype == torch.int64
    assert codes.min() >= 0
    assert codes.max() < 64
    assert tokenizer.decode(codes).shape == (3, scale.length, 16)
    assert tokenizer.features(pixels, scale).shape == (3, scale.length, 16)


def test_encode_is_deterministic_in_every_mode(config: TATokConfig, vocab: Vocab, pixels: torch.Tensor) -> None:
    noisy = TATok(replace(config, quantizer=replace(config.quantizer, stochastic=True, temperature=10.0)))
    codes = [noisy.train(mode).encode(pixels, vocab.scale(0)) for mode in (True, True, False)]
    assert torch.equal(codes[0], codes[1])
    assert torch.equal(codes[0], codes[2])


def test_batch_equals_single(tokenizer: TATok, vocab: Vocab, pixels: torch.Tensor) -> None:
    batch = tokenizer.encode(pixels, vocab.scale(1))
    assert torch.equal(batch, torch.cat([tokenizer.encode(one[None], vocab.scale(1)) for one in pixels]))
    assert tokenizer.encode(pixels[:0], vocab.scale(1)).shape == (0, 9)
    several = tokenizer.encode_scales(pixels, vocab.scales)
    assert all(
        torch.equal(codes, tokenizer.encode(pixels, scale)) for codes, scale in zip(several, vocab.scales, strict=True)
    )
    feats = tokenizer.decode(batch)
    singles = torch.cat([tokenizer.decode(one[None]) for one in batch])
    torch.testing.assert_close(feats, singles, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_save_then_load(tokenizer: TATok, vocab: Vocab, pixels: torch.Tensor, tmp_path: Path, storage: str) -> None:
    tokenizer.save(tmp_path / "ta_tok", storage)
    loaded = TATok.from_folder(tmp_path / "ta_tok")
    assert loaded.config == tokenizer.config
    assert not loaded.training
    agreement = (loaded.encode(pixels, vocab.scale(0)) == tokenizer.encode(pixels, vocab.scale(0))).float().mean()
    assert agreement == 1 if storage == "float32" else agreement > 0.8


def test_bf16_weights(tokenizer: TATok, vocab: Vocab, pixels: torch.Tensor) -> None:
    codes = tokenizer.encode(pixels, vocab.scale(0))
    halved = tokenizer.to(torch.bfloat16)
    assert (halved.encode(pixels, vocab.scale(0)) == codes).float().mean() > 0.8
    assert halved.decode(codes).dtype == torch.bfloat16
    assert halved.codebook().dtype == torch.float32


def test_training_reaches_every_part(config: TATokConfig, vocab: Vocab, pixels: torch.Tensor) -> None:
    tokenizer = TATok(config)
    output = tokenizer.forward_train(pixels, vocab.scale(1))
    assert output.decoded_BND.shape == output.pooled_BND.shape == (3, 9, 16)
    loss = 1 - torch.cosine_similarity(output.decoded_BND, output.pooled_BND.detach(), dim=-1).mean()
    (loss + output.quantized.loss).backward()
    still = [name for name, weight in tokenizer.named_parameters() if weight.requires_grad and weight.grad is None]
    assert still == []
    assert tokenizer.quantizer.embedding.weight.grad is None
    frozen = tokenizer.train_from_features(output.pooled_BND.detach())
    torch.testing.assert_close(frozen.decoded_BND, output.decoded_BND)


def test_config_round_trip(config: TATokConfig) -> None:
    assert from_dict(TATokConfig, to_dict(config)) == config
    with pytest.raises(ConfigError, match=r"decoder\.input_size 16 is not quantizer\.width 8"):
        replace(config, quantizer=replace(config.quantizer, width=8))


def test_refusals(tokenizer: TATok, pixels: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="take the scale from this model's own Vocab"):
        tokenizer.encode(pixels, Vocab(text_size=8, codebook_size=64, grid_side=12).scale(1))
    with pytest.raises(ConfigError, match="35 codes, which make no square grid"):
        tokenizer.decode(torch.zeros(1, 35, dtype=torch.int64))
    with pytest.raises(WeightsError):
        TATok.from_folder(tmp_path / "nowhere")


def test_roles_choose_a_linear_layer_by_place(config: TATokConfig, vocab: Vocab, pixels: torch.Tensor) -> None:
    assert cell_roles(9, 2).tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    torch.manual_seed(0)
    two = TATok(replace(config, roles=2)).eval()
    feats_BND = two.features(pixels, vocab.scale(1))
    z_BNC = two.bottleneck(feats_BND)
    both_BNRC = two.in_linear(two.task_features(feats_BND)).unflatten(-1, (2, -1))
    for cell, role in enumerate(cell_roles(9, 2).tolist()):
        assert torch.equal(z_BNC[:, cell], both_BNRC[:, cell, role])
    assert torch.equal(two.encode(pixels, vocab.scale(1)), two.quantizer.nearest(z_BNC))
    with pytest.raises(ConfigError, match="roles is 0"):
        replace(config, roles=0)
