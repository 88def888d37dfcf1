"""The shared alphabet: where words end, where codes begin. Pure integer arithmetic, nothing is ever parsed from text.

Order of the ids (the published one, so that published and nano models differ only in three numbers)::

    0 .. text_size-1 | <im_start> <im_end> | <S0> <S1> <S2> | <I0> .. <I{codebook_size-1}>

Every method takes an int, or a tensor or array of integers of any shape, and returns the same kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from opentar.core.bounds import SIDE, SIZE, Range, within
from opentar.core.config import plain_number
from opentar.core.errors import ConfigError, ModelError, shown

POOLS = (1, 2, 3)
"""Average-pooling factors of the three scales; the scale's index is its pool minus one."""

Ids = TypeVar("Ids")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One size of code grid. Index, pooling factor and length are three numberings of one idea: pass this object."""

    index: int
    """0, 1 or 2: the k of <Sk>."""
    pool: int
    """Average-pooling factor over the base grid, index + 1."""
    side: int
    """Rows and columns of the code grid."""
    length: int
    """Codes in the grid, side * side."""


@dataclass(frozen=True, kw_only=True)
class Vocab:
    """Ids of words, boundaries, scales and codes. Raises ConfigError on sizes that make no alphabet."""

    text_size: int
    """Ids of the text tokenizer, its special tokens included."""
    codebook_size: int
    """Entries of the image codebook."""
    grid_side: int
    """Rows and columns of the base grid (12 for nano, 27 published)."""
    first_new: int | None = None
    """Id of <im_start> where it does not follow the text at once (a padded table); None means text_size."""

    def __post_init__(self) -> None:
        within(self, SIZE, "text_size", "codebook_size", "first_new", where="vocab.")
        within(self, Range(max(POOLS), SIDE.high), "grid_side", where="vocab.")
        if self.first_new is not None and self.first_new < self.text_size:
            raise ConfigError(
                f"vocab.first_new is {self.first_new}; it must be at least {self.text_size}, the number of text ids"
            )

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The three grids from the finest to the coarsest."""
        sides = [self.grid_side // pool for pool in POOLS]
        return tuple(
            Scale(index=pool - 1, pool=pool, side=side, length=side * side)
            for pool, side in zip(POOLS, sides, strict=True)
        )

    def scale(self, index: int) -> Scale:
        """The scale with this index. Raises ConfigError for anything but 0, 1, 2."""
        number = plain_number(index)
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(POOLS):
            told = number if isinstance(number, (int, float)) else shown(index)
            raise ConfigError(f"scale {told} does not exist; choose 0, 1 or 2 ({self._lengths()} codes)")
        return self.scales[number]

    def scale_of_length(self, length: int) -> Scale:
        """The scale whose grid holds `length` codes. Raises ModelError if none does."""
        for scale in self.scales:
            if scale.length == length:
                return scale
        raise ModelError(f"{length} codes do not fill a grid; a picture has {self._lengths()} codes")

    def _lengths(self) -> str:
        first, second, third = (scale.length for scale in self.scales)
        return f"{first}, {second} or {third}"

    @property
    def image_start(self) -> int:
        """Id of <im_start>."""
        return self.text_size if self.first_new is None else self.first_new

    @property
    def image_end(self) -> int:
        """Id of <im_end>."""
        return self.image_start + 1

    def scale_token(self, index: int) -> int:
        """Id of <S{index}>. Raises ConfigError for an unknown scale."""
        return self.image_start + 2 + self.scale(index).index

    @property
    def first_code(self) -> int:
        """Id of <I0>."""
        return self.image_start + 2 + len(POOLS)

    @property
    def size(self) -> int:
        """Rows an embedding table needs for this alphabet."""
        return self.first_code + self.codebook_size

    def code_token(self, code: Ids) -> Ids:
        """Codes -> ids. Raises ModelError if a code lies outside 0 .. codebook_size-1."""
        if not _within(code, 0, self.codebook_size):
            raise ModelError(f"a code is outside 0 to {self.codebook_size - 1}: {_sample(code, 0, self.codebook_size)}")
        numbers: Any = code
        return numbers + self.first_code

    def code_of(self, token: Ids) -> Ids:
        """Ids -> codes. Raises ModelError if an id is not a code."""
        if not _within(token, self.first_code, self.size):
            wrong = _sample(token, self.first_code, self.size)
            raise ModelError(f"a token is no image code: {wrong}; codes are {self.first_code} to {self.size - 1}")
        numbers: Any = token
        return numbers - self.first_code

    def is_code(self, token: Any) -> Any:
        """Whether ids are codes: a bool for an int, a boolean tensor or array of the same shape otherwise."""
        return _inside(token, self.first_code, self.size)


def _inside(ids: Any, low: int, high: int) -> Any:
    return low <= ids < high if isinstance(ids, int) else (ids >= low) & (ids < high)


def _within(ids: Any, low: int, high: int) -> bool:
    inside = _inside(ids, low, high)
    return inside if isinstance(inside, bool) else bool(inside.all())


def _sample(ids: Any, low: int, high: int) -> int:
    """The first offending id, for the error line."""
    return ids if isinstance(ids, int) else int(ids[(ids < low) | (ids >= high)].reshape(-1)[0])
