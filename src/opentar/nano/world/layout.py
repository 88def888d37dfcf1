"""Places for drawings: boxes that stay inside the picture, keep a gap and never overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from opentar.nano.world.spec import PICTURE

Box = tuple[int, int, int, int]
Size = tuple[int, int]
T = TypeVar("T")

MARGIN: int = 3
"""Free pixels at the picture's rim."""
GAP: int = 5
"""Free pixels between two boxes, so that parts can be told apart by their pixels."""

_BLOCK = 48


class Draws:
    """Cheap lots from a generator: numbers are taken in blocks because one call a number costs more than a drawing."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._block: list[float] = []

    def unit(self) -> float:
        """A number in [0, 1)."""
        if not self._block:
            self._block = self._rng.random(_BLOCK).tolist()
        return self._block.pop()

    def below(self, bound: int) -> int:
        """An integer in [0, bound)."""
        return int(self.unit() * bound)

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[int(self.unit() * len(items))]

    def step(self, low: int, high: int) -> int:
        """A size from low to high inclusive in steps of 4: few sizes keep the cache of scaled drawings small."""
        return low + 4 * self.below((high - low) // 4 + 1)


def _inside(size: Size, draws: Draws) -> Box:
    width, height = size
    x = MARGIN + draws.below(PICTURE - 2 * MARGIN - width + 1)
    y = MARGIN + draws.below(PICTURE - 2 * MARGIN - height + 1)
    return x, y, x + width, y + height


def apart(first: Box, second: Box, gap: int = GAP) -> bool:
    """Whether two boxes keep at least `gap` pixels between them."""
    return (
        first[2] + gap <= second[0]
        or second[2] + gap <= first[0]
        or first[3] + gap <= second[1]
        or second[3] + gap <= first[1]
    )


def free(sizes: Sequence[Size], draws: Draws) -> list[Box] | None:
    """Any places for these (width, height); None where they did not fit."""
    for _ in range(6):
        boxes: list[Box] = []
        for size in sizes:
            for _ in range(12):
                box = _inside(size, draws)
                if all(apart(box, other) for other in boxes):
                    boxes.append(box)
                    break
            else:
                break
        if len(boxes) == len(sizes):
            return boxes
    return None


def beside(first: Size, second: Size, relation: str, draws: Draws) -> list[Box] | None:
    """Places where the first box is left, right, above or below the second, roughly in line; None if too large."""
    swapped = relation in ("right", "below")
    axis = 0 if relation in ("left", "right") else 1
    near, far = (second, first) if swapped else (first, second)
    room = PICTURE - 2 * MARGIN - GAP - near[axis] - far[axis]
    if room < 0:
        return None
    cuts = sorted((draws.below(room + 1), draws.below(room + 1)))
    along = (MARGIN + cuts[0], MARGIN + near[axis] + GAP + cuts[1])
    # The middles may differ across the axis by a third of their distance, so that the relation stays plain.
    distance = along[1] + far[axis] / 2 - along[0] - near[axis] / 2
    middle = 40 + draws.below(49)
    boxes: list[Box] = []
    for start, size in zip(along, (near, far), strict=True):
        slack = int(min(14.0, distance / 6))
        across = round(middle - size[1 - axis] / 2) + draws.below(2 * slack + 1) - slack
        across = min(max(across, MARGIN), PICTURE - MARGIN - size[1 - axis])
        x, y = (start, across) if axis == 0 else (across, start)
        boxes.append((x, y, x + size[0], y + size[1]))
    return boxes[::-1] if swapped else boxes


TIDY_LARGE: int = 92
"""Longest side of a drawing that has a tidy picture to itself."""
TIDY_SMALL: int = 52
"""Longest side where a tidy picture holds more than one: with GAP to spare in half a picture."""

_NEAR, _MIDDLE, _FAR = PICTURE // 4, PICTURE // 2, 3 * PICTURE // 4
_SLOTS: dict[int | str, tuple[tuple[int, int], ...]] = {
    1: ((_MIDDLE, _MIDDLE),),
    2: ((_NEAR, _MIDDLE), (_FAR, _MIDDLE)),
    3: ((_MIDDLE, _NEAR), (_NEAR, _FAR), (_FAR, _FAR)),
    4: ((_NEAR, _NEAR), (_FAR, _NEAR), (_NEAR, _FAR), (_FAR, _FAR)),
    "left": ((_NEAR, _MIDDLE), (_FAR, _MIDDLE)),
    "right": ((_FAR, _MIDDLE), (_NEAR, _MIDDLE)),
    "above": ((_MIDDLE, _NEAR), (_MIDDLE, _FAR)),
    "below": ((_MIDDLE, _FAR), (_MIDDLE, _NEAR)),
}


def tidy(sizes: Sequence[Size], relation: str | None) -> list[Box]:
    """The one fixed place of each drawing, by their number or relation: what nano learns to draw.

    A picture in which everything may stand anywhere leaves a small model no time to learn what things look like. The
    slots are whole cells of the coarsest grid of codes.
    """
    boxes = []
    for (width, height), (x, y) in zip(sizes, _SLOTS[relation or len(sizes)], strict=True):
        left, top = x - width // 2, y - height // 2
        boxes.append((left, top, left + width, top + height))
    return boxes


def mosaic_sizes(number: int, draws: Draws) -> tuple[int, int, list[int]]:
    """Rows, columns and the longest side of each of `number` (4..9) drawings."""
    if number == 4:
        return 2, 2, [draws.step(40, 60) for _ in range(number)]
    if number <= 6:
        rows, columns = (2, 3) if draws.unit() < 0.5 else (3, 2)
        return rows, columns, [draws.step(32, 48) for _ in range(number)]
    return 3, 3, [draws.step(32, 40) for _ in range(number)]


def grid(sizes: Sequence[Size], rows: int, columns: int, draws: Draws) -> list[Box]:
    """One box in each cell of a grid, jittered inside it; a drawing larger than its cell is made to fit."""
    cell_width, cell_height = PICTURE // columns, PICTURE // rows
    cells = list(range(rows * columns))
    boxes: list[Box] = []
    for width, height in sizes:
        cell = cells.pop(draws.below(len(cells)))
        shrink = min(1.0, (cell_width - 2) / width, (cell_height - 2) / height)
        width, height = max(3, int(width * shrink)), max(3, int(height * shrink))
        x = cell % columns * cell_width + 1 + draws.below(cell_width - 1 - width)
        y = cell // columns * cell_height + 1 + draws.below(cell_height - 1 - height)
        boxes.append((x, y, x + width, y + height))
    return boxes
