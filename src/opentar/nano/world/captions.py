"""Says what a scene shows, in English and Chinese, from templates: exact grammar, several ways to say one thing.

`plain` is the canonical form (the one that fixed prompts use); `variants` are all short or long ways; `caption`
draws one of them. A scene of the kind "mosaic" is listed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from opentar.core.errors import DataError
from opentar.nano.world.concepts import Concept, load_concepts
from opentar.nano.world.palette import BACKGROUNDS_ZH, COLOURS_ZH
from opentar.nano.world.spec import OPPOSITE, ObjectSpec, SceneSpec, counted, relation

LANGUAGES: tuple[str, ...] = ("en", "zh")

NUMBERS_EN: dict[int, str] = {1: "one", 2: "two", 3: "three", 4: "four"}
NUMBERS_ZH: dict[int, str] = {1: "一", 2: "两", 3: "三", 4: "四"}

RELATIONS_EN: dict[str, tuple[str, ...]] = {
    "left": ("to the left of", "left of", "on the left side of"),
    "right": ("to the right of", "right of", "on the right side of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "lower than"),
}
RELATIONS_ZH: dict[str, tuple[str, ...]] = {
    "left": ("左边", "左侧", "左面"),
    "right": ("右边", "右侧", "右面"),
    "above": ("上方", "上面", "上边"),
    "below": ("下方", "下面", "下边"),
}

_VOWEL_SOUND_EXCEPTIONS = ("uni", "use", "eu")


def article(word: str) -> str:
    """ "a" or "an" before an English word."""
    low = word.lower()
    return "an" if low[0] in "aeiou" and not low.startswith(_VOWEL_SOUND_EXCEPTIONS) else "a"


def noun_en(concept: Concept, colour: str | None = None, number: int = 1, *, definite: bool = False) -> str:
    """An English noun phrase: "a red apple", "three red apples", "bread", "the jeans"."""
    words = f"{colour} " if colour else ""
    if number > 1:
        return f"{'the' if definite else NUMBERS_EN[number]} {words}{concept.plural}"
    words += concept.en
    if definite:
        return f"the {words}"
    return words if concept.mass else f"{article(words)} {words}"


def noun_zh(concept: Concept, colour: str | None = None, number: int = 1, *, link: str = "") -> str:
    """A Chinese noun phrase with number and measure word; `link` "的" gives 红色的苹果."""
    words = f"{COLOURS_ZH[colour]}{link}" if colour else ""
    return f"{NUMBERS_ZH[number]}{concept.measure}{words}{concept.zh}"


def check_language(lang: str) -> str:
    """The language itself; anything but "en" or "zh" raises DataError."""
    if lang not in LANGUAGES:
        raise DataError(f"unknown language {lang!r}: choose one of {', '.join(LANGUAGES)}")
    return lang


def concept_of(item: ObjectSpec) -> Concept:
    """The concept of an object."""
    return load_concepts()[item.concept]


def _noun(item: ObjectSpec, lang: str, number: int = 1, link: str = "") -> str:
    if lang == "en":
        return noun_en(concept_of(item), item.colour, number)
    return noun_zh(concept_of(item), item.colour, number, link=link)


def listed(spec: SceneSpec, lang: str, link: str = "") -> str:
    """Every object by name, without places: "a cat and a dog", "three apples"."""
    if counted(spec):
        return _noun(spec.objects[0], lang, len(spec.objects), link)
    nouns = [_noun(item, lang, link=link) for item in spec.objects]
    if len(nouns) == 1:
        return nouns[0]
    comma, last = (", ", " and ") if lang == "en" else ("、", "和")
    return comma.join(nouns[:-1]) + last + nouns[-1]


def _placed(spec: SceneSpec, lang: str) -> list[str]:
    """Ways to say who is where, of a scene of two objects with a clear relation; the first is canonical."""
    first, second = spec.objects
    where = relation(first, second)
    if where is None:
        return []
    back = OPPOSITE[where]
    a, b = _noun(first, lang), _noun(second, lang)
    low, high = (a, b) if where in ("left", "above") else (b, a)
    if lang == "en":
        said = [f"{a} {way} {b}" for way in RELATIONS_EN[where]]
        said += [f"{b} {way} {a}" for way in RELATIONS_EN[back]]
        ends = ("on the left", "on the right") if where in ("left", "right") else ("at the top", "at the bottom")
        return [*said, f"{low} {ends[0]} and {high} {ends[1]}"]
    said = [f"{a}在{b}的{way}" for way in RELATIONS_ZH[where]]
    said += [f"{b}在{a}的{way}" for way in RELATIONS_ZH[back]]
    ends = ("左边", "右边") if where in ("left", "right") else ("上面", "下面")
    return [*said, f"{ends[0]}是{low}，{ends[1]}是{high}"]


def plain(spec: SceneSpec, lang: str = "en", background: bool = True) -> str:
    """The canonical caption: "three red apples on a light blue background", 浅蓝色背景上的三个红色苹果."""
    check_language(lang)
    placed = _placed(spec, lang)[:1] if spec.kind == "position" else []
    said = placed[0] if placed else listed(spec, lang)
    if not background:
        return said
    if lang == "en":
        return f"{said} on a {spec.background} background"
    return f"{BACKGROUNDS_ZH[spec.background]}背景上{'，' if placed else '的'}{said}"


def _cores(spec: SceneSpec, lang: str, ordered: bool = False) -> tuple[list[str], bool]:
    """Ways to say the objects (`ordered`: always the first one first), and whether they are clauses in Chinese."""
    if spec.kind == "position":
        placed = _placed(spec, lang)
        if placed:
            return placed, True
    said = [listed(spec, lang)]
    if lang == "zh" and any(o.colour for o in spec.objects):
        said.append(listed(spec, lang, "的"))
    if len(spec.objects) == 2 and not counted(spec):
        if not ordered:
            said.append(listed(replace(spec, objects=spec.objects[::-1]), lang))
        if lang == "en":
            said.append(f"{_noun(spec.objects[0], lang)} with {_noun(spec.objects[1], lang)}")
    return said, False


def _be(spec: SceneSpec, core: str) -> str:
    """ "is" or "are" after "there": the verb follows the noun that comes first, as spoken English has it."""
    if counted(spec):
        return "are"
    many = (noun_en(concept_of(o), o.colour) for o in spec.objects if concept_of(o).plural_only)
    return "are" if any(core.startswith(noun) for noun in many) else "is"


def _short_en(spec: SceneSpec, core: str, background: bool) -> list[str]:
    said = [core, f"a picture of {core}", f"a drawing of {core}", f"an image of {core}"]
    if not background:
        return said
    name = spec.background
    return [
        *(f"{text} on a {name} background" for text in said),
        f"{core} against a {name} background",
        f"{core}, {name} background",
        f"on a {name} background, {core}",
    ]


def _short_zh(spec: SceneSpec, core: str, background: bool, clause: bool) -> list[str]:
    if not background:
        return [core, f"图中{core}" if clause else f"图中有{core}", f"画面：{core}" if clause else f"一幅画：{core}"]
    name = BACKGROUNDS_ZH[spec.background]
    if clause:
        return [f"{name}背景上，{core}", f"{core}，{name}背景", f"{name}背景，{core}"]
    return [f"{name}背景上的{core}", f"{core}，{name}背景", f"{name}背景上有{core}", f"{name}背景，{core}"]


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _long_en(spec: SceneSpec, core: str, background: bool) -> list[str]:
    said = [
        f"The picture shows {core}",
        f"There {_be(spec, core)} {core} in the picture",
        f"In this picture we see {core}",
    ]
    where = relation(*spec.objects) if len(spec.objects) == 2 and spec.kind in ("two", "attribution") else None
    if where:
        first, second = (noun_en(concept_of(o), definite=True) for o in spec.objects)
        verb = "are" if concept_of(spec.objects[0]).plural_only else "is"
        said.append(f"The picture shows {core}; {first} {verb} {RELATIONS_EN[where][0]} {second}")
    if not background:
        return [f"{text}." for text in said]
    name = spec.background
    return [
        *(f"{text}. The background is {name}." for text in said),
        f"{_upper(core)}, drawn on a plain {name} background.",
        f"The picture shows {core} on a {name} background.",
    ]


def _long_zh(spec: SceneSpec, core: str, background: bool, clause: bool) -> list[str]:
    said = [f"这幅图里，{core}", f"画面中{core}"] if clause else [f"这幅图画的是{core}", f"画面中有{core}"]
    where = relation(*spec.objects) if len(spec.objects) == 2 and spec.kind in ("two", "attribution") else None
    if where:
        first, second = (concept_of(o).zh for o in spec.objects)
        said.append(f"图中有{core}，{first}在{second}的{RELATIONS_ZH[where][0]}")
    if not background:
        return [f"{text}。" for text in said]
    name = BACKGROUNDS_ZH[spec.background]
    return [*(f"{text}，背景是{name}。" for text in said), f"在{name}的背景上，{'' if clause else '有'}{core}。"]


def variants(
    spec: SceneSpec, lang: str = "en", style: str = "short", background: bool = True, ordered: bool = False
) -> list[str]:
    """Every caption of one language, style ("short" or "long") and choice of background, without repeats.

    `ordered` names the first object first wherever the caption does not say where they are.
    """
    check_language(lang)
    if style not in ("short", "long"):
        raise DataError(f"unknown caption style {style!r}: choose short or long")
    cores, clause = _cores(spec, lang, ordered)
    said: list[str] = []
    for core in cores:
        if lang == "en":
            said += (_short_en if style == "short" else _long_en)(spec, core, background)
        else:
            said += (_short_zh if style == "short" else _long_zh)(spec, core, background, clause)
    return list(dict.fromkeys(said))


def caption(
    spec: SceneSpec,
    lang: str,
    rng: np.random.Generator,
    style: str | None = None,
    background: bool | None = None,
    ordered: bool = False,
) -> str:
    """One caption by lot; `style` None is 70% short, `background` None is named in 60%; `ordered` as in `variants`."""
    style = style or ("short" if rng.random() < 0.7 else "long")
    named = bool(rng.random() < 0.6) if background is None else background
    said = variants(spec, lang, style, named, ordered)
    return said[int(rng.integers(len(said)))]


def all_captions(spec: SceneSpec, lang: str | None = None) -> list[str]:
    """Every caption of a scene, in one language or (None) both."""
    found = [
        text
        for one in ((lang,) if lang else LANGUAGES)
        for style in ("short", "long")
        for background in (True, False)
        for text in variants(spec, one, style, background)
    ]
    return list(dict.fromkeys(found))
