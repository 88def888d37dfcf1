"""Questions about a scene with short answers, in English and Chinese, balanced so that no answer wins by habit.

Every presence "yes" comes with one "no", every position "yes" with the swapped relation's "no", every fitting caption
with one that does not fit. A "no" never asks about a name that could be said of a present object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha1

import numpy as np

from opentar.nano.world.captions import (
    NUMBERS_EN,
    NUMBERS_ZH,
    RELATIONS_EN,
    RELATIONS_ZH,
    caption,
    check_language,
    concept_of,
    noun_en,
    plain,
)
from opentar.nano.world.concepts import Concept, load_concepts
from opentar.nano.world.layout import Draws
from opentar.nano.world.palette import BACKGROUNDS_ZH, COLOUR_INDEX, COLOURS, COLOURS_ZH
from opentar.nano.world.spec import MOSAIC, OPPOSITE, SceneSpec, counted, relation
from opentar.nano.world.split import COUNTS, split_tables

NEGATIVES: tuple[str, ...] = ("random", "popular", "adversarial")
"""How the absent concept of a "no" is chosen, as in POPE."""

YES: dict[str, str] = {"en": "yes", "zh": "是"}
NO: dict[str, str] = {"en": "no", "zh": "否"}


@dataclass(frozen=True, kw_only=True, slots=True)
class QA:
    """One question with its answer."""

    question: str
    answer: str
    kind: str
    """presence, count, colour, background, position, matching or describe."""


def _names_clash(first: Concept, second: Concept) -> bool:
    """Whether the second's name could be said of the first: a tag, or a name inside the other's ("circus tent")."""
    tags = {tag.lower() for tag in first.tags_en}
    if second.en.lower() in tags or second.plural.lower() in tags or second.zh in first.tags_zh:
        return True
    one, other = first.en.lower().split(), set(second.en.lower().split())
    return one[-1] in other or second.zh in first.zh


@lru_cache(maxsize=1)
def clashes() -> np.ndarray:
    """(C, C) bool, symmetric: a present concept and one that must not be asked about with "no" as the answer."""
    concepts = load_concepts()
    table = np.array([[_names_clash(first, second) for second in concepts] for first in concepts], bool)
    return np.logical_or(table, table.T)


@lru_cache(maxsize=1)
def popularity() -> np.ndarray:
    """(C,) Zipf probabilities, summing to 1. The generator draws concepts evenly, so the ranks are fixed by hash."""
    ranks = np.argsort(np.argsort([sha1(f"zipf|{c.hex}".encode()).hexdigest() for c in load_concepts()]))
    weights = 1.0 / (1.0 + ranks)
    return weights / weights.sum()


@lru_cache(maxsize=1)
def _neighbours() -> tuple[tuple[list[int], ...], tuple[list[int], ...]]:
    concepts = load_concepts()
    by_subgroup = tuple([d.index for d in concepts if d.subgroup == c.subgroup] for c in concepts)
    return by_subgroup, tuple([d.index for d in concepts if d.group == c.group] for c in concepts)


def absent_concept(present: Sequence[int], draws: Draws, negative: str = "random") -> int:
    """A concept for a "no": any, a popular one, or a neighbour of the first present one; never one that clashes."""
    allowed = np.logical_not(clashes()[list(present)].any(axis=0))
    if negative == "popular":
        edges = np.cumsum(popularity() * allowed)
        return int(np.searchsorted(edges, draws.unit() * edges[-1], side="right"))
    if negative == "adversarial":
        for nearby in _neighbours():
            found = [i for i in nearby[present[0]] if allowed[i]]
            if found:
                return draws.pick(found)
    return int(draws.pick(np.flatnonzero(allowed).tolist()))


def presence_question(concept: Concept, lang: str) -> str:
    """ "Is there a dog in the picture?" with the concept's own grammar."""
    if lang == "zh":
        return f"图中是否有{concept.zh}？"
    if concept.plural_only:
        return f"Are there {concept.en} in the picture?"
    return f"Is there {noun_en(concept)} in the picture?"


def _presence(spec: SceneSpec, lang: str, draws: Draws) -> list[QA]:
    present = list(dict.fromkeys(o.concept for o in spec.objects))
    asked = draws.pick(present)
    # The neighbours of a "no" are those of a present object drawn by lot.
    absent = absent_concept([asked, *present], draws, draws.pick(NEGATIVES))
    concepts = load_concepts()
    return [
        QA(question=presence_question(concepts[asked], lang), answer=YES[lang], kind="presence"),
        QA(question=presence_question(concepts[absent], lang), answer=NO[lang], kind="presence"),
    ]


