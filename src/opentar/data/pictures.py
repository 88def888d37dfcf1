"""Pictures as training batches, from wherever they come, and the shape that every source gives them.

Legend: B pictures, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class PictureBatch(NamedTuple):
    """Some pictures of one size."""

    pixels_B3SS: Tensor
    """uint8"""
    inside_BSS: Tensor
    """float32, 1 where an error weighs more (inside the box of an object), 0 elsewhere; all 0 where nobody knows"""


class PictureSource(Protocol):
    """Where pictures come from: drawn anew for every batch, or read from files."""

    def batch(self, rng: np.random.Generator, count: int) -> PictureBatch:
        """`count` pictures, a pure function of `rng`."""


@dataclass(frozen=True, kw_only=True)
class PictureData:
    """What a stage learns from, and what it is scored on."""

    train: PictureSource
    """Pictures to learn from."""
    held_out: Mapping[str, PictureSource]
    """Prefix of the scores -> pictures that are never trained on; those of the prefix "" are shown as samples."""


def shrink(pictures_B3SS: Tensor, size: int) -> Tensor:
    """uint8 (B, 3, H, W) -> (B, 3, size, size), a picture at a time as `resize` does."""
    if pictures_B3SS.shape[-1] == size:
        return pictures_B3SS
    stack = np.stack([resize(item, size) for item in pictures_B3SS.permute(0, 2, 3, 1).numpy()])
    return torch.from_numpy(stack).permute(0, 3, 1, 2)


def resize(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, W, 3) squashed to (size, size, 3), antialiased bilinear, as `to_pixels` does when the model
    reads (that one keeps fractions; the difference is below half a level)."""
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))


def to_unit(pixels_u8: Tensor) -> Tensor:
    """uint8 (B, 3, S, S) -> float32 in [-1, 1], the range that encoders read."""
    return pixels_u8.float().div_(127.5).sub_(1.0)


def to_pictures(pixels_B3SS: Tensor) -> list[Image.Image]:
    """Pixels in [-1, 1] -> PIL pictures, for sheets."""
    array = ((pixels_B3SS.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(item)) for item in array]
