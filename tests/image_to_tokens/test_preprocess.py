from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from opentar.core.errors import ConfigError
from opentar.image_to_tokens.preprocess import LETTERBOX_LEVEL, to_pixels


def halves(width: int, height: int) -> Image.Image:
    """Left half black, right half red."""
    array = np.zeros((height, width, 3), dtype=np.uint8)
    array[:, width // 2 :, 0] = 255
    return Image.fromarray(array)


def test_range_and_identity() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    pixels = to_pixels(Image.fromarray(noise), 16)
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == torch.float32
    expected = torch.from_numpy(noise).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(pixels, expected)
    white = to_pixels(Image.new("RGB", (5, 9), "white"), 8)
    torch.testing.assert_close(white, torch.ones(3, 8, 8))


def test_squash_fills_the_square() -> None:
    pixels = to_pixels(halves(64, 16), 16)
    torch.testing.assert_close(pixels[0, :, :7], torch.full((16, 7), -1.0))
    torch.testing.assert_close(pixels[0, :, 9:], torch.ones(16, 7))


@pytest.mark.parametrize(("width", "height"), [(64, 16), (16, 64), (500, 1)])
def test_letterbox_keeps_the_aspect(width: int, height: int) -> None:
    pixels = to_pixels(Image.new("RGB", (width, height), "black"), 16, fit="letterbox")
    inner = pixels[0] < LETTERBOX_LEVEL
    rows, columns = int(inner.any(1).sum()), int(inner.any(0).sum())
    assert (columns, rows) == (max(1, 16 * width // max(width, height)), max(1, 16 * height // max(width, height)))
    torch.testing.assert_close(pixels[0, inner], torch.full((rows * columns,), -1.0))
    middle = torch.nonzero(inner).float().mean(0)
    torch.testing.assert_close(middle, torch.tensor([7.5, 7.5]), atol=0.5, rtol=0)


def test_large_pictures_are_antialiased() -> None:
    """A fine chessboard becomes grey, where sampling single pixels would give black or white."""
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    pixels = to_pixels(Image.fromarray(np.stack([board] * 3, -1)), 32)
    assert pixels.abs().max() < 0.1


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="squash or letterbox"):
        to_pixels(halves(4, 4), 8, fit="letterbx")
    with pytest.raises(ConfigError, match="mode L"):
        to_pixels(Image.new("L", (4, 4)), 8)
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        to_pixels(halves(4, 4), 0)
