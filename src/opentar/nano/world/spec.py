"""What a scene is: a few numbers that say everything a picture shows, and the dense labels read from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from opentar.core.errors import DataError
from opentar.nano.world.palette import BACKGROUNDS, COLOUR_INDEX, OWN_COLOUR

PICTURE: int = 128
"""Side of a picture in pixels."""

KINDS: tuple[str, ...] = ("single", "colour", "count", "two", "position", "attribution", "counted_colour")
MOSAIC: str = "mosaic"
"""The kind that only trains vision: many objects, no caption of its own."""

RELATIONS: tuple[str, ...] = ("left", "right", "above", "below")
OPPOSITE: dict[str, str] = {"left": "right", "right": "left", "above": "below", "below": "above"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectSpec:
    """One drawing in a picture."""

    concept: int
    """Index into load_concepts()."""
    style: str
    colour: str | None = None
    """Colour word it is recoloured to, None for its own colours."""
    box: tuple[int, int, int, int]
    """x0, y0, x1, y1 in pixels, end exclusive, the drawing's visible bounds."""

    @property
    def centre(self) -> tuple[float, float]:
        """x, y of the middle of the box."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneSpec:
    """A whole picture; for the kind "position" the first object is the subject of the relation."""

    kind: str
    background: str
    objects: tuple[ObjectSpec, ...]

    def to_dict(self) -> dict[str, Any]:
        """A small mapping that json can write."""
        return {
            "kind": self.kind,
            "background": self.background,
            "objects": [
                {"concept": o.concept, "style": o.style, "colour": o.colour, "box": list(o.box)} for o in self.objects
            ],
        }

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> SceneSpec:
        """The reverse of to_dict; missing or impossible values raise DataError."""
        try:
            objects = tuple(
                ObjectSpec(
                    concept=int(o["concept"]),
                    style=str(o["style"]),
                    colour=o["colour"],
                    box=(int(o["box"][0]), int(o["box"][1]), int(o["box"][2]), int(o["box"][3])),
                )
                for o in mapping["objects"]
            )
            spec = cls(kind=mapping["kind"], background=mapping["background"], objects=objects)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"not a scene: {error!r}; a scene has kind, background and objects") from error
        if spec.background not in BACKGROUNDS:
            raise DataError(f"unknown background {spec.background!r}: choose one of {', '.join(BACKGROUNDS)}")
        for item in objects:
            if item.colour is not None and item.colour not in COLOUR_INDEX:
                raise DataError(f"unknown colour {item.colour!r}: choose one of {', '.join(COLOUR_INDEX)}")
        return spec


def relation(first: ObjectSpec, second: ObjectSpec) -> str | None:
    """Where `first` is, seen from `second` ("left", "right", "above", "below"); None when neither axis is clear."""
    dx, dy = first.centre[0] - second.centre[0], first.centre[1] - second.centre[1]
    if abs(dx) > 1.5 * abs(dy):
        return "left" if dx < 0 else "right"
    if abs(dy) > 1.5 * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def counted(spec: SceneSpec) -> bool:
    """Whether the scene is several equal objects."""
    return len(spec.objects) > 1 and all(o.concept == spec.objects[0].concept for o in spec.objects)


@dataclass(frozen=True, kw_only=True)
class DenseLabels:
    """What each cell of a grid shows."""

    concept: np.ndarray
    """(grid, grid) int16, -1 where no object is."""
    colour: np.ndarray
    """(grid, grid) int16: palette index, 11 for own colours, -1 where no object is."""
    centre: np.ndarray
    """(grid, grid) float32: 1 in the cell that holds the middle of a box, else 0."""
    object: np.ndarray
    """(grid, grid) int16: index of the object in the scene, -1 where none is."""
    background: int
    """Index into BACKGROUNDS."""


@lru_cache(maxsize=4096)
def _cells(start: int, end: int, grid: int) -> tuple[int, int, int]:
    """First and one past the last cell whose middle lies in [start, end), and the cell of the interval's middle."""
    step = PICTURE / grid
    middle = min(grid - 1, int((start + end) / 2 / step))
    first, last = math.ceil(start / step - 0.5), math.ceil(end / step - 0.5)
    # A thin drawing may pass between two middles: it still owns the cell it stands in.
    return (first, last, middle) if last > first else (middle, middle + 1, middle)


def labels(spec: SceneSpec, grid: int = 12) -> DenseLabels:
    """Concept, colour and centre of each cell of a `grid` x `grid` raster; row 0 is the top."""
    concept = np.full((grid, grid), -1, np.int16)
    colour = np.full((grid, grid), -1, np.int16)
    centre = np.zeros((grid, grid), np.float32)
    owner = np.full((grid, grid), -1, np.int16)
    for index, item in enumerate(spec.objects):
        x0, y0, x1, y1 = item.box
        left, right, column = _cells(x0, x1, grid)
        top, bottom, row = _cells(y0, y1, grid)
        concept[top:bottom, left:right] = item.concept
        colour[top:bottom, left:right] = OWN_COLOUR if item.colour is None else COLOUR_INDEX[item.colour]
        centre[row, column] = 1
        owner[top:bottom, left:right] = index
    ground = BACKGROUNDS.index(spec.background)
    return DenseLabels(concept=concept, colour=colour, centre=centre, object=owner, background=ground)
