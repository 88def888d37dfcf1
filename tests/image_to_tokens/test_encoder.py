from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from opentar.core.errors import ConfigError
from opentar.image_to_tokens.encoder import PUBLISHED, VisionConfig, VisionEncoder, pool_grid
from opentar.image_to_tokens.ta_tok import TATokConfig


def encoder_of(config: VisionConfig) -> VisionEncoder:
    torch.manual_seed(0)
    return VisionEncoder(config).eval()


def test_attention_kinds_agree(config: TATokConfig, pixels: torch.Tensor) -> None:
    matmul = encoder_of(config.vision)
    sdpa = encoder_of(replace(config.vision, attention="sdpa"))
    torch.testing.assert_close(matmul(pixels), sdpa(pixels), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "gelu_pytorch_tanh"},
        {"norm": "group"},
        {"final_norm": False},
        {"norm_eps": 0.1},
        {"stem_widths": (4,), "stem_strides": (4,)},
        {"stem_blocks": (0, 2)},
        {"layers": 0},
        {"stem": "patch", "stem_widths": ()},
    ],
)
def test_every_option_does_something(config: TATokConfig, pixels: torch.Tensor, change: dict[str, object]) -> None:
    plain = encoder_of(config.vision)(pixels)
    changed = encoder_of(replace(config.vision, **change))(pixels)
    assert changed.shape == plain.shape == (3, 36, 16)
    assert not torch.allclose(plain, changed, atol=1e-4)


def test_cells_run_row_by_row(config: TATokConfig) -> None:
    """Without transformer layers a change in one corner is seen by the cells of that corner only."""
    encoder = encoder_of(replace(config.vision, layers=0, stem="patch", stem_widths=()))
    black = torch.full((1, 3, 24, 24), -1.0)
    dotted = black.clone()
    dotted[..., 0:4, 20:24] = 1.0
    changed = (encoder(black) != encoder(dotted)).any(-1)[0]
    assert torch.nonzero(changed).flatten().tolist() == [5]


def test_bf16_autocast_trains(config: TATokConfig, pixels: torch.Tensor) -> None:
    encoder = VisionEncoder(config.vision)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        feats = encoder(pixels)
    feats.float().square().mean().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in encoder.parameters())
    reference = encoder(pixels)
    assert torch.cosine_similarity(feats.float(), reference, dim=-1).min() > 0.99


def test_published_sizes() -> None:
    assert PUBLISHED.cells == 729
    with torch.device("meta"):
        layer = VisionEncoder(replace(PUBLISHED, layers=1))
    assert layer.stem.weight.shape == (1152, 3, 14, 14)
    assert layer.layers[0].mlp.fc1.weight.shape == (4304, 1152)


def test_pool_drops_the_remainder() -> None:
    grid = torch.arange(25.0).reshape(1, 25, 1)
    assert pool_grid(grid, 2).flatten().tolist() == [3, 5, 13, 15]
    assert pool_grid(grid, 1) is grid


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"heads": 3}, "not a multiple of heads 3"),
        ({"stem": "resnet"}, "patch, conv"),
        ({"stem_widths": (4, 8, 8)}, "image_size 24 is not grid_side 6"),
        ({"stem_strides": (2,)}, "one for each level"),
        ({"stem": "patch"}, 'belong to stem "conv"'),
        ({"activation": "rellu"}, "rellu"),
        ({"attention": "flash"}, "sdpa, matmul"),
        ({"grid_side": 0}, "grid_side is 0"),
    ],
)
def test_refused_configs(config: TATokConfig, change: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        replace(config.vision, **change)


def test_refused_pixels(config: TATokConfig) -> None:
    with pytest.raises(ConfigError, match=r"\(1, 3, 20, 24\).*\(batch, 3, 24, 24\)"):
        encoder_of(config.vision)(torch.zeros(1, 3, 20, 24))
