"""Draws a scene: plain ground, scaled drawings, premultiplied alpha on each box only.

`SpriteBook` wraps a SpriteSet with what drawing needs again and again: trimmed drawings, scaled copies in a cache
bounded by bytes, recolouring tables, and on which grounds a drawing can be seen.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.palette import BACKGROUND_RGB, COLOUR_INDEX, COLOURS, nearest_colour
from opentar.nano.world.recolour import brightness_weights, luminance, recolour_table, table_is_true, visible_share
from opentar.nano.world.spec import PICTURE, SceneSpec
from opentar.nano.world.sprites import SpriteSet, load_sprites

VISIBLE_SHARE: float = 0.7
"""A drawing goes on a ground only if this share of it stands out."""

CACHE_BYTES: int = 256 * 2**20
"""Bound of the scaled copies of one SpriteBook."""


class Scaled(NamedTuple):
    """A drawing at one size, ready to lay on a picture (H, W in pixels)."""

    own: np.ndarray
    """(H, W, 3) uint8: premultiplied own colours."""
    brightness: np.ndarray
    """(H, W) uint8: index into a recolouring table."""
    cover: np.ndarray
    """(H, W, 1) uint16, 0..256: how much it covers."""
    under: np.ndarray
    """(H, W, 1) uint16: 256 - cover."""


class Facts(NamedTuple):
    """What is known of one drawing."""

    trimmed: Image.Image
    """Premultiplied RGBa, cut to its visible bounds."""
    weights: np.ndarray
    """(256,) brightness histogram."""
    visible: np.ndarray
    """(backgrounds,) bool, in its own colours."""
    main_colour: str
    """Palette word that most of its pixels are nearest to."""


class SpriteBook:
    """Drawings of one SpriteSet, by concept index, prepared for scenes."""

    def __init__(self, sprites: SpriteSet, cache_bytes: int = CACHE_BYTES) -> None:
        self.sprites = sprites
        self._hex = [concept.hex for concept in load_concepts()]
        self._facts: dict[tuple[int, str], Facts] = {}
        self._tables: dict[tuple[int, str, str], tuple[np.ndarray, np.ndarray, bool]] = {}
        self._scaled: OrderedDict[tuple[int, str, int, int], Scaled] = OrderedDict()
        self._bytes, self._limit = 0, cache_bytes

    def has(self, concept: int, style: str) -> bool:
        """Whether this style draws the concept."""
        return self.sprites.has(self._hex[concept], style)

    def facts(self, concept: int, style: str) -> Facts:
        """Trimmed drawing, histogram and visibility; DataError where the style lacks the concept."""
        key = (concept, style)
        known = self._facts.get(key)
        if known is not None:
            return known
        rgba = np.array(self.sprites.trimmed(self._hex[concept], style))
        # A fifth of the pixels in each direction says enough about what stands out, and keeps loading quick.
        sample = rgba[::5, ::5].reshape(-1, 4)
        share = visible_share(sample[:, 3].astype(np.float32), sample[:, :3])
        # Drawings of black and white parts are nowhere seen whole: they go where most of them is seen.
        visible = share >= min(VISIBLE_SHARE, float(share.max()) - 0.05)
        votes = np.bincount(nearest_colour(sample[:, :3]), sample[:, 3], minlength=len(COLOURS))
        main = COLOURS[int(votes.argmax())]
        found = Facts(Image.fromarray(rgba).convert("RGBa"), brightness_weights(rgba), visible, main)
        self._facts[key] = found
        return found

    def size(self, concept: int, style: str, longest: int) -> tuple[int, int]:
        """Width and height when the longer side is `longest` pixels."""
        width, height = self.facts(concept, style).trimmed.size
        scale = longest / max(width, height)
        return max(3, round(width * scale)), max(3, round(height * scale))

    def table(self, concept: int, style: str, colour: str) -> tuple[np.ndarray, np.ndarray, bool]:
        """Recolouring table (256, 3) uint8, grounds it is seen on (bool), and whether the colour comes out true."""
        key = (concept, style, colour)
        known = self._tables.get(key)
        if known is None:
            weights = self.facts(concept, style).weights
            table = recolour_table(weights, COLOUR_INDEX[colour])
            # Every fourth brightness is enough to judge the ground by.
            seen = visible_share(weights.reshape(64, 4).sum(axis=1), table[2::4]) >= VISIBLE_SHARE
            known = (table, seen, table_is_true(weights, table, COLOUR_INDEX[colour]))
            self._tables[key] = known
        return known

    def scaled(self, concept: int, style: str, width: int, height: int) -> Scaled:
        """The drawing at exactly this size, from the cache or newly made."""
        key = (concept, style, width, height)
        known = self._scaled.get(key)
        if known is not None:
            self._scaled.move_to_end(key)
            return known
        small = np.asarray(self.facts(concept, style).trimmed.resize((width, height), Image.Resampling.HAMMING))
        alpha = small[..., 3:].astype(np.uint16)
        cover = alpha + (alpha >> 7)
        own = np.ascontiguousarray(small[..., :3])
        plain = luminance(own).astype(np.uint16) * 255 // np.maximum(alpha[..., 0], 1)
        made = Scaled(own, np.minimum(plain, 255).astype(np.uint8), cover, 256 - cover)
        self._scaled[key] = made
        self._bytes += 8 * width * height
        while self._bytes > self._limit and len(self._scaled) > 1:
            (_, _, old_width, old_height), _ = self._scaled.popitem(last=False)
            self._bytes -= 8 * old_width * old_height
        return made


@lru_cache(maxsize=8)
def load_book(split: str = "train") -> SpriteBook:
    """The book of a split's styles (not combinations), one for each process."""
    return SpriteBook(load_sprites(split))


_BOOKS: dict[int, SpriteBook] = {}


def book_of(sprites: SpriteSet | SpriteBook) -> SpriteBook:
    """The book of a SpriteSet; asking twice gives the same book, so that its cache lives on."""
    if isinstance(sprites, SpriteBook):
        return sprites
    # The book keeps its set alive, so an id in this table cannot be given to another object.
    return _BOOKS.setdefault(id(sprites), SpriteBook(sprites))


_GROUNDS: dict[str, np.ndarray] = {
    name: np.full((PICTURE, PICTURE, 3), rgb, np.uint8) for name, rgb in BACKGROUND_RGB.items()
}


def render(spec: SceneSpec, sprites: SpriteSet | SpriteBook) -> np.ndarray:
    """The picture of a scene, (128, 128, 3) uint8 RGB; the set must hold every style the scene names."""
    book = book_of(sprites)
    picture = _GROUNDS[spec.background].copy()
    for item in spec.objects:
        x0, y0, x1, y1 = item.box
        drawing = book.scaled(item.concept, item.style, x1 - x0, y1 - y0)
        region = picture[y0:y1, x0:x1]
        if item.colour is None:
            region[...] = drawing.own + ((region * drawing.under) >> 8)
        else:
            table = book.table(item.concept, item.style, item.colour)[0]
            top = table.take(drawing.brightness, axis=0) * drawing.cover
            region[...] = (top + region * drawing.under) >> 8
    return picture
