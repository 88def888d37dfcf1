"""The fixed sets that scores are compared on: the same scenes, questions and prompts for everybody, with stable ids.

Each item has a random generator of its own, seeded by the set's number and the item's index, so that a subset equals
the same items of the whole. Combinations come from the split by hash; the pictures are drawn with `render` and the
sprites named by the set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from opentar.core.errors import DataError
from opentar.nano.world.captions import plain
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.layout import Draws
from opentar.nano.world.questions import NEGATIVES, absent_concept, presence_question
from opentar.nano.world.scenes import SceneGenerator
from opentar.nano.world.spec import KINDS, SceneSpec, relation

HASHED_KINDS: tuple[str, ...] = ("colour", "count", "two", "position", "attribution", "counted_colour")
"""Kinds that have held-out combinations; a single object has none."""

GENEVAL_TAGS: dict[str, str] = {
    "single_object": "single",
    "two_object": "two",
    "counting": "count",
    "colors": "colour",
    "position": "position",
    "color_attr": "attribution",
}
"""GenEval's tags and the world's kinds."""

COMBO_SIZE, POPE_SIZE, GENEVAL_SIZE = 3000, 1000, 100

_SEEDS = {"test_combo": 102, "pope": 104, "geneval": 105}
_FRESH_TRIES = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedScene:
    """One scene of a fixed set."""

    id: str
    spec: SceneSpec


def _item_rng(name: str, *index: int) -> np.random.Generator:
    return np.random.default_rng([_SEEDS[name], *index])


def combo_scenes(number: int = COMBO_SIZE) -> tuple[FixedScene, ...]:
    """Test combinations in training styles, equally many of each kind that has any (500 a kind); ids name the kind."""
    generator = SceneGenerator("test")
    kinds = [HASHED_KINDS[n % len(HASHED_KINDS)] for n in range(number)]
    return tuple(
        FixedScene(id=f"combo-{kind}-{n:04d}", spec=generator.sample(_item_rng("test_combo", n), kind))
        for n, kind in enumerate(kinds)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PopeQuestion:
    """One presence question about one picture."""

    question_id: int
    image: str
    """Name of the picture; the same name always stands for the same scene."""
    text: str
    label: str
    """ "yes" or "no"."""
    spec: SceneSpec

    def to_line(self) -> dict[str, Any]:
        """POPE's JSON line (question_id, image, text, label) and the scene to draw."""
        return {
            "question_id": self.question_id,
            "image": self.image,
            "text": self.text,
            "label": self.label,
            "scene": self.spec.to_dict(),
        }


