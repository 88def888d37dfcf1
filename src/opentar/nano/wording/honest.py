"""Questions about anything, there or not, and answers that are true: "none", "There is no dog.", "I am not sure."

For each question about a thing that is there one is asked about a thing that is not, so that neither the kind of a
question nor its words give the answer away. What nano has never learned is neither there nor absent: it is not sure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from opentar.nano.wording.asking import asked, asked_stranger
from opentar.nano.wording.strangers import things
from opentar.nano.world.captions import NUMBERS_EN, NUMBERS_ZH, check_language, plain
from opentar.nano.world.concepts import Concept, load_concepts
from opentar.nano.world.layout import Draws
from opentar.nano.world.palette import BACKGROUNDS_ZH, COLOURS, COLOURS_ZH
from opentar.nano.world.questions import NEGATIVES, NO, QA, YES, absent_concept
from opentar.nano.world.spec import MOSAIC, PICTURE, ObjectSpec, SceneSpec, counted

NONE: dict[str, str] = {"en": "none", "zh": "没有"}
NOT_SURE: dict[str, str] = {"en": "I am not sure.", "zh": "我不确定。"}

_PLACES_EN = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)
_PLACES_ZH = (("左上角", "上面", "右上角"), ("左边", "中间", "右边"), ("左下角", "下面", "右下角"))


def there_is_no(concept: Concept, lang: str) -> str:
    """ "There is no dog.", "There are no jeans.", 图中没有狗。"""
    if check_language(lang) == "zh":
        return f"图中没有{concept.zh}。"
    return f"There {'are' if concept.plural_only else 'is'} no {concept.en}."


def place_of(item: ObjectSpec, lang: str) -> str:
    """Which ninth of the picture the middle of a thing lies in: "at the top left", 左上角."""
    x, y = item.centre
    row, column = (min(2, int(3 * value / PICTURE)) for value in (y, x))
    return (_PLACES_EN if check_language(lang) == "en" else _PLACES_ZH)[row][column]


def _number(concept: Concept, number: int, lang: str) -> str:
    if number == 0:
        return NONE[lang]
    return NUMBERS_EN[number] if lang == "en" else f"{NUMBERS_ZH[number]}{concept.measure}"


def _own(spec: SceneSpec, concept: int) -> list[ObjectSpec]:
    return [item for item in spec.objects if item.concept == concept]


def about_present(
    spec: SceneSpec, lang: str, rng: np.random.Generator, kind: str, *, held_out: bool = False
) -> QA | None:
    """A question of a kind about something that is there, by lot; None where the scene has no clear answer.

    `kind` is presence, count, colour, colour_fits or where. Counting asks only for countable things, up to four of
    them; colours only for recoloured things and places only for a thing that is there once.
    """
    draws, concepts = Draws(rng), load_concepts()
    found = [concepts[index] for index in dict.fromkeys(item.concept for item in spec.objects)]
    if kind == "count":
        found = [one for one in found if one.countable and len(_own(spec, one.index)) in NUMBERS_EN]
    elif kind in ("colour", "colour_fits"):
        found = [one for one in found if len(_colours(spec, one)) == 1 and None not in _colours(spec, one)]
    elif kind == "where":
        found = [one for one in found if len(_own(spec, one.index)) == 1]
    if not found:
        return None
    concept = draws.pick(found)
    item = _own(spec, concept.index)[0]
    if kind == "colour_fits":
        return _colour_fits(concept, item.colour or "", len(_own(spec, concept.index)) > 1, lang, draws)
    answer = {
        "presence": lambda: YES[lang],
        "count": lambda: _number(concept, len(_own(spec, concept.index)), lang),
        "colour": lambda: item.colour or "" if lang == "en" else COLOURS_ZH[item.colour or ""],
        "where": lambda: place_of(item, lang),
    }[kind]()
    several = len(_own(spec, concept.index)) > 1
    question = asked(kind, lang, rng, concept, several=several, held_out=held_out)
    return QA(question=question, answer=answer, kind=kind)


def _colours(spec: SceneSpec, concept: Concept) -> set[str | None]:
    return {item.colour for item in _own(spec, concept.index)}


def _colour_fits(concept: Concept, colour: str, several: bool, lang: str, draws: Draws) -> QA:
    """Whether a thing has a colour: half with its own, half with another."""
    right = draws.unit() < 0.5
    said = colour if right else draws.pick([word for word in COLOURS if word != colour])
    if lang == "zh":
        return QA(
            question=f"{concept.zh}是{COLOURS_ZH[said]}的吗？", answer=(YES if right else NO)[lang], kind="colour_fits"
        )
    verb = "Are" if several or concept.plural_only else "Is"
    name = concept.plural if several else concept.en
    return QA(question=f"{verb} the {name} {said}?", answer=(YES if right else NO)[lang], kind="colour_fits")


def about_absent(spec: SceneSpec, lang: str, rng: np.random.Generator, kind: str, *, held_out: bool = False) -> QA:
    """A question of a kind (presence, count, colour or where) about a thing that is not there, with a true answer.

    The thing is random, popular or a neighbour of one that is there, as in POPE; never one whose name could be said of
    a present one, and where numbers are asked for, one that can be counted.
    """
    draws, concepts = Draws(rng), load_concepts()
    present = list(dict.fromkeys(item.concept for item in spec.objects))
    asked_of = [draws.pick(present), *present] if present else []
    for _ in range(50):
        negative = draws.pick(NEGATIVES) if present else "random"
        concept = concepts[absent_concept(asked_of, draws, negative)]
        if concept.countable or kind != "count":
            break
    answer = {"presence": NO[lang], "count": NONE[lang]}.get(kind) or there_is_no(concept, lang)
    # Where several are there, several are asked about, or the number of the noun would tell.
    several = counted(spec) and concept.countable
    question = asked(kind, lang, rng, concept, several=several, held_out=held_out)
    return QA(question=question, answer=answer, kind=f"no_{kind}")


def about_stranger(lang: str, rng: np.random.Generator, *, held_out: bool = False) -> QA:
    """Whether a thing is there that nano does not know: it is not sure."""
    names = things(check_language(lang), held_out=held_out)
    question = asked_stranger(names[int(rng.integers(len(names)))], lang, rng, held_out=held_out)
    return QA(question=question, answer=NOT_SURE[lang], kind="stranger")


def about_all(spec: SceneSpec, lang: str, rng: np.random.Generator, *, held_out: bool = False) -> list[QA]:
    """A question for the background, and one for the whole where the scene can be told in a sentence."""
    ground = BACKGROUNDS_ZH[spec.background] if lang == "zh" else spec.background
    found = [QA(question=asked("background", lang, rng, held_out=held_out), answer=ground, kind="background")]
    if spec.kind != MOSAIC and spec.objects:
        said = plain(spec, lang)
        found.append(QA(question=asked("describe", lang, rng, held_out=held_out), answer=said, kind="describe"))
    return found


PAIRED = ("presence", "count", "colour", "where")
"""Kinds that are asked about what is there and about what is not."""


def honest_questions(
    spec: SceneSpec,
    lang: str,
    rng: np.random.Generator,
    most: int,
    *,
    stranger: float = 0.15,
    held_out: bool = False,
) -> list[QA]:
    """At most `most` questions in an order by lot, no question twice; half of the paired ones about absent things.

    `stranger` is how often one of them asks about an unknown thing. Pure function of `rng`.
    """
    found: Sequence[QA | None] = about_all(spec, lang, rng, held_out=held_out)
    chosen: list[QA | None] = [one for one in found if rng.random() < 0.4]
    if rng.random() < stranger:
        chosen.append(about_stranger(lang, rng, held_out=held_out))
    kinds = [*PAIRED, "colour_fits"]
    for place in rng.permutation(len(kinds)):
        kind = kinds[place]
        there = about_present(spec, lang, rng, kind, held_out=held_out)
        # A kind that this scene cannot answer is not asked about absent things either: it would give itself away.
        if there is not None:
            absent = kind != "colour_fits" and rng.random() < 0.5
            chosen.append(about_absent(spec, lang, rng, kind, held_out=held_out) if absent else there)
    unique = list({one.question: one for one in chosen if one is not None}.values())
    return [unique[place] for place in rng.permutation(len(unique))[:most]]
