"""Grammar of the names: articles, plurals, portions of what is not counted, Chinese measure words, and usual slips.

The words themselves stand in `world/files/concepts.tsv`; here are the rules that make phrases of them. `table` lists
every name with its phrases, for a reader.
"""

from __future__ import annotations

from collections.abc import Sequence

from opentar.core.errors import DataError
from opentar.nano.world.captions import NUMBERS_EN, article, check_language, noun_en, noun_zh
from opentar.nano.world.concepts import Concept, load_concepts
from opentar.nano.world.palette import COLOURS_ZH

_PORTIONS: dict[str, str] = {
    "grapes": "a bunch of", "cherries": "a pair of", "corn": "an ear of", "peanuts": "a handful of",
    "bread": "a loaf of", "pancakes": "a stack of", "french fries": "a portion of", "popcorn": "a bucket of",
    "spaghetti": "a plate of", "sushi": "a piece of", "skis": "a pair of", "glasses": "a pair of",
    "sunglasses": "a pair of", "jeans": "a pair of", "headphones": "a pair of", "shopping bags": "a couple of",
    "chains": "some",
}  # fmt: skip
"""How English counts what takes no "a": mass nouns and nouns that are always plural."""

GENERAL_MEASURE = "个"
"""The measure word that speakers of Chinese use where the right one does not come to mind."""


def one(concept: Concept, lang: str, colour: str | None = None) -> str:
    """One of a thing, as captions say it: "an eagle", "a red car", "grapes", 一辆红色汽车."""
    return noun_en(concept, colour) if check_language(lang) == "en" else noun_zh(concept, colour)


def bare(concept: Concept, lang: str, colour: str | None = None) -> str:
    """The name alone, with its colour: "red car", 红色汽车."""
    if check_language(lang) == "en":
        return f"{colour} {concept.en}" if colour else concept.en
    return f"{COLOURS_ZH[colour]}{concept.zh}" if colour else concept.zh


def portion(concept: Concept, colour: str | None = None) -> str:
    """One of a thing with the word that counts it: "a pair of red glasses"; as `one` where English needs none.

    Raises DataError for a name without article that the list of portions lacks.
    """
    if not concept.mass:
        return noun_en(concept, colour)
    if concept.en not in _PORTIONS:
        raise DataError(f"no portion of {concept.en!r} is known; add it to the portions in nano/wording/grammar.py")
    return f"{_PORTIONS[concept.en]} {bare(concept, 'en', colour)}"


def described(concept: Concept, lang: str, words: Sequence[str], colour: str | None = None) -> str:
    """One of a thing with words of description before it: "an old red car", 一辆旧的红色汽车."""
    if check_language(lang) == "zh":
        return f"{noun_zh(concept)[: -len(concept.zh)]}{''.join(words)}{bare(concept, 'zh', colour)}"
    said = " ".join([*words, bare(concept, "en", colour)])
    return said if concept.mass else f"{article(said)} {said}"


def regular_plural(word: str) -> str:
    """The plural that the rules of English spelling give, whether or not the word follows them: "mouses"."""
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def slips(concept: Concept, colour: str | None = None, number: int = 1) -> tuple[str, ...]:
    """Wrong phrases for one or several of a thing that many people write; none equals a right one.

    "an cat", "a eagle", "a grapes"; "three fishes", "three fishs", "three apple", "three mouses".
    """
    name = bare(concept, "en", colour)
    if number > 1:
        count = f"{NUMBERS_EN[number]} {colour} " if colour else f"{NUMBERS_EN[number]} "
        twice = () if concept.plural.endswith("s") else (regular_plural(concept.plural),)
        forms = (concept.en, regular_plural(concept.en), concept.en + "s", *twice)
        wrong = [count + form for form in forms]
        return tuple(dict.fromkeys(text for text in wrong if text != noun_en(concept, colour, number)))
    other = "a" if article(name) == "an" else "an"
    return (f"{article(name)} {name}",) if concept.mass else (f"{other} {name}",)


COLUMNS = ("en", "one", "portion", "three", "the", "zh", "zh_one", "zh_three", "slips")


def table() -> list[dict[str, str]]:
    """A row of phrases for each concept, in the order of the concepts; "-" where counting would be wrong."""
    rows = []
    for concept in load_concepts():
        counted = concept.countable
        values = (
            concept.en,
            one(concept, "en"),
            portion(concept),
            noun_en(concept, None, 3) if counted else "-",
            f"{noun_en(concept, definite=True)} {'are' if concept.plural_only else 'is'}",
            concept.zh,
            one(concept, "zh"),
            noun_zh(concept, None, 3) if counted else "-",
            ", ".join((*slips(concept), *(slips(concept, None, 3) if counted else ()))),
        )
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows
