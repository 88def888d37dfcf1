"""Pictures that are given as arrays of numpy (or what numpy takes for one, such as a tensor on the CPU)."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from opentar.core.errors import ImageError, ImageSizeError
from opentar.core.picture_depth import scaled, white_of

_CHANNELS = (1, 3, 4)
_SLACK = 1e-3
"""How far fractions may lie outside of 0 to 1: rounding takes them there."""
_FORM = "(height, width) or (height, width, 1, 3 or 4)"


def is_array(source: object) -> bool:
    """Whether numpy takes `source` for an array."""
    return hasattr(source, "__array__") or hasattr(source, "__array_interface__")


def picture_of(source: Any, name: str, max_pixels: int) -> Image.Image:
    """A PIL picture of an array.

    Args:
        source: (H, W) or (H, W, 1 | 3 | 4) of uint8, of uint16 (by the rule of `picture_depth`), or of fractions in
            [0, 1]; four channels are RGB and opacity.
        name: what errors call it.
        max_pixels: most pixels.

    Raises:
        ImageError: another shape, type or range.
    """
    try:
        array = np.asarray(source)
    # A tensor on another device or with a gradient says in its own words that it is none.
    except Exception as error:
        raise ImageError(
            f"{name} cannot be read as an array; give one of numpy, or a tensor as .detach().cpu().float()"
        ) from error
    _check_shape(array, name)
    if array.shape[0] * array.shape[1] > max_pixels:
        size = f"{array.shape[1]}x{array.shape[0]}"
        limit = max_pixels // 10**6
        raise ImageSizeError(f"{name} has {size} pixels; at most {limit} megapixels are read: make it smaller")
    values = _eight_bit(array, name)
    return Image.fromarray(
        np.ascontiguousarray(values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values)
    )


def _check_shape(array: np.ndarray[Any, Any], name: str) -> None:
    shape = array.shape
    if array.ndim == 3 and shape[0] in _CHANNELS and shape[2] not in _CHANNELS:
        raise ImageError(f"{name} has the shape {shape}, channels first; transpose it: array.transpose(1, 2, 0)")
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in _CHANNELS):
        raise ImageError(f"{name} has the shape {shape}; a picture has {_FORM}")
    if not array.size:
        raise ImageError(f"{name} has the shape {shape} and is empty; a picture has {_FORM}")


def _eight_bit(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return scaled(array, 0, white_of(int(array.max())))
    if array.dtype.kind != "f":
        raise ImageError(f"{name} is of type {array.dtype}; give uint8, uint16, or fractions from 0 to 1")
    low, high = float(array.min()), float(array.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):
        told = "NaN" if np.isnan(low) or np.isnan(high) else f"values from {low:g} to {high:g}"
        raise ImageError(f"{name} holds {told}; fractions must lie from 0 to 1: scale them, or give uint8")
    return np.rint(array.astype(np.float32).clip(0, 1) * 255).astype(np.uint8)
