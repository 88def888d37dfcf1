"""The table of concepts: complete, consistent, and safe to make captions and questions from."""

import pytest

from opentar.core.errors import DataError
from opentar.nano.world.concepts import _parse, load_concepts

COLOUR_SIGNS = "红橙黄绿蓝紫粉棕灰黑白"
COLOUR_WORDS = {"red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "gray", "black", "white"}


def named(name: str):
    return next(concept for concept in load_concepts() if concept.en == name)


def test_there_are_301_concepts_with_unique_names():
    concepts = load_concepts()
    assert len(concepts) == 301
    for field in ("hex", "en", "zh"):
        assert len({getattr(concept, field) for concept in concepts}) == 301, field
    assert [concept.index for concept in concepts] == list(range(301))
    assert named("apple").hex == "1F34E"


def test_every_cell_that_captions_need_is_filled():
    for concept in load_concepts():
        assert concept.plural and concept.zh and concept.measure and concept.group and concept.subgroup
        assert not any(char.isascii() and char.isalpha() for char in concept.measure)
    assert sum(bool(concept.tags_en) for concept in load_concepts()) > 290


@pytest.mark.parametrize(
    ("singular", "plural"),
    [("mouse", "mice"), ("wolf", "wolves"), ("deer", "deer"), ("strawberry", "strawberries"), ("bus", "buses"),
     ("glass of milk", "glasses of milk"), ("game die", "game dice"), ("fox", "foxes"), ("key", "keys"),
     ("toilet", "toilets"), ("knife", "knives"), ("potato", "potatoes"), ("avocado", "avocados")],
)  # fmt: skip
def test_plurals_are_right(singular, plural):
    assert named(singular).plural == plural


def test_nouns_without_article_are_never_counted():
    for concept in load_concepts():
        if concept.mass:
            assert not concept.countable
            assert concept.plural == concept.en
        assert not concept.plural_only or concept.mass
    assert named("jeans").plural_only and named("glasses").plural_only
    assert named("bread").mass and not named("bread").plural_only
    assert sum(concept.countable for concept in load_concepts()) > 270


def test_names_with_a_colour_carry_own_colour():
    for concept in load_concepts():
        carries = any(sign in concept.zh for sign in COLOUR_SIGNS) or COLOUR_WORDS & set(concept.en.split())
        assert bool(carries) == (concept.own_colour is not None), concept.en
        assert concept.own_colour is None or concept.own_colour in COLOUR_WORDS


def test_measure_words_fit_their_nouns():
    expected = {"cat": "只", "car": "辆", "rose": "朵", "key": "把", "fish": "条", "horse": "匹", "tree": "棵",
                "T-shirt": "件", "glasses": "副", "book": "本", "airplane": "架"}  # fmt: skip
    assert {name: named(name).measure for name in expected} == expected


def test_tags_hold_what_a_drawing_shows_or_may_be_called():
    assert "bow" in named("gift").tags_en and "蝴蝶结" in named("gift").tags_zh
    assert "dog" in named("poodle").tags_en and "狗" in named("poodle").tags_zh
    assert "keyboard" in named("musical keyboard").tags_en
    for concept in load_concepts():
        assert concept.en not in concept.tags_en and concept.zh not in concept.tags_zh


def test_a_damaged_row_is_refused_with_the_allowed_values():
    row = {"en": "cup", "number": "few", "also": ""}
    with pytest.raises(DataError, match="'few'; allowed: count, mass, plural"):
        _parse(0, row, {})
    with pytest.raises(DataError, match="dogg"):
        _parse(0, {"en": "cup", "number": "count", "also": "dogg"}, {"dog": "狗"})
