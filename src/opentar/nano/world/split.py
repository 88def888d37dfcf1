"""Which combinations are held out: a fixed split by hash, so that results of different runs compare.

A key is one of `col|HEX|colour` (a recoloured drawing), `cnt|HEX|n` (n equal objects) and `pair|HEX1|HEX2` (two
concepts in one picture, code points sorted). `int(sha1(key)) % 1000` below 75 is validation, below 150 test, the
rest training. The tables hold the same answers as arrays, because a scene asks a few of them a thousand times a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1

import numpy as np

from opentar.core.errors import DataError
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.palette import COLOURS
from opentar.nano.world.spec import SceneSpec

SPLITS: tuple[str, ...] = ("train", "val", "test")
"""Names of the splits; the tables hold their index."""

COUNTS: tuple[int, ...] = (2, 3, 4)
"""Numbers of equal objects that the world counts to."""


def bucket(key: str) -> str:
    """The split ("train", "val" or "test") of one hashed key."""
    rest = int(sha1(key.encode("utf-8")).hexdigest(), 16) % 1000
    if rest < 75:
        return "val"
    return "test" if rest < 150 else "train"


def colour_key(code_point: str, colour: str) -> str:
    """Key of a drawing recoloured to a colour word."""
    return f"col|{code_point}|{colour}"


def count_key(code_point: str, number: int) -> str:
    """Key of `number` equal objects."""
    return f"cnt|{code_point}|{number}"


def pair_key(first: str, second: str) -> str:
    """Key of two concepts in one picture; the order given does not matter."""
    low, high = sorted((first, second))
    return f"pair|{low}|{high}"


def split_index(split: str) -> int:
    """Index of a split's name; an unknown name raises DataError."""
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    return SPLITS.index(split)


@dataclass(frozen=True, kw_only=True)
class SplitTables:
    """The split of every combination, as uint8 arrays of indices into SPLITS (C = number of concepts)."""

    colour: np.ndarray
    """(C, 11): concept x colour word."""
    count: np.ndarray
    """(C, 5): concept x number; columns 0 and 1 are never held out (they hold 0)."""
    pair: np.ndarray
    """(C, C), symmetric; the diagonal holds 0."""


def build_tables(code_points: Sequence[str]) -> SplitTables:
    """Hash every combination of the given code points."""
    n = len(code_points)
    colour = np.zeros((n, len(COLOURS)), np.uint8)
    count = np.zeros((n, 5), np.uint8)
    pair = np.zeros((n, n), np.uint8)
    for i, first in enumerate(code_points):
        colour[i] = [SPLITS.index(bucket(colour_key(first, word))) for word in COLOURS]
        for number in COUNTS:
            count[i, number] = SPLITS.index(bucket(count_key(first, number)))
        for j in range(i):
            pair[i, j] = pair[j, i] = SPLITS.index(bucket(pair_key(first, code_points[j])))
    return SplitTables(colour=colour, count=count, pair=pair)


@lru_cache(maxsize=1)
def split_tables() -> SplitTables:
    """The tables of the bundled concepts, computed once (about a tenth of a second)."""
    return build_tables([concept.hex for concept in load_concepts()])


def scene_keys(spec: SceneSpec) -> tuple[str, ...]:
    """Every hashed part of a scene: its recolourings, its numbers of equal objects and its pairs of concepts."""
    concepts = load_concepts()
    keys: list[str] = []
    numbers: dict[str, int] = {}
    for item in spec.objects:
        code_point = concepts[item.concept].hex
        numbers[code_point] = numbers.get(code_point, 0) + 1
        if item.colour is not None:
            keys.append(colour_key(code_point, item.colour))
    seen = sorted(numbers)
    keys += [count_key(code_point, number) for code_point, number in numbers.items() if number > 1]
    keys += [pair_key(first, second) for n, first in enumerate(seen) for second in seen[n + 1 :]]
    return tuple(dict.fromkeys(keys))


def scene_splits(spec: SceneSpec) -> frozenset[str]:
    """The splits that a scene's parts belong to; empty for one object in its own colours."""
    return frozenset(bucket(key) for key in scene_keys(spec))
