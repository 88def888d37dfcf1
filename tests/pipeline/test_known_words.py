"""Words that a model never learned are named, in English and in Chinese."""

import pytest

from opentar.known_words import KnownWords, has_words

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
