"""Objects of a picture as connected foreground, with no learning: what stands out from a plain background.

The background is estimated from the picture alone (the judge must not trust a promise about it): the mode of the
border colours, then one colour a row, because a drawn background may drift slowly from top to bottom.
Legend: H, W height and width; colours are uint8 RGB or CIE Lab (L in [0, 100], a and b about [-128, 127]).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from opentar.core.errors import ImageError
from opentar.nano.judge.features import crop_square
from opentar.nano.world.palette import rgb_to_lab

Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class PartSettings:
    """How foreground becomes parts; distances in pixels of a 128 px picture, colour distances in Lab."""

    threshold: float = 14.0
    """A pixel this far (Euclid in Lab) from its row's background is foreground."""
    border: int = 3
    """Width of the frame whose colours vote for the background."""
    row_drift: float = 14.0
    """A row's own border colour is believed only this near to the whole border's mode."""
    bridge: int = 1
    """Gaps up to twice this many pixels do not separate parts (thin outlines, soft shadows)."""
    least_pixels: int = 24
    """Smaller specks are noise unless they belong to a large part."""
    overlap_share: float = 0.25
    """Components whose boxes share this much of the smaller box are one drawing, as stripes are."""
    fragment_share: float = 0.35
    """A component below this share of the largest one, and touching a large one's box, is a fragment of it."""
    fragment_gap: float = 3.0
    """What counts as touching: less than the free ground between two objects of a scene."""
    satellite_share: float = 0.08
    """A component below this share is a satellite (a spark, a drop) even at a distance."""
    satellite_reach: float = 24.0
    """A satellite farther than this from every large part stays on its own, so that a stray object is counted."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One object as seen: its box (x0, y0, x1, y1; x1 and y1 exclusive), its pixels and their mean colour."""

    box: Box
    pixels: int
    mean_rgb: tuple[float, float, float]
    mask: NDArray[np.bool_] = field(repr=False, compare=False)
    """(H, W): its pixels."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the foreground search found: parts from large to small and the background's colour."""

    parts: tuple[Part, ...]
    background_rgb: tuple[float, float, float]


def check_picture(picture: NDArray[np.uint8]) -> None:
    """Raise ImageError unless the picture is uint8 (H, W, 3) of at least 16 x 16."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or min(picture.shape[:2]) < 16:
        raise ImageError(
            f"a picture of shape {picture.shape} and type {picture.dtype} was given; "
            "the judge reads uint8 RGB of at least 16 x 16 pixels"
        )


def background_rows(picture: NDArray[np.uint8], settings: PartSettings) -> tuple[NDArray, NDArray]:
    """Estimate the background: (mode colour (3,), row colours (H, 3)), float32 RGB in [0, 255].

    Rows whose border is covered by an object take the colour of their neighbours.
    """
    width = settings.border
    edges = (picture[:width], picture[-width:], picture[:, :width], picture[:, -width:])
    frame = np.concatenate([edge.reshape(-1, 3) for edge in edges])
    # The mode over coarse bins, refined by the median of its neighbourhood: exact on flat grounds, calm on noisy ones.
    bins = (frame.astype(np.int32) // 24) @ np.array([1, 16, 256])
    mode = np.median(frame[bins == np.bincount(bins).argmax()], axis=0)
    near = np.abs(frame - mode).max(axis=1) < 24
    mode = np.median(frame[near], axis=0).astype(np.float32)
    sides = np.concatenate([picture[:, :width], picture[:, -width:]], axis=1)
    rows = np.median(sides, axis=1).astype(np.float32)
    believed = np.linalg.norm(rgb_to_lab(rows) - rgb_to_lab(mode), axis=-1) < settings.row_drift
    if believed.sum() < 8:
        return mode, np.repeat(mode[None], len(picture), axis=0)
    at = np.arange(len(picture))
    filled = np.stack([np.interp(at, at[believed], rows[believed, channel]) for channel in range(3)], axis=1)
    return mode, ndimage.median_filter(filled, size=(7, 1), mode="nearest").astype(np.float32)


def foreground(picture: NDArray[np.uint8], settings: PartSettings) -> tuple[NDArray[np.bool_], NDArray]:
    """Pixels that differ from their row's background: (mask (H, W), background mode (3,))."""
    mode, rows = background_rows(picture, settings)
    distance = np.linalg.norm(rgb_to_lab(picture) - rgb_to_lab(rows)[:, None], axis=-1)
    return distance > settings.threshold, mode


