"""Captions of many pictures are those of one: whatever the batch, in order, with few pictures held."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from PIL import Image, ImageDraw

from opentar import Tar
from opentar.captioning.captions import captions, question_of
from opentar.core.errors import ConfigError, ImageError, PromptError

COLOURS = ("white", "black", "red", "yellow", "green", "blue")


def _pictures(count: int) -> list[Image.Image]:
    """Discs in different colours and places."""
    made = []
    for one in range(count):
        picture = Image.new("RGB", (60 + one, 60), COLOURS[one % 5])
        left = 4 * (one % 7)
        ImageDraw.Draw(picture).ellipse((left, 8, left + 20 + one, 40), fill=COLOURS[one % 4 + 2])
        made.append(picture)
    return made


def test_captions_are_those_of_describe_whatever_the_batch(tar: Tar) -> None:
    pictures = _pictures(13)
    alone = [tar.describe(picture) for picture in pictures]
    assert len(set(alone)) > 3
    for batch in (1, 5, 32):
        found = list(captions(tar, pictures, batch_size=batch))
        assert [one.text for one in found] == alone, batch
        assert [(one.index, one.width, one.height) for one in found] == [(n, 60 + n, 60) for n in range(13)]


def test_what_is_asked_changes_what_is_said(tar: Tar) -> None:
    pictures = _pictures(4)
    said = {
        name: [one.text for one in captions(tar, pictures, **options)]
        for name, options in {
            "default": {},
            "question": {"question": "What color is the background?"},
            "chinese": {"lang": "zh"},
            "scale": {"scale": 2},
            "fit": {"fit": "letterbox"},
            "short": {"max_new_tokens": 2},
        }.items()
    }
    assert all(said[name] != said["default"] for name in ("question", "chinese", "short"))
    asked = tar.parts.config.defaults.read
    assert said["question"] == [tar.ask(picture, "What color is the background?") for picture in pictures]
    assert said["chinese"] == [tar.ask(picture, asked.describe_zh) for picture in pictures]
    assert said["scale"] == [tar.describe(picture, scale=2) for picture in pictures]
    assert said["fit"] == [tar.describe(picture, fit="letterbox") for picture in pictures]
    assert said["short"] == [tar.ask(picture, asked.describe, max_new_tokens=2) for picture in pictures]


def test_a_picture_that_cannot_be_read_stops_no_other(tar: Tar) -> None:
    good, bad = _pictures(2), [b"no picture", "nowhere.png"]
    found = list(captions(tar, [bad[0], good[0], bad[1], good[1]], batch_size=2))
    assert [one.error is None for one in found] == [False, True, False, True]
    assert all(isinstance(found[place].error, ImageError) for place in (0, 2))
    assert "nowhere.png" in str(found[2].error)
    assert [found[1].text, found[3].text] == [tar.describe(picture) for picture in good]
    assert [one.error is None for one in captions(tar, bad)] == [False, False]
    assert list(captions(tar, [])) == []


def test_few_pictures_are_held(tiny: Tar) -> None:
    """Ten times the pictures, and no more of them alive or taken ahead."""
    for count in (30, 300):
        seen = {"taken": 0, "let go": 0, "told": 0, "held": 0, "ahead": 0}

        def let_go(seen: dict[str, int] = seen) -> None:
            seen["let go"] += 1

        def pictures(count: int = count, seen: dict[str, int] = seen, let_go: object = let_go) -> Iterator[Image.Image]:
            for shade in range(count):
                picture = Image.new("RGB", (6, 6), (shade % 256, 0, 0))
                weakref.finalize(picture, let_go)
                seen["taken"] += 1
                yield picture

        for _ in captions(tiny, pictures(), batch_size=4):
            seen["told"] += 1
            seen["held"] = max(seen["held"], seen["taken"] - seen["let go"])
            seen["ahead"] = max(seen["ahead"], seen["taken"] - seen["told"])
        gc.collect()
        assert seen["taken"] == seen["told"] == seen["let go"] == count
        # Two groups of half a batch wait to be encoded, and the window is four batches.
        assert 1 <= seen["held"] <= 2 * 2 + 2, seen
        assert seen["ahead"] <= 4 * 4, seen


def test_who_stops_listening_leaves_nothing_running(tar: Tar) -> None:
    import threading

    run = captions(tar, _pictures(12), batch_size=4)
    assert next(run).index == 0
    assert any(thread.name.startswith("opentar-pictures") for thread in threading.enumerate())
    run.close()
    assert not any(thread.name.startswith("opentar-pictures") for thread in threading.enumerate())


def test_wrong_arguments_are_told_before_any_picture_is_taken(tar: Tar) -> None:
    def pictures() -> Iterator[Image.Image]:
        raise AssertionError("taken")
        yield

    for options, error in (
        ({"question": ""}, PromptError),
        ({"question": "?!"}, PromptError),
        ({"question": "red " * 3000}, PromptError),
        ({"lang": "fr"}, ConfigError),
        ({"lang": "zh", "question": "red?"}, ConfigError),
        ({"scale": 3}, ConfigError),
        ({"fit": "crop"}, ConfigError),
        ({"batch_size": 0}, ConfigError),
        ({"max_new_tokens": 0}, ConfigError),
    ):
        with pytest.raises(error):
            captions(tar, pictures(), **options)


def test_unknown_words_are_named(tiny: Tar) -> None:
    with pytest.warns(UserWarning, match="never learned 'zeppelin'"):
        captions(tiny, [], question="a red zeppelin?")


def test_the_describing_question_of_a_language(tar: Tar) -> None:
    config = tar.parts.config
    assert question_of(config) == question_of(config, lang="en") == config.defaults.read.describe
    assert question_of(config, lang="zh") == "图中有什么？"
