"""Draws scenes by lot: kinds, layouts, colours and grounds, within one split of the combinations.

All chance comes from the generator given to `sample` and `mosaic`. A training scene holds no held-out part; in a
validation or test scene every hashed part is held out (see split.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from opentar.core.errors import DataError
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.layout import TIDY_LARGE, TIDY_SMALL, Box, Draws, beside, free, grid, mosaic_sizes, tidy
from opentar.nano.world.palette import BACKGROUNDS, COLOUR_INDEX, COLOURS
from opentar.nano.world.render import SpriteBook, book_of, load_book, render
from opentar.nano.world.spec import (
    KINDS,
    MOSAIC,
    RELATIONS,
    DenseLabels,
    ObjectSpec,
    SceneSpec,
    counted,
    labels,
    relation,
)
from opentar.nano.world.split import COUNTS, split_index, split_tables
from opentar.nano.world.sprites import SpriteSet

__all__ = ["SHARES", "DenseLabels", "ObjectSpec", "SceneGenerator", "SceneSpec", "labels", "render"]

SHARES: dict[str, float] = {
    "single": 0.25,
    "colour": 0.15,
    "count": 0.15,
    "two": 0.15,
    "position": 0.15,
    "attribution": 0.10,
    "counted_colour": 0.05,
}
"""Share of each kind unless told otherwise."""

NO_COUNTING: frozenset[str] = frozenset({"streamline"})
"""Styles that add loose marks around a drawing, so that its number cannot be told."""

_TRIES = 400
_SIZES_COUNT = {2: (36, 56), 3: (32, 48), 4: (28, 44)}


@dataclass(frozen=True, slots=True)
class _Choice:
    """A drawing without its place."""

    concept: int
    style: str
    colour: str | None


class SceneGenerator:
    """Draws scene descriptions of one split.

    `split` chooses the combinations; `styles` the drawing styles (default: all of the sprites given, and by default
    the training styles); `kinds` limits the kinds; `shares` weighs them; `tidy` is the share of scenes that stand in
    fixed places instead of anywhere. Unknown names raise DataError.
    """

    def __init__(
        self,
        split: str = "train",
        styles: Sequence[str] | None = None,
        kinds: Sequence[str] | None = None,
        shares: Mapping[str, float] | None = None,
        sprites: SpriteSet | SpriteBook | None = None,
        tidy: float = 0.0,
    ) -> None:
        self.split, self.tidy = split, tidy
        self.book = load_book("train") if sprites is None else book_of(sprites)
        known = tuple(self.book.sprites.styles)
        self.styles = known if styles is None else tuple(styles)
        for style in self.styles:
            if style not in known:
                raise DataError(f"unknown style {style!r}: these sprites have {', '.join(known)}")
        weights = dict(SHARES) if shares is None else dict(shares)
        self.kinds = tuple(kinds) if kinds is not None else tuple(weights)
        for kind in (*self.kinds, *weights):
            if kind not in KINDS:
                raise DataError(f"unknown kind {kind!r}: choose of {', '.join(KINDS)}")
        self._edges = np.cumsum([weights.get(kind, 0.0) for kind in self.kinds]).tolist()
        if not self.kinds or self._edges[-1] <= 0:
            raise DataError("the shares of the chosen kinds sum to 0: give at least one kind a share above 0")
        self._fill(split_index(split))

    def _fill(self, split: int) -> None:
        """Lists of what may be drawn: styles, colours, numbers and partners of each concept."""
        concepts, tables = load_concepts(), split_tables()
        self._styles_of = [[s for s in self.styles if self.book.has(i, s)] for i in range(len(concepts))]
        self._counting_styles = [[s for s in styles if s not in NO_COUNTING] for styles in self._styles_of]
        drawn = [i for i, styles in enumerate(self._styles_of) if styles]
        self._drawn = drawn
        self._colours: dict[int, list[str]] = {}
        self._counts: dict[int, list[int]] = {}
        self._partners: dict[int, list[int]] = {}
        self._train_pair = tables.pair == 0
        self._train_colours = tables.colour == 0
        self._paintable = [c.own_colour is None for c in concepts]
        for i in drawn:
            words = [w for k, w in enumerate(COLOURS) if tables.colour[i, k] == split and self._paintable[i]]
            numbers = [n for n in COUNTS if tables.count[i, n] == split and concepts[i].countable]
            partners = [j for j in drawn if j != i and tables.pair[i, j] == split]
            for store, found in ((self._colours, words), (self._partners, partners)):
                if found:
                    store[i] = found  # type: ignore[assignment]
            if numbers and self._counting_styles[i]:
                self._counts[i] = numbers
        self._coloured, self._counted, self._paired = list(self._colours), list(self._counts), list(self._partners)
        self._both = [i for i in self._counted if i in self._colours]

    def sample(self, rng: np.random.Generator, kind: str | None = None) -> SceneSpec:
        """One scene; `kind` overrides the lot. DataError when this split has no scene of the kind."""
        draws = Draws(rng)
        if kind is None:
            lot = draws.unit() * self._edges[-1]
            kind = next(k for k, edge in zip(self.kinds, self._edges, strict=True) if lot < edge)
        for _ in range(_TRIES):
            choices, where = self._choose(kind, draws)
            scene = self._arrange(kind, choices, where, draws) if choices else None
            if scene:
                return scene
        raise DataError(f"no {kind!r} scene in split {self.split!r} with styles {', '.join(self.styles)}: add styles")

    def redraw(self, rng: np.random.Generator, spec: SceneSpec) -> SceneSpec:
        """The same objects, relation and ground in this generator's styles, newly placed; for fixed prompts.

        DataError where these styles do not draw a concept, or it cannot be seen on the ground.
        """
        draws = Draws(rng)
        counting = counted(spec)
        where = relation(*spec.objects) if spec.kind == "position" else None
        possible = all(self._styles_of[o.concept] for o in spec.objects)
        for _ in range(_TRIES if possible else 0):
            choices = [_Choice(o.concept, self._style(o.concept, draws, counting), o.colour) for o in spec.objects]
            if counting:
                choices = [choices[0]] * len(choices)
            scene = self._arrange(spec.kind, choices, where, draws, spec.background)
            if scene:
                return scene
        raise DataError(f"cannot redraw this {spec.kind!r} scene in styles {', '.join(self.styles)}: add styles")

    def _style(self, concept: int, draws: Draws, counting: bool) -> str:
        return draws.pick((counting and self._counting_styles[concept]) or self._styles_of[concept])

    def _choose(self, kind: str, draws: Draws) -> tuple[list[_Choice], str | None]:
        """Which drawings and, for a position, which relation; an empty list where the lot fell on nothing."""
        if kind == "single":
            concept = draws.pick(self._drawn)
            return [_Choice(concept, self._style(concept, draws, False), None)], None
        if kind == "colour":
            concept = draws.pick(self._coloured)
            return [_Choice(concept, self._style(concept, draws, False), draws.pick(self._colours[concept]))], None
        if kind in ("count", "counted_colour"):
            concept = draws.pick(self._counted if kind == "count" else self._both)
            colour = None if kind == "count" else draws.pick(self._colours[concept])
            one = _Choice(concept, self._style(concept, draws, True), colour)
            return [one] * draws.pick(self._counts[concept]), None
        first = draws.pick(self._paired)
        second = draws.pick(self._partners[first])
        colours: list[str | None] = [None, None]
        if kind == "attribution":
            if first not in self._colours or second not in self._colours:
                return [], None
            colours = [draws.pick(self._colours[first]), draws.pick(self._colours[second])]
            if colours[0] == colours[1]:
                return [], None
        pair = [
            _Choice(concept, self._style(concept, draws, False), colour)
            for concept, colour in zip((first, second), colours, strict=True)
        ]
        return pair, draws.pick(RELATIONS) if kind == "position" else None

    def _arrange(
        self, kind: str, choices: list[_Choice], where: str | None, draws: Draws, ground: str | None = None
    ) -> SceneSpec | None:
        """Ground (unless given), sizes and places for the drawings; None where they do not fit or cannot be seen."""
        allowed = self._grounds(choices)
        if not allowed or (ground is not None and ground not in allowed):
            return None
        background = ground or draws.pick(allowed)
        if self.tidy and draws.unit() < self.tidy:
            side = TIDY_LARGE if len(choices) == 1 else TIDY_SMALL
            sizes = [self.book.size(c.concept, c.style, side) for c in choices]
            return self._scene(kind, background, choices, tidy(sizes, where))
        if len(choices) == 1:
            longest = [draws.step(44, 108)]
        elif kind in ("count", "counted_colour"):
            longest = [draws.step(*_SIZES_COUNT[len(choices)])] * len(choices)
        else:
            longest = [draws.step(36, 60) for _ in choices]
        sizes = [self.book.size(c.concept, c.style, side) for c, side in zip(choices, longest, strict=True)]
        boxes = beside(sizes[0], sizes[1], where, draws) if where else free(sizes, draws)
        return self._scene(kind, background, choices, boxes) if boxes else None

    def _grounds(self, choices: Sequence[_Choice]) -> list[str]:
        """Grounds that all drawings stand out from; none where a colour does not come out true."""
        seen: np.ndarray | None = None
        for c in choices:
            if c.colour is None:
                one = self.book.facts(c.concept, c.style).visible
            else:
                _, one, true = self.book.table(c.concept, c.style, c.colour)
                # A held-out colour that the drawing has by nature would not be unseen.
                natural = self.split != "train" and self.book.facts(c.concept, c.style).main_colour == c.colour
                if not true or natural:
                    return []
            seen = one if seen is None or seen is one else seen & one
        return [BACKGROUNDS[n] for n in np.flatnonzero(seen)] if seen is not None else []

    @staticmethod
    def _scene(kind: str, background: str, choices: Sequence[_Choice], boxes: Sequence[Box]) -> SceneSpec:
        objects = tuple(
            ObjectSpec(concept=c.concept, style=c.style, colour=c.colour, box=box)
            for c, box in zip(choices, boxes, strict=True)
        )
        return SceneSpec(kind=kind, background=background, objects=objects)

    def mosaic(self, rng: np.random.Generator, recoloured: float = 0.6) -> SceneSpec:
        """Four to nine different objects in a jittered grid, each its own style; for training vision only.

        `recoloured` is the share of objects in a palette colour. Only training combinations appear, whatever the
        split of this generator: every pair in the picture and every recolouring is checked.
        """
        draws = Draws(rng)
        number = 4 + draws.below(6)
        rows, columns, longest = mosaic_sizes(number, draws)
        background = BACKGROUNDS[draws.below(len(BACKGROUNDS))]
        ground = BACKGROUNDS.index(background)
        choices: list[_Choice] = []
        for _ in range(_TRIES):
            if len(choices) == number:
                break
            concept = draws.pick(self._drawn)
            if any(c.concept == concept or not self._train_pair[concept, c.concept] for c in choices):
                continue
            style, colour = self._style(concept, draws, False), None
            if draws.unit() < recoloured and self._paintable[concept]:
                colour = draws.pick(COLOURS)
                table = self.book.table(concept, style, colour)
                if not (self._train_colours[concept, COLOUR_INDEX[colour]] and table[1][ground] and table[2]):
                    continue
            elif not self.book.facts(concept, style).visible[ground]:
                continue
            choices.append(_Choice(concept, style, colour))
        sizes = [
            self.book.size(c.concept, c.style, side) for c, side in zip(choices, longest[: len(choices)], strict=True)
        ]
        return self._scene(MOSAIC, background, choices, grid(sizes, rows, columns, draws))
