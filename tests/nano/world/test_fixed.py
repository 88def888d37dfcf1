"""The fixed sets: sizes, stable ids, split, forms of POPE and GenEval, and that a part equals the whole's."""

import json
from collections import Counter

import pytest

from opentar.core.errors import DataError
from opentar.nano.world.captions import plain
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.fixed import (
    GENEVAL_TAGS,
    combo_scenes,
    geneval_prompts,
    pope_questions,
)
from opentar.nano.world.questions import NEGATIVES, clashes
from opentar.nano.world.render import load_book
from opentar.nano.world.spec import SceneSpec, relation
from opentar.nano.world.split import scene_splits


def test_combination_set():
    items = combo_scenes()
    assert set(Counter(i.spec.kind for i in items).values()) == {500}
    assert all(scene_splits(i.spec) == {"test"} for i in items)
    assert combo_scenes(60) == items[:60]


def test_pope_like_questions():
    concepts, pictures = load_concepts(), {}
    for setting in NEGATIVES:
        items = pope_questions(setting)
        assert Counter(i.label for i in items) == {"yes": 500, "no": 500}
        assert [i.question_id for i in items] == list(range(1, 1001))
        asked = {f" {c.en} in the": c.index for c in concepts}
        for item in items:
            assert pictures.setdefault(item.image, item.spec) == item.spec
            assert scene_splits(item.spec) == (frozenset() if item.spec.kind == "single" else {"test"})
            named = max((text for text in asked if text in item.text), key=len)
            present = [o.concept for o in item.spec.objects]
            assert (asked[named] in present) == (item.label == "yes")
            assert item.label == "yes" or not clashes()[present, asked[named]].any()
        line = json.loads(json.dumps(items[0].to_line()))
        assert list(line)[:4] == ["question_id", "image", "text", "label"]
        assert SceneSpec.from_dict(line["scene"]) == items[0].spec
    with pytest.raises(DataError, match="unknown POPE setting 'hard'"):
        pope_questions("hard")


def test_geneval_like_prompts():
    items = geneval_prompts()
    assert Counter(i.tag for i in items) == dict.fromkeys(GENEVAL_TAGS, 100)
    assert len({i.id for i in items}) == len({(i.tag, i.prompt) for i in items}) == 600
    for item in items:
        assert scene_splits(item.spec) == (frozenset() if item.tag == "single_object" else {"test"})
        assert item.prompt == plain(item.spec)
        line = json.loads(json.dumps(item.to_line()))
        assert line["tag"] == item.tag and line["prompt"] == item.prompt
        assert all(entry["class"].split()[0] in item.prompt or item.tag == "counting" for entry in line["include"])
        if item.tag == "counting":
            assert line["include"][0]["count"] + 1 == line["exclude"][0]["count"]
        if item.tag == "position":
            reference, placed = line["include"]
            assert placed["position"][1] == 0 and "position" not in reference
            assert placed["position"][0].split()[0] == relation(*item.spec.objects)
            assert item.prompt.index(placed["class"]) < item.prompt.rindex(reference["class"])
        if item.tag in ("colors", "color_attr"):
            assert [e["color"] for e in line["include"]] == [o.colour for o in item.spec.objects]


def test_styles_of_true_scenes_leave_the_prompts_alone():
    style = load_book("train").sprites.styles[0]
    usual, redrawn = geneval_prompts(8), geneval_prompts(8, [style])
    assert [i.prompt for i in usual] == [i.prompt for i in redrawn]
    assert sum({o.style for o in i.spec.objects} == {style} for i in redrawn) > 0.8 * len(redrawn)