def presence_questions(spec: SceneSpec, lang: str, rng: np.random.Generator, most: int) -> list[QA]:
    """At most `most` questions about different names, each with "yes" or "no" by its own lot.

    There are no more than names in the picture: a further one could only be "no", and would give itself away.
    """
    check_language(lang)
    draws, asked, found = Draws(rng), set[str](), list[QA]()
    wanted = min(most, len({o.concept for o in spec.objects}))
    while len(found) < wanted:
        one = _presence(spec, lang, draws)[draws.below(2)]
        if one.question not in asked:
            asked.add(one.question)
            found.append(one)
    return found


def _count(spec: SceneSpec, lang: str) -> list[QA]:
    concept, number = concept_of(spec.objects[0]), len(spec.objects)
    if not counted(spec) and (spec.kind != "single" or not concept.countable):
        return []
    if lang == "en":
        return [QA(question=f"How many {concept.plural} are there?", answer=NUMBERS_EN[number], kind="count")]
    answer = f"{NUMBERS_ZH[number]}{concept.measure}"
    return [QA(question=f"图中有几{concept.measure}{concept.zh}？", answer=answer, kind="count")]


def _colour(spec: SceneSpec, lang: str, draws: Draws) -> list[QA]:
    painted = [o for o in spec.objects if o.colour]
    found: list[QA] = []
    if painted:
        item = draws.pick(painted)
        concept, colour = concept_of(item), item.colour or ""
        if lang == "zh":
            found.append(QA(question=f"{concept.zh}是什么颜色的？", answer=COLOURS_ZH[colour], kind="colour"))
        else:
            many = counted(spec) or concept.plural_only
            name = concept.plural if counted(spec) else concept.en
            question = f"What color {'are' if many else 'is'} the {name}?"
            found.append(QA(question=question, answer=colour, kind="colour"))
    if lang == "zh":
        ground = QA(question="背景是什么颜色的？", answer=BACKGROUNDS_ZH[spec.background], kind="background")
    else:
        ground = QA(question="What color is the background?", answer=spec.background, kind="background")
    return [*found, ground]


def _asked_relation(first: Concept, second: Concept, where: str, lang: str) -> str:
    if lang == "zh":
        return f"{first.zh}是否在{second.zh}的{RELATIONS_ZH[where][0]}？"
    verb = "Are" if first.plural_only else "Is"
    return f"{verb} the {first.en} {RELATIONS_EN[where][0]} the {second.en}?"


def _position(spec: SceneSpec, lang: str, draws: Draws) -> list[QA]:
    if len(spec.objects) != 2 or counted(spec):
        return []
    pair = list(spec.objects) if draws.unit() < 0.5 else list(spec.objects[::-1])
    where = relation(pair[0], pair[1])
    if where is None:
        return []
    first, second = (concept_of(item) for item in pair)
    # Half of the "no" questions swap the objects and half swap the relation: neither order nor word gives it away.
    wrong = (second, first, where) if draws.unit() < 0.5 else (first, second, OPPOSITE[where])
    right = (first, second, where) if draws.unit() < 0.5 else (second, first, OPPOSITE[where])
    if lang == "zh":
        place = QA(question=f"{first.zh}在{second.zh}的哪一边？", answer=RELATIONS_ZH[where][0], kind="position")
        other = QA(question=f"{second.zh}的{RELATIONS_ZH[where][0]}是什么？", answer=first.zh, kind="position")
    else:
        verb = "are" if first.plural_only else "is"
        asked = f"Where {verb} the {first.en}, seen from the {second.en}?"
        place = QA(question=asked, answer=where, kind="position")
        beside = RELATIONS_EN[where][0]
        other = QA(question=f"What is {beside} the {second.en}?", answer=noun_en(first), kind="position")
    return [
        QA(question=_asked_relation(*right, lang), answer=YES[lang], kind="position"),
        QA(question=_asked_relation(*wrong, lang), answer=NO[lang], kind="position"),
        place if draws.unit() < 0.6 else other,
    ]


def _repainted(spec: SceneSpec, draws: Draws) -> SceneSpec | None:
    """The scene with one colour changed to another training colour."""
    painted = [n for n, item in enumerate(spec.objects) if item.colour]
    if not painted:
        return None
    number = draws.pick(painted)
    chosen = spec.objects[number]
    row = split_tables().colour[chosen.concept]
    words = [w for w in COLOURS if w != chosen.colour and row[COLOUR_INDEX[w]] == 0]
    if not words:
        return None
    colour = draws.pick(words)
    same = counted(spec)
    objects = tuple(replace(o, colour=colour) if same or n == number else o for n, o in enumerate(spec.objects))
    return replace(spec, objects=objects)


