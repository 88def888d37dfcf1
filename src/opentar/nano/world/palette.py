"""The world's colour words and backgrounds, and the nearest colour word in CIE Lab."""

from __future__ import annotations

import numpy as np

COLOURS: tuple[str, ...] = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "gray",
    "black",
    "white",
)
"""The eleven basic colour words; their order is the colour index everywhere."""

COLOUR_INDEX: dict[str, int] = {word: index for index, word in enumerate(COLOURS)}

OWN_COLOUR: int = len(COLOURS)
"""Colour index of an object drawn in its own colours."""

COLOUR_RGB: np.ndarray = np.array(
    [
        (222, 38, 38),
        (245, 135, 25),
        (248, 214, 36),
        (46, 160, 56),
        (36, 92, 222),
        (140, 56, 180),
        (250, 140, 192),
        (128, 78, 38),
        (142, 142, 142),
        (38, 38, 40),
        (244, 244, 244),
    ],
    np.float32,
)
"""(11, 3), 0..255: the palette that recoloured drawings are moved to."""

COLOURS_ZH: dict[str, str] = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "brown": "棕色",
    "gray": "灰色",
    "black": "黑色",
    "white": "白色",
}

BACKGROUND_RGB: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "light blue": (186, 220, 250),
    "light green": (198, 240, 198),
    "light yellow": (255, 248, 196),
    "light pink": (255, 214, 226),
    "light gray": (214, 214, 214),
    "light purple": (224, 206, 246),
    "dark blue": (24, 40, 104),
    "dark green": (18, 76, 42),
    "black": (12, 12, 12),
}
"""Plain backgrounds by name; their order is the background index."""

BACKGROUNDS: tuple[str, ...] = tuple(BACKGROUND_RGB)

BACKGROUNDS_ZH: dict[str, str] = {
    "white": "白色",
    "light blue": "浅蓝色",
    "light green": "浅绿色",
    "light yellow": "浅黄色",
    "light pink": "浅粉色",
    "light gray": "浅灰色",
    "light purple": "浅紫色",
    "dark blue": "深蓝色",
    "dark green": "深绿色",
    "black": "黑色",
}

_RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
    np.float32,
)
_WHITE_D65 = np.array([0.95047, 1.0, 1.08883], np.float32)


def rgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB (..., 3) in 0..255 to CIE Lab (..., 3) under D65 (IEC 61966-2-1, CIE 15), float32."""
    unit = np.asarray(rgb, np.float32) / 255.0
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    ratio = (linear @ _RGB_TO_XYZ.T) / _WHITE_D65
    curve = np.where(ratio > 216 / 24389, np.cbrt(ratio), ratio * (24389 / 27 / 116) + 16 / 116)
    x, y, z = curve[..., 0], curve[..., 1], curve[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)


COLOUR_LAB: np.ndarray = rgb_to_lab(COLOUR_RGB)
BACKGROUND_LAB: np.ndarray = rgb_to_lab(np.array(list(BACKGROUND_RGB.values()), np.float32))


def nearest_colour(rgb: np.ndarray) -> np.ndarray:
    """Index of the palette colour nearest in Lab, for (..., 3) colours in 0..255; int64 (...)."""
    distance = np.linalg.norm(rgb_to_lab(rgb)[..., None, :] - COLOUR_LAB, axis=-1)
    return distance.argmin(axis=-1)
