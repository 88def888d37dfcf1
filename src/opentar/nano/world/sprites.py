"""The shipped drawings: transparent pictures by concept and style, decoded when first asked for."""

import io
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

import numpy as np
from PIL import Image

from opentar.core.errors import DataError

Split = Literal["train", "val", "test"]
NATIVE_SIZE = 128


@dataclass(frozen=True, kw_only=True)
class _Stored:
    webp: bytes
    box: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class SpriteSet:
    """All drawings of one split at one size. Pictures are cached (about 64 KB each at 128 px) and read-only."""

    split: str
    size: int
    styles: tuple[str, ...]
    """Style names in a fixed order."""
    _stored: dict[tuple[str, str], _Stored] = field(repr=False)
    _decoded: dict[tuple[str, str], np.ndarray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self._stored)

    def keys(self) -> tuple[tuple[str, str], ...]:
        """Every (hex, style) of the set, in the order of the file."""
        return tuple(self._stored)

    def has(self, hex: str, style: str) -> bool:
        """Whether this style draws this concept."""
        return (hex, style) in self._stored

    def styles_of(self, hex: str) -> tuple[str, ...]:
        """Styles that draw this concept, in the order of `styles`."""
        return tuple(style for style in self.styles if (hex, style) in self._stored)

    def get(self, hex: str, style: str) -> np.ndarray:
        """The whole canvas: uint8 RGBA (size, size, 4), straight alpha, read-only. Raises DataError if absent."""
        key = (hex, style)
        if key not in self._decoded:
            self._decoded[key] = self._decode(key)
        return self._decoded[key]

    def box(self, hex: str, style: str) -> tuple[int, int, int, int]:
        """Bounding box (x0, y0, x1, y1) of the visible pixels on the canvas, x1 and y1 exclusive."""
        x0, y0, x1, y1 = self._row((hex, style)).box
        if self.size == NATIVE_SIZE:
            return x0, y0, x1, y1
        ratio = self.size / NATIVE_SIZE
        return int(x0 * ratio), int(y0 * ratio), int(np.ceil(x1 * ratio)), int(np.ceil(y1 * ratio))

    def trimmed(self, hex: str, style: str) -> np.ndarray:
        """The drawing cut to its bounding box: uint8 RGBA (h, w, 4), a read-only view of `get`."""
        x0, y0, x1, y1 = self.box(hex, style)
        return self.get(hex, style)[y0:y1, x0:x1]

    def _row(self, key: tuple[str, str]) -> _Stored:
        if key not in self._stored:
            styles = ", ".join(self.styles_of(key[0])) or "none"
            raise DataError(f"no drawing of {key[0]} in style {key[1]!r} in split {self.split}; it has: {styles}")
        return self._stored[key]

    def _decode(self, key: tuple[str, str]) -> np.ndarray:
        picture = Image.open(io.BytesIO(self._row(key).webp)).convert("RGBA")
        if self.size != NATIVE_SIZE:
            # premultiplied, so that the colour of transparent pixels does not bleed into the rim
            resized = picture.convert("RGBa").resize((self.size, self.size), Image.Resampling.LANCZOS)
            picture = resized.convert("RGBA")
        pixels = np.array(picture)
        pixels.setflags(write=False)
        return pixels


@cache
def load_sprites(split: Split = "train", size: int = NATIVE_SIZE) -> SpriteSet:
    """Open the drawings of a split (a few milliseconds; pictures are decoded on first use and shared afterwards).

    Raises DataError for an unknown split, a size outside 8..128 or a missing file.
    """
    if split not in get_args(Split):
        raise DataError(f"unknown sprite split {split!r}; allowed: {', '.join(get_args(Split))}")
    if not 8 <= size <= NATIVE_SIZE:
        raise DataError(f"sprite size {size} is out of range; allowed: 8 to {NATIVE_SIZE}")
    import pyarrow.parquet as pq

    resource = files("opentar.nano.world") / "files" / f"sprites_{split}.parquet"
    if not resource.is_file():
        raise DataError(f"sprites_{split}.parquet is not part of this installation; reinstall opentar")
    rows = pq.read_table(io.BytesIO(resource.read_bytes())).to_pylist()
    stored = {
        (row["hex"], row["style"]): _Stored(webp=row["webp"], box=(row["x0"], row["y0"], row["x1"], row["y1"]))
        for row in rows
    }
    styles = tuple(dict.fromkeys(row["style"] for row in rows))
    return SpriteSet(split=split, size=size, styles=styles, _stored=stored)