def find_parts(picture: NDArray[np.uint8], settings: PartSettings | None = None) -> Seen:
    """Find the objects of a uint8 (H, W, 3) picture as connected foreground with small satellites merged.

    Raises ImageError for other arrays. A picture that is all background has no parts.
    """
    settings = settings or PartSettings()
    check_picture(picture)
    mask, mode = foreground(picture, settings)
    # A square of side 2 b + 1: scipy would take 0 iterations for "until nothing changes".
    joined = ndimage.maximum_filter(mask, size=2 * settings.bridge + 1, mode="constant")
    labels, count = ndimage.label(joined, structure=np.ones((3, 3)))
    labels = np.where(mask, labels, 0)
    groups = _merge_satellites(labels, count, settings)
    parts = [_measure(picture, np.isin(labels, group)) for group in groups]
    parts.sort(key=lambda part: -part.pixels)
    return Seen(parts=tuple(parts), background_rgb=(float(mode[0]), float(mode[1]), float(mode[2])))


def crop_part(
    picture: NDArray[np.uint8], part: Part, background_rgb: tuple[float, float, float], side: int, margin: float
) -> NDArray[np.uint8]:
    """The part alone on its background, uint8 (side, side, 3).

    A neighbour that reaches into the square is painted over; soft edges around the part stay as they were drawn.
    """
    near = ndimage.binary_fill_holes(ndimage.binary_dilation(part.mask, iterations=3))
    ground = np.clip(np.rint(background_rgb), 0, 255).astype(np.uint8)
    alone = np.where(near[..., None], picture, ground)
    return crop_square(alone, part.box, side=side, margin=margin, fill=background_rgb)


def _measure(picture: NDArray[np.uint8], inside: NDArray[np.bool_]) -> Part:
    ys, xs = np.nonzero(inside)
    red, green, blue = picture[inside].mean(axis=0)
    box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    return Part(box=box, pixels=len(xs), mean_rgb=(float(red), float(green), float(blue)), mask=inside)


def _gap(first: Box, second: Box) -> float:
    across = max(0, max(first[0], second[0]) - min(first[2], second[2]))
    down = max(0, max(first[1], second[1]) - min(first[3], second[3]))
    return float(np.hypot(across, down))


def _overlap(first: Box, second: Box) -> float:
    """Common area as a share of the smaller box."""
    across = min(first[2], second[2]) - max(first[0], second[0])
    down = min(first[3], second[3]) - max(first[1], second[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return max(0, across) * max(0, down) / smaller


def _merge_satellites(labels: NDArray, count: int, settings: PartSettings) -> list[list[int]]:
    """Group component numbers into objects: every small component joins its nearest large one."""
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    boxes: dict[int, Box] = {
        index + 1: (where[1].start, where[0].start, where[1].stop, where[0].stop)
        for index, where in enumerate(ndimage.find_objects(labels, max_label=count))
        if where is not None
    }
    if not boxes or sizes.max() < settings.least_pixels:
        return []
    # Large ones are decided from the largest down, so that a fragment may belong to any part already accepted.
    groups: dict[int, list[int]] = {}
    for number in sorted(boxes, key=lambda other: -sizes[other - 1]):
        size, share = sizes[number - 1], sizes[number - 1] / sizes.max()
        nearest = min(groups, key=lambda other: _gap(boxes[number], boxes[other]), default=None)
        gap = np.inf if nearest is None else _gap(boxes[number], boxes[nearest])
        fragment = share < settings.fragment_share and gap <= settings.fragment_gap
        satellite = share < settings.satellite_share and gap <= settings.satellite_reach
        inside = nearest is not None and _overlap(boxes[number], boxes[nearest]) >= settings.overlap_share
        if nearest is not None and (fragment or satellite or inside):
            groups[nearest].append(number)
        elif size >= settings.least_pixels:
            groups[number] = [number]
    return list(groups.values())
