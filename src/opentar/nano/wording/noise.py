"""What happens to words between head and keyboard: typos one letter off, capitals, digits, fillers, wrong grammar.

Each function is a pure function of the text and the generator. `noisy` puts them together as often as settings say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from opentar.core.errors import ConfigError
from opentar.nano.wording.grammar import GENERAL_MEASURE, slips
from opentar.nano.world.captions import NUMBERS_EN, NUMBERS_ZH, concept_of, listed
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.layout import Draws
from opentar.nano.world.palette import COLOURS
from opentar.nano.world.spec import SceneSpec, counted

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_WORD = re.compile(r"(?<![A-Za-z'-])[a-z]{4,}(?![A-Za-z'-])")
FILLERS: tuple[tuple[str, str], ...] = (("", "!"), ("", "!!"), ("", " :)"), ("oh, ", ""), ("yes, ", ""), ("", ", ok?"))
"""What is put before and after a text."""


@dataclass(frozen=True, kw_only=True)
class NoiseSettings:
    """How often each kind of noise comes, each in [0, 1] and by a lot of its own."""

    typo: float = 0.1
    capitals: float = 0.15
    digits: float = 0.3
    """Of texts with a number word."""
    filler: float = 0.08
    grammar: float = 0.1
    """Wrong articles, plurals and measure words, where the text has a phrase to get wrong."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"noise.{name} is {getattr(self, name)}; give a share from 0 to 1")


def _near(letter: str, draws: Draws) -> str:
    """A key beside that of the letter, on a QWERTY keyboard."""
    row = next(row for row in _ROWS if letter in row)
    place = row.index(letter)
    return draws.pick([key for at, key in enumerate(row) if abs(at - place) == 1])


def misspelt(word: str, rng: np.random.Generator) -> str:
    """A word of at least three small letters a-z with one letter left out, doubled, swapped or struck beside its key.

    Never another colour, number or name: "bear" does not become "pear". A word that admits nothing else stays.
    """
    draws, real = Draws(rng), _real_words()
    for _ in range(12):
        at = draws.below(len(word) - 1) + 1  # hardly anyone gets the first letter wrong
        way = draws.below(4)
        if way == 0:
            found = word[:at] + word[at + 1 :]
        elif way == 1:
            found = word[:at] + word[at] + word[at:]
        elif way == 2:
            at = max(2, at)
            found = word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]
        else:
            found = word[:at] + _near(word[at], draws) + word[at + 1 :]
        if found != word and found not in real:
            return found
    return word


def _real_words() -> set[str]:
    words = {*COLOURS, *NUMBERS_EN.values()}
    for concept in load_concepts():
        words |= {*concept.en.lower().split(), *concept.plural.lower().split()}
    return words


def with_typo(text: str, rng: np.random.Generator) -> str:
    """The text with one of its English words of four letters or more misspelt; as it is where it has none."""
    found = list(_WORD.finditer(text))
    if not found:
        return text
    match = found[int(rng.integers(len(found)))]
    return text[: match.start()] + misspelt(match[0], rng) + text[match.end() :]


def in_capitals(text: str, rng: np.random.Generator) -> str:
    """ALL CAPITALS, A Capital For Each Word, A capital first, or none at all."""
    ways = (text.upper(), re.sub(r"\b[a-z]", lambda match: match[0].upper(), text), text[:1].upper() + text[1:])
    return (*ways, text.lower())[int(rng.integers(4))]


def in_digits(text: str) -> str:
    """Two to four in digits: "3 apples", 3个苹果. "one" and 一 stay, which seldom count."""
    measures = "".join(sorted({concept.measure for concept in load_concepts()}))
    for number in (2, 3, 4):
        text = re.sub(rf"\b{NUMBERS_EN[number]}\b", str(number), text)
        text = re.sub(rf"{NUMBERS_ZH[number]}(?=[{measures}])", str(number), text)
    return text


def with_filler(text: str, rng: np.random.Generator) -> str:
    """The text with a word or sign around it that says nothing."""
    before, after = FILLERS[int(rng.integers(len(FILLERS)))]
    return before + (text.rstrip("?!.？！。") if after else text) + after


def with_slip(text: str, spec: SceneSpec, rng: np.random.Generator) -> str:
    """The text with wrong grammar in the phrase of the scene's first object; as it is where the phrase is not in it."""
    item, number = spec.objects[0], len(spec.objects) if counted(spec) else 1
    concept = concept_of(item)
    right = listed(spec if number > 1 else SceneSpec(kind="single", background=spec.background, objects=(item,)), "en")
    wrong = slips(concept, item.colour, number)
    if wrong and re.search(rf"\b{re.escape(right)}\b", text):
        return re.sub(rf"\b{re.escape(right)}\b", wrong[int(rng.integers(len(wrong)))], text, count=1)
    count = NUMBERS_ZH[number]
    return text.replace(count + concept.measure, count + GENERAL_MEASURE, 1)


def noisy(text: str, spec: SceneSpec, rng: np.random.Generator, settings: NoiseSettings) -> str:
    """A prompt for a scene as it may arrive: each kind of noise by its own lot, grammar first, capitals last."""
    grammar, typo, digits, filler, capitals = rng.random(5)
    if grammar < settings.grammar:
        text = with_slip(text, spec, rng)
    if typo < settings.typo:
        text = with_typo(text, rng)
    if digits < settings.digits:
        text = in_digits(text)
    if filler < settings.filler:
        text = with_filler(text, rng)
    return in_capitals(text, rng) if capitals < settings.capitals else text
