"""PIL picture -> the pixels an encoder reads. Bilinear with antialias, in float32, nothing rounded in between.

Without antialias a large picture gets other codes: 117 of 729 differ on one of 480x640 (published arithmetic).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from opentar.core.errors import ConfigError, nearest, shown

FITS = ("squash", "letterbox")
LETTERBOX_LEVEL = 1.0
"""Colour of letterbox borders in [-1, 1]: white, as transparent pictures get it"""


def to_pixels(image: Image.Image, size: int, fit: str = "squash") -> torch.Tensor:
    """One picture as the square input of an encoder.

    Args:
        image: PIL picture, mode RGB (`opentar.core.pictures.open_picture` gives these).
        size: side of the square in pixels.
        fit: "squash" changes the aspect (as published); "letterbox" keeps it between white borders.

    Returns:
        (3, size, size) float32 in [-1, 1], on the CPU.

    Raises:
        ConfigError: unknown `fit`, a size below 1 or a picture that is not RGB.
    """
    check_fit(fit)
    if image.mode != "RGB":
        raise ConfigError(f"the picture has mode {image.mode}; convert it to RGB first")
    array_HW3 = np.array(image, dtype=np.uint8)
    pixels_13HW = torch.from_numpy(array_HW3).permute(2, 0, 1)[None].float().div_(127.5).sub_(1.0)
    if fit == "squash":
        return resize_pixels(pixels_13HW, size, size)[0]
    width, height = image.size
    inner_height = max(1, round(size * height / max(width, height)))
    inner_width = max(1, round(size * width / max(width, height)))
    square = torch.full((3, size, size), LETTERBOX_LEVEL)
    top, left = (size - inner_height) // 2, (size - inner_width) // 2
    inner = resize_pixels(pixels_13HW, inner_height, inner_width)[0]
    square[:, top : top + inner_height, left : left + inner_width] = inner
    return square


def check_fit(fit: str) -> str:
    """`fit` itself. Raises ConfigError unless it is "squash" or "letterbox"."""
    if fit not in FITS:
        raise ConfigError(f"fit is {shown(fit)}; choose squash or letterbox.{nearest(str(fit), FITS)}")
    return fit


def resize_pixels(pixels_B3HW: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, 3, H, W) float -> (B, 3, height, width), bilinear with antialias; unchanged where the size fits already.

    Raises:
        ConfigError: height or width below 1.
    """
    if height < 1 or width < 1:
        raise ConfigError(f"cannot resize a picture to {width}x{height}; give sides of at least 1 pixel")
    if pixels_B3HW.shape[-2:] == (height, width):
        return pixels_B3HW
    return F.interpolate(pixels_B3HW, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
