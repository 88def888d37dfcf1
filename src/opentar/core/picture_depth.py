"""Grey values of more than 8 bits as a person would see them, by one rule.

Whole numbers: black is 0 (the smallest value, where one is negative), white is the largest number of the bit depth
that the picture needs: 8, 10, 12, 14 or 16 bits, then 20, 24, 28 and 32. A camera's 12 bits in a file of 16 are not
four fifths black, and a picture that uses all 16 bits keeps its values, divided by 257.

Fractions: from 0 to 1 as they are, where all are; else the smallest finite value is black and the largest white.
Infinities become black or white, NaN becomes black.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from opentar.core.errors import ImageError

INTEGER_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
DEPTHS = (8, 10, 12, 14, 16, 20, 24, 28, 32)
"""Bit depths that a picture of whole numbers is taken to have."""
_BAND_PIXELS = 1 << 18
_CONSTANT = 127


def eight_bit(image: Image.Image, name: str, *, inverted: bool = False, unsigned: bool = False) -> Image.Image:
    """A grey picture of mode "I", "I;16..." or "F" as mode "L".

    Args:
        image: the picture.
        name: what errors call it.
        inverted: its largest value is black.
        unsigned: its 32 bits have no sign, though Pillow keeps them as if they had one.

    Raises:
        ImageError: a picture of fractions without a finite value.
    """
    # Band by band: of the largest picture, one array of numbers wide enough to count in takes hundreds of megabytes.
    rows = max(1, _BAND_PIXELS // image.width)
    boxes = [(0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)]
    low, high = _span(image, boxes, name, unsigned)
    grey = Image.new("L", image.size)
    for box in boxes:
        band = _band(image, box, unsigned)
        made = _fractions(band, low, high) if image.mode == "F" else _integers(band, int(low), int(high))
        grey.paste(Image.fromarray(255 - made if inverted else made), box[:2])
    return grey


def white_of(span: int) -> int:
    """The largest number of the bit depth that values from 0 to `span` need."""
    return next((1 << bits) - 1 for bits in DEPTHS if span < 1 << bits)


def scaled(values: NDArray[np.integer], low: int, white: int) -> NDArray[np.uint8]:
    """Whole numbers from `low` (black) to `low + white` as 0 to 255, rounded."""
    found = (values.astype(np.int64 if white > 1 << 22 else np.int32) - low) * 255
    made: NDArray[np.uint8] = ((found + white // 2) // white).astype(np.uint8)
    return made


Box = tuple[int, int, int, int]


def _band(image: Image.Image, box: Box, unsigned: bool) -> NDArray[Any]:
    band = np.asarray(image.crop(box))
    return band.view(np.uint32) if unsigned else band


def _span(image: Image.Image, boxes: list[Box], name: str, unsigned: bool) -> tuple[float, float]:
    """Black and white of the whole picture."""
    low, high = np.inf, -np.inf
    for box in boxes:
        band = _band(image, box, unsigned)
        band = band[np.isfinite(band)] if image.mode == "F" else band
        if band.size:
            low, high = min(low, float(band.min())), max(high, float(band.max()))
    if low > high:
        raise ImageError(f"{name} holds no finite value; get the file again")
    if image.mode == "F":
        return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    start = min(low, 0)
    return start, start + white_of(int(high - start))


def _integers(band: NDArray[np.integer], low: int, high: int) -> NDArray[np.uint8]:
    return scaled(band, low, high - low)


def _fractions(band: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    if low == high:
        return np.full(band.shape, _CONSTANT, np.uint8)
    share = (band.astype(np.float64) - low) / (high - low)
    made: NDArray[np.uint8] = np.rint(np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1) * 255).astype(
        np.uint8
    )
    return made
