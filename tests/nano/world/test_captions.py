"""Captions agree with their scenes: names, colours, numbers, relations, grounds and nothing else."""

import numpy as np
import pytest

from opentar.core.errors import DataError
from opentar.nano.world.captions import (
    NUMBERS_EN,
    NUMBERS_ZH,
    all_captions,
    article,
    caption,
    concept_of,
    noun_en,
    plain,
    variants,
)  # fmt: skip
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.palette import BACKGROUNDS, BACKGROUNDS_ZH, COLOURS, COLOURS_ZH
from opentar.nano.world.scenes import SceneGenerator
from opentar.nano.world.spec import KINDS, ObjectSpec, SceneSpec, relation


def concept(english):
    return next(c for c in load_concepts() if c.en == english)


def scene(kind, background, *items):
    boxes = {1: [(40, 40, 80, 80)], 2: [(5, 50, 45, 90), (70, 50, 110, 90)], 3: [(0, 0, 9, 9)] * 3}[len(items)]
    objects = tuple(
        ObjectSpec(concept=concept(name).index, style="noto", colour=colour, box=box)
        for (name, colour), box in zip(items, boxes, strict=True)
    )
    return SceneSpec(kind=kind, background=background, objects=objects)


def test_canonical_captions():
    apples = scene("counted_colour", "light blue", *[("apple", "red")] * 3)
    assert plain(apples) == "three red apples on a light blue background"
    assert plain(apples, "zh") == "浅蓝色背景上的三个红色苹果"
    beside = scene("position", "white", ("apple", "red"), ("bicycle", "blue"))
    assert plain(beside, background=False) == "a red apple to the left of a blue bicycle"
    assert plain(beside, "zh") == "白色背景上，一个红色苹果在一辆蓝色自行车的左边"
    assert plain(scene("two", "black", ("elephant", None), ("jeans", None)), "en", False) == "an elephant and jeans"
    assert plain(scene("colour", "white", ("unicorn", "orange")), "en", False) == "an orange unicorn"


def test_articles_and_plurals():
    assert [article(w) for w in ("unicorn", "apple", "orange apple", "T-shirt", "ice skate")] == [
        "a", "an", "an", "a", "an",
    ]  # fmt: skip
    assert noun_en(concept("bread")) == "bread"
    assert noun_en(concept("wolf"), "gray", 3) == "three gray wolves"
    assert noun_en(concept("jeans"), definite=True) == "the jeans"


def test_every_caption_names_every_object():
    generator, rng = SceneGenerator("train"), np.random.default_rng(0)
    for kind in KINDS * 12:
        spec = generator.sample(rng, kind)
        several = kind in ("count", "counted_colour")
        english, chinese = all_captions(spec, "en"), all_captions(spec, "zh")
        assert len(english) >= 10 and len(chinese) >= 6
        for item in spec.objects:
            name = concept_of(item).plural if several else concept_of(item).en
            said = f"{item.colour or ''} {name}".strip().lower()
            assert all(said in text.lower() for text in english)
            assert all(concept_of(item).zh in text for text in chinese)
            assert all(item.colour is None or COLOURS_ZH[item.colour] in text for text in chinese)
        if several:
            assert all(NUMBERS_EN[len(spec.objects)] in text.lower() for text in english)
            assert all(NUMBERS_ZH[len(spec.objects)] in text for text in chinese)


def test_captions_name_no_other_colour():
    generator, rng = SceneGenerator("train"), np.random.default_rng(1)
    for _ in range(150):
        spec = generator.sample(rng)
        said = {o.colour for o in spec.objects}
        names = " ".join(concept_of(o).en for o in spec.objects)
        for text in all_captions(spec, "en"):
            for ground in BACKGROUNDS:
                if ground in text and ground == spec.background:
                    text = text.replace(f" {ground}", "")
            words = set(text.lower().replace(".", "").replace(",", "").split())
            assert words & set(COLOURS) - set(names.split()) <= said


def test_background_is_said_when_asked():
    generator, rng = SceneGenerator("train"), np.random.default_rng(2)
    for _ in range(60):
        spec = generator.sample(rng)
        for style in ("short", "long"):
            assert spec.background in caption(spec, "en", rng, style, True)
            assert "background" not in caption(spec, "en", rng, style, False)
            assert BACKGROUNDS_ZH[spec.background] in caption(spec, "zh", rng, style, True)
            assert "背景" not in caption(spec, "zh", rng, style, False)


def test_relation_is_true_in_every_wording():
    generator, rng = SceneGenerator("train"), np.random.default_rng(3)
    first_words = {"left": ("left",), "right": ("right",), "above": ("above", "over", "higher"), "below": ("below",)}
    for _ in range(40):
        spec = generator.sample(rng, "position")
        first, second = (noun_en(concept_of(o)) for o in spec.objects)
        where = relation(*spec.objects)
        for text in all_captions(spec, "en"):
            said = text.lower().replace("left side", "left")
            ahead = said.find(first.lower()) < said.find(second.lower())
            if "at the top" not in said and "on the left and" not in said:
                words = first_words[where] if ahead else ()
                assert not words or any(w in said for w in words) or where == "below"


def test_same_seed_same_caption():
    spec = SceneGenerator("train").sample(np.random.default_rng(4))
    assert caption(spec, "en", np.random.default_rng(5)) == caption(spec, "en", np.random.default_rng(5))
    assert len({caption(spec, "en", np.random.default_rng(n)) for n in range(40)}) > 5


def test_unknown_language_and_style_are_refused():
    spec = SceneGenerator("train").sample(np.random.default_rng(6))
    with pytest.raises(DataError, match="unknown language 'fr': choose one of en, zh"):
        plain(spec, "fr")
    with pytest.raises(DataError, match="unknown caption style 'tiny'"):
        caption(spec, "en", np.random.default_rng(0), style="tiny")


def test_ordered_captions_name_the_first_object_first():
    generator, rng = SceneGenerator("train"), np.random.default_rng(5)
    for _ in range(20):
        spec = generator.sample(rng, "two")
        first, second = (noun_en(concept_of(item)) for item in spec.objects)
        for style in ("short", "long"):
            either, ordered = (variants(spec, "en", style, ordered=flag) for flag in (False, True))
            assert set(ordered) < set(either)
            assert all(text.lower().index(first.lower()) < text.lower().rindex(second.lower()) for text in ordered)
