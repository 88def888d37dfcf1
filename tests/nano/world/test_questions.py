"""Questions: right answers, balance, no question that a present object's name could answer."""

from collections import Counter

import numpy as np
import pytest

from opentar.nano.world.captions import NUMBERS_EN, plain
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.layout import Draws
from opentar.nano.world.questions import (
    NEGATIVES,
    NO,
    YES,
    absent_concept,
    clashes,
    corrupted,
    describe,
    one_of_each_kind,
    popularity,
    presence_question,
    presence_questions,
    questions,
)
from opentar.nano.world.scenes import SceneGenerator
from opentar.nano.world.spec import relation
from opentar.nano.world.split import scene_splits


@pytest.fixture(scope="module")
def scenes():
    generator, rng = SceneGenerator("train"), np.random.default_rng(0)
    return [generator.sample(rng) for _ in range(400)]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_yes_and_no_are_balanced(scenes, lang):
    rng, answers = np.random.default_rng(1), Counter()
    for spec in scenes:
        answers.update((q.kind, q.answer) for q in questions(spec, lang, rng))
    for kind in ("presence", "position", "matching"):
        assert answers[kind, YES[lang]] == answers[kind, NO[lang]] > 50


def test_presence_is_true(scenes):
    rng, concepts = np.random.default_rng(2), load_concepts()
    for spec in scenes:
        present = {o.concept for o in spec.objects}
        asked = {presence_question(c, "en"): c.index for c in concepts}
        for qa in questions(spec, "en", rng):
            if qa.kind == "presence":
                assert (asked[qa.question] in present) == (qa.answer == "yes")
                if qa.answer == "no":
                    assert not clashes()[list(present), asked[qa.question]].any()


def test_no_never_asks_for_a_tag():
    concepts = load_concepts()
    for first in concepts[::7]:
        for second in concepts:
            if second.en in first.tags_en or second.zh in first.tags_zh:
                assert clashes()[first.index, second.index] and clashes()[second.index, first.index]
    index = {c.en: c.index for c in concepts}
    assert clashes()[index["circus tent"], index["tent"]] and clashes()[index["fish"], index["tropical fish"]]
    assert clashes().mean() < 0.05


def test_kinds_of_absence():
    concepts, draws = load_concepts(), Draws(np.random.default_rng(3))
    drawn = {kind: [absent_concept([0], draws, kind) for _ in range(400)] for kind in NEGATIVES}
    near = {c.index for c in concepts if c.subgroup == concepts[0].subgroup}
    assert set(drawn["adversarial"]) <= near and not set(drawn["random"]) <= near
    assert Counter(drawn["popular"]).most_common(1)[0][1] > 3 * Counter(drawn["random"]).most_common(1)[0][1]
    assert popularity().sum() == pytest.approx(1)


def test_counts_colours_and_grounds(scenes):
    rng = np.random.default_rng(4)
    for spec in scenes:
        for qa in questions(spec, "en", rng):
            if qa.kind == "count":
                assert qa.answer == NUMBERS_EN[len(spec.objects)]
            if qa.kind == "colour":
                concept = next(
                    c for c in load_concepts() if f"the {c.en}?" in qa.question or f"the {c.plural}?" in qa.question
                )
                assert qa.answer in {o.colour for o in spec.objects if o.concept == concept.index}
            if qa.kind == "background":
                assert qa.answer == spec.background


def test_position_answers_are_true():
    generator, rng = SceneGenerator("train", kinds=["position"]), np.random.default_rng(5)
    concepts, order = load_concepts(), Counter()
    ways = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
    for _ in range(300):
        spec = generator.sample(rng)
        a, b = spec.objects
        for one, other in ((a, b), (b, a)):
            name, mate, where = concepts[one.concept].en, concepts[other.concept].en, relation(one, other)
            for qa in questions(spec, "en", rng):
                for asked, way in ways.items():
                    if qa.question in (f"Is the {name} {way} the {mate}?", f"Are the {name} {way} the {mate}?"):
                        assert (qa.answer == "yes") == (asked == where)
                        order[qa.answer, one is a] += 1
                if qa.question.startswith("Where") and f"the {name}, seen" in qa.question:
                    assert qa.answer == where
    # Neither answer goes with who comes first.
    assert 0.35 < order["yes", True] / (order["yes", True] + order["yes", False]) < 0.65
    assert 0.35 < order["no", True] / (order["no", True] + order["no", False]) < 0.65


def test_a_caption_that_does_not_fit_is_another_training_scene(scenes):
    draws, changed = Draws(np.random.default_rng(6)), 0
    for spec in scenes:
        wrong = corrupted(spec, draws)
        if wrong is None:
            continue
        changed += 1
        assert plain(wrong, "en", False) != plain(spec, "en", False)
        assert scene_splits(wrong) <= {"train"}
        new = {o.concept for o in wrong.objects} - {o.concept for o in spec.objects}
        assert not clashes()[np.ix_([o.concept for o in spec.objects], list(new))].any()
    assert changed > 0.95 * len(scenes)


def test_describe_and_determinism(scenes):
    spec = scenes[0]
    assert describe(spec, "en", np.random.default_rng(0)).answer == plain(spec, "en")
    assert describe(spec, "zh", np.random.default_rng(0), sentence=True).answer.endswith("。")
    first = questions(spec, "en", np.random.default_rng(7), describing=True)
    assert first == questions(spec, "en", np.random.default_rng(7), describing=True)
    assert first[-1].kind == "describe"


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_presence_questions_differ_and_are_answered_by_lot(scenes, lang):
    rng, answers, sizes = np.random.default_rng(2), Counter(), set()
    for spec in scenes:
        asked = presence_questions(spec, lang, rng, 2)
        assert len({qa.question for qa in asked}) == len(asked) == min(2, len({o.concept for o in spec.objects}))
        answers.update(qa.answer for qa in asked)
        sizes.add(tuple(qa.answer for qa in asked))
    assert 0.42 < answers[YES[lang]] / answers.total() < 0.58
    assert {(YES[lang], YES[lang]), (NO[lang], NO[lang]), (YES[lang], NO[lang])} <= sizes


def test_one_question_of_each_kind_and_any_of_them(scenes):
    rng, seen = np.random.default_rng(3), set()
    for spec in scenes[:60]:
        asked = questions(spec, "en", rng)
        chosen = one_of_each_kind(asked, rng)
        assert sorted(qa.kind for qa in chosen) == sorted({qa.kind for qa in asked})
        seen |= {qa.answer for qa in chosen if qa.kind == "presence"}
    assert seen == {YES["en"], NO["en"]}