def _recounted(spec: SceneSpec, draws: Draws) -> SceneSpec | None:
    """The scene with another training number of the same object."""
    if not counted(spec):
        return None
    first, number = spec.objects[0], len(spec.objects)
    numbers = [n for n in COUNTS if n != number and split_tables().count[first.concept, n] == 0]
    return replace(spec, objects=(first,) * draws.pick(numbers)) if numbers else None


def _turned(spec: SceneSpec, draws: Draws) -> SceneSpec | None:
    """The scene with its two objects in each other's place; only where the caption says places."""
    if spec.kind != "position":
        return None
    first, second = spec.objects
    return replace(spec, objects=(replace(first, box=second.box), replace(second, box=first.box)))


def _recast(spec: SceneSpec, draws: Draws) -> SceneSpec | None:
    """The scene with one concept changed to an absent one, in a training combination."""
    tables = split_tables()
    present = list(dict.fromkeys(o.concept for o in spec.objects))
    old = draws.pick(present)
    for _ in range(20):
        new = absent_concept([old, *present], draws, draws.pick(NEGATIVES))
        others = [c for c in present if c != old]
        painted = [COLOUR_INDEX[o.colour] for o in spec.objects if o.concept == old and o.colour]
        number = len(spec.objects) if counted(spec) else 1
        concept = load_concepts()[new]
        fits = (number == 1 or concept.countable) and not (painted and concept.own_colour)
        held = tables.pair[new, others].any() or tables.colour[new, painted].any() or tables.count[new, number]
        if fits and not held:
            objects = tuple(replace(o, concept=new) if o.concept == old else o for o in spec.objects)
            return replace(spec, objects=objects)
    return None


def corrupted(spec: SceneSpec, draws: Draws) -> SceneSpec | None:
    """A scene that this one's picture does not show: another colour, number, place or concept; None if none is left.

    What is put in is always a training combination, so that no held-out words appear beside training pictures.
    """
    ways = [way for way in (_repainted, _recounted, _turned) if way(spec, draws) is not None]
    # The easy change, another concept, gets the same share as all finer ones together.
    if ways and draws.unit() < 0.5:
        return draws.pick(ways)(spec, draws)
    return _recast(spec, draws) or (draws.pick(ways)(spec, draws) if ways else None)


def _matching(spec: SceneSpec, lang: str, draws: Draws) -> list[QA]:
    if spec.kind == MOSAIC:
        return []
    wrong = corrupted(spec, draws)
    if wrong is None:
        return []
    background = draws.unit() < 0.3
    ask = "Does this caption fit the picture: {}?" if lang == "en" else "这句话符合图片吗：{}？"
    return [
        QA(question=ask.format(plain(spec, lang, background)), answer=YES[lang], kind="matching"),
        QA(question=ask.format(plain(wrong, lang, background)), answer=NO[lang], kind="matching"),
    ]


def one_of_each_kind(asked: Sequence[QA], rng: np.random.Generator) -> list[QA]:
    """One question of each kind, by lot: of two of a kind the first answer would give the second away."""
    return list({asked[place].kind: asked[place] for place in rng.permutation(len(asked))}.values())


_DESCRIBE = {
    "en": ("What is in the picture?", "Describe the picture.", "What does this picture show?"),
    "zh": ("图中有什么？", "描述这幅图。", "这幅图画的是什么？"),
}


def describe(spec: SceneSpec, lang: str, rng: np.random.Generator, sentence: bool | None = None) -> QA:
    """A request to describe the picture; the answer is the canonical caption, or with `sentence` one by lot."""
    asked = _DESCRIBE[check_language(lang)][int(rng.integers(3))]
    answer = caption(spec, lang, rng, "long") if sentence else plain(spec, lang)
    return QA(question=asked, answer=answer, kind="describe")


def questions(spec: SceneSpec, lang: str, rng: np.random.Generator, describing: bool = False) -> list[QA]:
    """Every kind of question that fits the scene, yes and no in equal number; `describing` adds one description."""
    check_language(lang)
    draws = Draws(rng)
    found = [
        *_presence(spec, lang, draws),
        *_count(spec, lang),
        *_colour(spec, lang, draws),
        *_position(spec, lang, draws),
        *_matching(spec, lang, draws),
    ]
    return [*found, describe(spec, lang, rng)] if describing else found
