"""Words that a model never learned are named, in English and in Chinese."""

import pytest

from opentar.language.known_words import KnownWords, has_words

ENGLISH = ("three", "red", "apple", "knife", "cherry", "box", "on", "a", "ice cream", "t-shirt")
CHINESE = ("三", "个", "红", "苹果", "红苹果", "的")
WORDS = KnownWords([*ENGLISH, *CHINESE])


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("three red apples", []),
        ("Three RED knives, cherries on boxes!", []),
        ("the apple's box", ["the"]),
        ("an ice-cream on a t-shirt", ["an"]),
        ("a zeppelin on a zeppelin", ["zeppelin"]),
        ("三个红苹果", []),
        ("三个蓝色的苹果", ["蓝色"]),
        ("red 苹果 und 梨", ["und", "梨"]),
        ("7 apples", ["7"]),
        ("red 🍎 👍🏽", ["🍎", "👍"]),
        ("", []),
    ],
)
def test_unknown_words(text, unknown):
    assert WORDS.split(text)[1] == unknown


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("three red apples", "three red apples"),
        ("three shiny red apples", "three red apples"),
        ("a photo of a box, watercolor style, 4k", "a box"),
        ("A photo of a box, 4k.", "a box."),
        ("a box and a zebra", "a box"),
        ("a zebra and a box", "a box"),
        ("a red zebra on a box", "a red on a box"),
        ("a box on a table", "a box"),
        ("a box on", "a box on"),
        ("red 🍎 👍🏽 boxes", "red boxes"),
        ("a zebra", "a zebra"),
        ("zebra", "zebra"),
        ("三个斑的苹果", "三个的苹果"),
        ("red 苹果 梨", "red 苹果"),
    ],
)
def test_what_is_left_of_a_text_without_its_unknown_words(text, left):
    words = KnownWords([*ENGLISH, *CHINESE, "and", "of"])
    assert words.known_part(text) == left
    assert KnownWords([]).known_part(text) == text


def test_a_chinese_colour_needs_no_sign_for_colour():
    words = KnownWords(["红色", "浅蓝色", "苹果", "个", "三"])
    assert words.split("三个红苹果") == (["三", "个", "红色", "苹果"], [])
    assert words.known_part("三个浅蓝苹果") == "三个浅蓝色苹果"


@pytest.mark.parametrize(
    ("word", "like"),
    [
        ("elefant", "elephant"),
        ("Elefants", "elephants"),
        ("aplle", None),
        ("plane", "airplane"),
        ("planes", "airplane"),
        ("icecream", "ice cream"),
        ("christmas-tree", "Christmas tree"),
        ("man", None),
        ("zebra", None),
        ("笔记本", "笔记本电脑"),
        ("斑马", None),
        ("斑", None),
    ],
)
def test_the_word_that_may_be_meant(word, like):
    words = ("elephant", "elephants", "airplane", "many", "bread", "ice cream", "Christmas tree", "笔记本电脑", "苹果")
    assert KnownWords(words).like(word) == like


def test_a_remark_names_each_word_with_what_it_may_mean():
    words = KnownWords(["a", "elephant"])
    assert words.remark("an elephant") == "'an'"
    assert words.remark("a elefant, a zebra") == "'elefant' (did you mean 'elephant'?), 'zebra'"
    assert words.remark("zebra") == "'zebra' (no word of this text is known to it)"
    assert words.remark("a elephant") is None
    assert words.remark(" ".join(f"zebra{letter}" for letter in "abcdefghijkl")).count("zebra") == 10
    assert KnownWords([]).remark("zebra") is None


def test_longest_match_wins():
    assert WORDS.split("红苹果")[0] == ["红苹果"]


def test_no_list_means_no_claim():
    assert not KnownWords([])
    assert WORDS


@pytest.mark.parametrize(
    ("text", "expected"), [("a", True), ("苹", True), ("7", True), ("🍎", True), ("?! ...", False), (" \n", False)]
)
def test_has_words(text, expected):
    assert has_words(text) is expected