def pope_questions(setting: str, number: int = POPE_SIZE, lang: str = "en") -> tuple[PopeQuestion, ...]:
    """POPE-like questions of one setting ("random", "popular", "adversarial"): half yes, half no, two a picture.

    The pictures are held-out test combinations in training styles, all kinds in turn, the same in every setting.
    """
    if setting not in NEGATIVES:
        raise DataError(f"unknown POPE setting {setting!r}: choose one of {', '.join(NEGATIVES)}")
    generator, concepts = SceneGenerator("test"), load_concepts()
    found: list[PopeQuestion] = []
    for n in range(-(-number // 2)):
        rng = _item_rng("pope", n)
        spec = generator.sample(rng, KINDS[n % len(KINDS)])
        draws = Draws(_item_rng("pope", n, NEGATIVES.index(setting)))
        present = list(dict.fromkeys(o.concept for o in spec.objects))
        asked = present[int(rng.integers(len(present)))]
        absent = absent_concept([asked, *present], draws, setting)
        pairs = [(asked, "yes"), (absent, "no")]
        for concept, label in pairs if rng.random() < 0.5 else pairs[::-1]:
            text = presence_question(concepts[concept], lang)
            image = f"nano_pope_{n:04d}.png"
            found.append(PopeQuestion(question_id=len(found) + 1, image=image, text=text, label=label, spec=spec))
    return tuple(found[:number])


@dataclass(frozen=True, kw_only=True, slots=True)
class GenevalPrompt:
    """One prompt with what must be in the drawing and one true scene of it."""

    id: str
    tag: str
    prompt: str
    include: tuple[dict[str, Any], ...]
    """GenEval's conditions: class, count, and where the tag has them color and position [relation, index]."""
    exclude: tuple[dict[str, Any], ...]
    spec: SceneSpec

    def to_line(self) -> dict[str, Any]:
        """GenEval's JSON line (tag, include, exclude, prompt) with our id and the true scene."""
        line: dict[str, Any] = {"tag": self.tag, "include": list(self.include)}
        if self.exclude:
            line["exclude"] = list(self.exclude)
        return {**line, "prompt": self.prompt, "id": self.id, "scene": self.spec.to_dict()}


_GENEVAL_RELATION = {"left": "left of", "right": "right of", "above": "above", "below": "below"}


def _conditions(spec: SceneSpec) -> tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]]:
    """GenEval's include and exclude lists of a scene."""
    concepts, first = load_concepts(), spec.objects[0]
    name = concepts[first.concept].en
    if spec.kind == "count":
        number = len(spec.objects)
        return ({"class": name, "count": number},), ({"class": name, "count": number + 1},)
    items: list[dict[str, Any]] = []
    # In GenEval the reference comes first and the placed object points back to it.
    for item in spec.objects[::-1] if spec.kind == "position" else spec.objects:
        entry: dict[str, Any] = {"class": concepts[item.concept].en, "count": 1}
        if item.colour:
            entry["color"] = item.colour
        items.append(entry)
    where = relation(*spec.objects) if spec.kind == "position" else None
    if where:
        items[1]["position"] = [_GENEVAL_RELATION[where], 0]
    return tuple(items), ()


def _combination(spec: SceneSpec) -> tuple[Any, ...]:
    """What makes a prompt the same prompt, the background aside."""
    where = relation(*spec.objects) if spec.kind == "position" else None
    return (spec.kind, where, tuple((o.concept, o.colour) for o in spec.objects))


def _fresh(draw: Callable[[], SceneSpec], seen: set[tuple[Any, ...]]) -> SceneSpec:
    """A scene of a new combination, or where those are used up an old one on another background."""
    for known in (_combination, lambda spec: (*_combination(spec), spec.background)):
        for _ in range(_FRESH_TRIES):
            spec = draw()
            if known(spec) not in seen:
                seen.update((_combination(spec), (*_combination(spec), spec.background)))
                return spec
    return spec


def geneval_prompts(number: int = GENEVAL_SIZE, styles: Sequence[str] | None = None) -> tuple[GenevalPrompt, ...]:
    """GenEval-like prompts: six tags, `number` each, from held-out test combinations, on named backgrounds.

    The prompts never change. `styles` draws the true scenes in those styles (default: all training styles); a scene
    that they cannot draw on its ground stays as it is.
    """
    generator = SceneGenerator("test")
    redrawer = None if styles is None else SceneGenerator("test", styles)
    found: list[GenevalPrompt] = []
    for t, (tag, kind) in enumerate(GENEVAL_TAGS.items()):
        seen: set[tuple[Any, ...]] = set()
        for n in range(number):
            rng = _item_rng("geneval", t, n)
            spec = _fresh(lambda rng=rng, kind=kind: generator.sample(rng, kind), seen)  # type: ignore[misc]
            if redrawer is not None:
                with suppress(DataError):
                    spec = redrawer.redraw(rng, spec)
            include, exclude = _conditions(spec)
            identity, prompt = f"geneval-{tag}-{n:03d}", plain(spec, "en", True)
            found.append(
                GenevalPrompt(id=identity, tag=tag, prompt=prompt, include=include, exclude=exclude, spec=spec)
            )
    return tuple(found)
