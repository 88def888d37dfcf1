"""Answers are true: what is asked about is there, is not there, or is nothing that nano knows."""

import numpy as np
import pytest

from opentar.language.prompt import Drawn, Shown
from opentar.nano.wording.honest import (
    NONE,
    NOT_SURE,
    about_absent,
    about_present,
    about_stranger,
    honest_questions,
    place_of,
    there_is_no,
)  # fmt: skip
from opentar.nano.wording.talks import about_drawn, about_shown, follow_ups, questions_of_talk
from opentar.nano.world.captions import LANGUAGES, NUMBERS_EN, concept_of
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.questions import NO, YES
from opentar.nano.world.scenes import SceneGenerator
from opentar.nano.world.spec import KINDS, ObjectSpec, SceneSpec


def concept(name):
    return next(one for one in load_concepts() if one.en == name)


@pytest.fixture(scope="module")
def scenes():
    generator, rng = SceneGenerator("train"), np.random.default_rng(3)
    return [generator.sample(rng, kind) for kind in KINDS * 15] + [generator.mosaic(rng) for _ in range(15)]


def names(spec):
    return [concept_of(item) for item in spec.objects]


def apples(number, colour):
    boxes = [(2 + 30 * place, 2, 22 + 30 * place, 22) for place in range(number)]
    own = tuple(ObjectSpec(concept=concept("apple").index, style="noto", colour=colour, box=box) for box in boxes)
    return SceneSpec(kind="counted_colour" if number > 1 else "colour", background="white", objects=own)


def test_three_apples_have_no_dogs():
    spec, rng = apples(3, "red"), np.random.default_rng(0)
    for _ in range(30):
        qa = about_absent(spec, "en", rng, "count")
        assert qa.answer == "none" and " apples" not in qa.question
    assert about_present(spec, "en", rng, "count").answer == "three"
    assert about_present(spec, "zh", rng, "count").answer == "三个"
    assert about_present(spec, "en", rng, "where") is None
    question = about_present(spec, "en", rng, "colour").question
    assert "are the apples" in question


def test_grammar_of_what_is_not_there():
    assert there_is_no(concept("dog"), "en") == "There is no dog."
    assert there_is_no(concept("jeans"), "en") == "There are no jeans."
    assert there_is_no(concept("dog"), "zh") == "图中没有狗。"


def test_places_are_ninths():
    (apple,) = apples(1, None).objects
    assert place_of(apple, "en") == "at the top left" and place_of(apple, "zh") == "左上角"
    middle = ObjectSpec(concept=0, style="noto", box=(54, 54, 74, 74))
    assert place_of(middle, "en") == "in the middle"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_answers_agree_with_the_scene(scenes, lang):
    for number, spec in enumerate(scenes):
        there = names(spec)
        for qa in honest_questions(spec, lang, np.random.default_rng(number), 6, held_out=number % 2 == 0):
            said = qa.question.lower()
            about = [one for one in there if (one.en if lang == "en" else one.zh).lower() in said or one.plural in said]
            if qa.kind in ("presence", "count", "colour", "where", "colour_fits"):
                assert about, qa
            if qa.kind == "count" and lang == "en":
                assert qa.answer in {NUMBERS_EN[there.count(one)] for one in about}
            if qa.kind == "colour" and lang == "en":
                assert qa.answer in {item.colour for item in spec.objects}
            if qa.kind == "no_count":
                assert qa.answer == NONE[lang]
            if qa.kind == "no_presence":
                assert qa.answer == NO[lang]


def test_yes_and_no_come_alike(scenes):
    rng = np.random.default_rng(5)
    asked = [qa for spec in scenes for _ in range(8) for qa in honest_questions(spec, "en", rng, 6)]
    for there, absent in (("presence", "no_presence"), ("count", "no_count"), ("where", "no_where")):
        counts = [sum(qa.kind == kind for qa in asked) for kind in (there, absent)]
        assert 0.42 < counts[0] / sum(counts) < 0.58, (there, counts)
    fits = [qa.answer for qa in asked if qa.kind == "colour_fits"]
    assert 0.38 < fits.count(YES["en"]) / len(fits) < 0.62
    assert {qa.answer for qa in asked if qa.kind == "stranger"} == {NOT_SURE["en"]}


def test_strangers_and_talks_are_repeatable(scenes):
    for spec in scenes[::7]:
        one, other = (questions_of_talk(spec, "en", np.random.default_rng(8), 5) for _ in range(2))
        assert one == other and 1 <= len(one) <= 5
        assert len({qa.question for qa in one}) == len(one)
    assert about_stranger("zh", np.random.default_rng(0)).answer == "我不确定。"


def test_follow_ups_say_it_of_what_was_asked_about():
    spec = apples(1, "green")
    found = [follow_ups(spec, "en", np.random.default_rng(seed)) for seed in range(20)]
    assert {len(asked) for asked in found} == {1, 3}
    longest = max(found, key=len)
    assert [qa.answer for qa in longest] == ["yes", "green", "at the top left"]
    assert longest[1].question == "What color is it?"
    assert follow_ups(apples(2, "green"), "en", np.random.default_rng(0)) == []


def test_turns_of_a_picture_shown_and_of_one_drawn():
    asked = questions_of_talk(apples(2, "blue"), "en", np.random.default_rng(1), 3)
    shown = about_shown([1, 2], asked)
    assert [turn.role for turn in shown] == ["user", "assistant"] * len(asked)
    assert shown[0].parts == (Shown([1, 2]), "\n" + asked[0].question)
    drawn = about_drawn("two blue apples", [1, 2], asked)
    assert drawn[1].parts == (Drawn([1, 2]),) and drawn[2].parts == (asked[0].question,)
    assert len(drawn) == 2 + 2 * len(asked)
