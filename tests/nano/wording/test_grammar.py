"""Grammar of all names: the table of phrases is what a reader checked, and the rules behind it hold."""

import csv
from pathlib import Path

import pytest

from opentar.nano.wording.grammar import COLUMNS, described, portion, regular_plural, slips, table
from opentar.nano.world.captions import NUMBERS_EN, noun_en
from opentar.nano.world.concepts import load_concepts

TABLE = Path(__file__).parent / "grammar.tsv"


def concept(name):
    return next(one for one in load_concepts() if one.en == name)


def test_the_table_is_the_one_that_was_read():
    """Every phrase of the 301 names; a change of a name or a rule shows as a changed row of grammar.tsv."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    made = table()
    assert len(made) == 301 and tuple(read[0]) == COLUMNS
    assert [row for row, other in zip(made, read, strict=True) if row != other] == []


def test_articles_follow_the_sound_of_all_names():
    sounds_of_you = ("unicorn",)
    for one in load_concepts():
        if not one.mass:
            vowel = one.en[0].lower() in "aeiou" and one.en not in sounds_of_you
            assert noun_en(one).split(" ")[0] == ("an" if vowel else "a"), one.en


@pytest.mark.parametrize(
    ("name", "several"),
    [("mouse", "mice"), ("fish", "fish"), ("leaf", "leaves"), ("knife", "knives"), ("wolf", "wolves")],
)  # fmt: skip
def test_irregular_plurals(name, several):
    assert noun_en(concept(name), None, 3) == f"three {several}"


def test_what_is_not_counted_has_a_portion_and_no_article():
    assert portion(concept("glasses"), "red") == "a pair of red glasses"
    assert portion(concept("grapes")) == "a bunch of grapes"
    assert portion(concept("cat")) == "a cat"
    for one in load_concepts():
        assert portion(one).endswith(one.en)
        if one.mass:
            assert portion(one) != one.en == noun_en(one)
            assert not one.countable


def test_slips_are_those_of_people_and_never_right():
    assert slips(concept("cat")) == ("an cat",)
    assert slips(concept("eagle")) == ("a eagle",)
    assert slips(concept("grapes")) == ("a grapes",)
    assert set(slips(concept("fish"), None, 3)) == {"three fishes", "three fishs"}
    assert "three red mouses" in slips(concept("mouse"), "red", 3)
    for one in load_concepts():
        assert noun_en(one) not in slips(one)
        for number in NUMBERS_EN.keys() - {1}:
            assert noun_en(one, None, number) not in slips(one, None, number)


def test_descriptions_carry_the_article_and_the_measure_word():
    assert described(concept("car"), "en", ["old"], "red") == "an old red car"
    assert described(concept("eagle"), "en", ["cute"]) == "a cute eagle"
    assert described(concept("jeans"), "en", ["old"]) == "old jeans"
    assert described(concept("car"), "zh", ["旧的"], "red") == "一辆旧的红色汽车"


def test_regular_plurals():
    assert [regular_plural(word) for word in ("box", "candy", "key", "fish", "car")] == [
        "boxes", "candies", "keys", "fishes", "cars",
    ]  # fmt: skip
