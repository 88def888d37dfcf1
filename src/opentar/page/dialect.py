"""A picture as its codes: words of each code, neighbours of one, codes replaced, two pictures compared.

Shape suffixes: N codes of a picture, K rows of the codebook, C its width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from opentar.core.errors import ConfigError
from opentar.image_to_tokens.neighbours import Neighbours
from opentar.vocab import Scale

_LOW, _HIGH = 70, 235
"""Brightness of the colours of codes: neither black nor white."""
_ROWS = 4096
"""Rows that are computed with at once."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The codes of a picture."""

    scale: Scale
    """Its grid."""
    codes: tuple[int, ...]
    """`scale.length` codes, row by row."""

    def __post_init__(self) -> None:
        if len(self.codes) != self.scale.length:
            raise ConfigError(f"{len(self.codes)} codes were given; a grid of this scale has {self.scale.length}")

    def place(self, cell: int) -> tuple[int, int]:
        """Row and column of a cell, from 1."""
        return cell // self.scale.side + 1, cell % self.scale.side + 1


class Codebook:
    """What the rows of a codebook mean to each other.

    Args:
        table_KC: the rows, of any type and on any device.
        words: of each row the word that it was made of; empty where the model ships none.
    """

    def __init__(self, table_KC: Tensor, words: Sequence[str] = ()) -> None:
        # Not copied: the published one has 400 MB.
        self._table_KC = table_KC.detach()
        self._norm_K = torch.cat([rows.float().norm(dim=-1) for rows in self._blocks()]).clamp(min=1e-12)
        self._words = words
        self._colours = self._made_colours()

    def _blocks(self) -> tuple[Tensor, ...]:
        return self._table_KC.split(_ROWS)

    @property
    def size(self) -> int:
        """Rows."""
        return len(self._table_KC)

    def word(self, code: int) -> str:
        """The word of a code; an empty text where there is none."""
        return self._words[code] if self._words else ""

    def name(self, code: int) -> str:
        """The word and the number of a code."""
        return f"{self.word(code)} · {code}" if self._words else str(code)

    def neighbours(self, code: int, count: int = 6) -> list[int]:
        """The nearest other codes, nearest first. Raises ConfigError for a code that does not exist."""
        code = self.checked(code)
        return Neighbours(self._table_KC).nearest([code], count + 1)[0][1:]

    def checked(self, code: object) -> int:
        """`code` as it is. Raises ConfigError where it is no code of this book."""
        number = int(code) if isinstance(code, (int, float)) and code == int(code) else -1
        if not 0 <= number < self.size:
            raise ConfigError(f"there is no code {code}; codes are whole numbers from 0 to {self.size - 1}")
        return number

    def colours(self) -> list[tuple[int, int, int]]:
        """RGB of each code: like codes have like colours. They mean nothing else."""
        return self._colours

    def _made_colours(self) -> list[tuple[int, int, int]]:
        every = max(1, self.size // _ROWS)
        some_MC = self._table_KC[::every].float() / self._norm_K[::every, None]
        mean_C = some_MC.mean(dim=0)
        some_MC = some_MC - mean_C
        main_C3 = torch.linalg.eigh(some_MC.T @ some_MC).eigenvectors[:, -3:]
        place_K3 = torch.cat([rows.float() @ main_C3 for rows in self._blocks()]) / self._norm_K[:, None]
        # Ranks, so that every brightness is used by as many codes.
        rank_K3 = place_K3.argsort(dim=0).argsort(dim=0).float() / max(1, self.size - 1)
        rgb_K3 = (rank_K3 * (_HIGH - _LOW) + _LOW).round().int()
        return [(int(red), int(green), int(blue)) for red, green, blue in rgb_K3.tolist()]


class Codebooks:
    """The codebook of each model in memory, made once; it goes when its model goes."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[object, Codebook] = WeakKeyDictionary()

    def of(self, model: object, table_KC: Tensor, words: Sequence[str]) -> Codebook:
        """That of a model."""
        found = self._kept.get(model)
        if found is None:
            found = self._kept[model] = Codebook(table_KC, words)
        return found


def replaced(grid: Grid, changes: Mapping[int, int]) -> Grid:
    """The grid with other codes in some cells. Raises ConfigError for a cell that does not exist."""
    codes = list(grid.codes)
    for cell, code in changes.items():
        if not 0 <= cell < len(codes):
            raise ConfigError(f"there is no cell {cell}; cells are counted from 0 to {len(codes) - 1}")
        codes[cell] = code
    return Grid(scale=grid.scale, codes=tuple(codes))


def differing(one: Grid, other: Grid) -> list[int]:
    """The cells whose codes differ. Raises ConfigError for grids of two scales."""
    if one.scale.index != other.scale.index:
        raise ConfigError(
            f"grids of {one.scale.side} x {one.scale.side} and {other.scale.side} x {other.scale.side} codes cannot be "
            "compared; read both pictures at one scale"
        )
    return [cell for cell, (a, b) in enumerate(zip(one.codes, other.codes, strict=True)) if a != b]
