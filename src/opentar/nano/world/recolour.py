"""Moves a drawing to one of the palette colours and keeps its light and shade.

A recoloured pixel depends on its brightness only, so a recolouring is a table of 256 colours: it is computed once for
a drawing and a colour and costs one lookup a pixel afterwards, at any size.
"""

from __future__ import annotations

import numpy as np

from opentar.nano.world.palette import BACKGROUND_LAB, COLOUR_RGB, nearest_colour, rgb_to_lab

CONTRAST: float = 0.75
"""Share of the drawing's own contrast that survives; at 1 dark outlines pull the mean away from the colour."""

VISIBLE_DISTANCE: float = 24.0
"""Lab distance from the ground at which a pixel counts as seen; white on light green or yellow (27) just passes."""

DARK_GROUND: float = 40.0
"""Lab lightness below which a ground is dark."""

DARK_STEP: float = 14.0
"""On a dark ground a pixel must also be lighter by this much: dark on dark differs in hue and is still not seen."""


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Rec. 601 brightness of uint8 (..., 3), as uint8 (...)."""
    weighted = rgb[..., 0].astype(np.uint32) * 77 + rgb[..., 1].astype(np.uint32) * 150
    return ((weighted + rgb[..., 2].astype(np.uint32) * 29) >> 8).astype(np.uint8)


def brightness_weights(rgba: np.ndarray) -> np.ndarray:
    """Histogram (256,) float32 of a drawing's brightness, weighted by its alpha, summing to 1."""
    weights = np.bincount(luminance(rgba[..., :3]).ravel(), rgba[..., 3].ravel().astype(np.float64), minlength=256)
    return (weights / max(weights.sum(), 1.0)).astype(np.float32)


def recolour_table(weights: np.ndarray, colour: int) -> np.ndarray:
    """Table (256, 3) uint8 from brightness to colour, so that the drawing's mean is palette colour `colour`.

    `weights` is the drawing's brightness histogram. The mean is corrected a few times because clipping moves it.
    """
    target = COLOUR_RGB[colour]
    levels = np.arange(256, dtype=np.float32) / 255
    shade = ((levels - float(weights @ levels)) * CONTRAST)[:, None]
    # Lighter pixels go towards white and darker ones towards black, as light and shade do.
    table = np.where(shade > 0, target + (255 - target) * shade, target * (1 + shade))
    for _ in range(4):
        table = np.clip(table + (target - weights @ table), 0, 255)
    return np.rint(table).astype(np.uint8)


def table_is_true(weights: np.ndarray, table: np.ndarray, colour: int) -> bool:
    """Whether the mean of the recoloured drawing is nearest to its own palette colour."""
    return int(nearest_colour(weights @ table.astype(np.float32))) == colour


def visible_share(weights: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Share (B,) of a drawing that stands out from each background.

    `colours` (N, 3) in 0..255 are the drawing's pixels or table rows, `weights` (N,) how much each counts.
    """
    lab = rgb_to_lab(colours)
    seen = np.linalg.norm(lab[:, None, :] - BACKGROUND_LAB, axis=-1) > VISIBLE_DISTANCE
    ground = BACKGROUND_LAB[:, 0]
    seen &= (ground >= DARK_GROUND) | (lab[:, None, 0] > ground + DARK_STEP)
    return (weights @ seen).astype(np.float32) / max(float(weights.sum()), 1e-9)
