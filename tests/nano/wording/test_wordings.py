"""Wordings: whole templates are held out, every prompt names its things, noise keeps meaning and is repeatable."""

import re

import numpy as np
import pytest

from opentar.core.errors import ConfigError, DataError
from opentar.language.spelling import fold
from opentar.nano.bundle import template
from opentar.nano.wording import asking, strangers
from opentar.nano.wording.noise import NoiseSettings, in_capitals, in_digits, misspelt, noisy, with_slip, with_typo
from opentar.nano.wording.templates import FAMILIES, templates
from opentar.nano.wording.wordings import fill, fits, slots, worded
from opentar.nano.world.captions import LANGUAGES, all_captions, concept_of
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.palette import COLOURS_ZH
from opentar.nano.world.scenes import SceneGenerator
from opentar.nano.world.spec import KINDS


@pytest.fixture(scope="module")
def scenes():
    generator, rng = SceneGenerator("train"), np.random.default_rng(2)
    return [generator.sample(rng, kind) for kind in KINDS * 20]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_held_out_templates_are_never_trained(lang, scenes):
    train, held_out = (templates(lang, held_out=held) for held in (False, True))
    texts = {one.text for one in train}
    assert len(texts) == len(train) and not texts & {one.text for one in held_out}
    assert {one.family for one in train} == {one.family for one in held_out} == set(FAMILIES)
    captions = {text for spec in scenes for text in all_captions(spec, lang)}
    for one in held_out:
        assert not any(fits(one, spec) and fill(one, spec, np.random.default_rng(0)) in captions for spec in scenes)
    for kind in asking.KINDS:
        both = (set(asking.question_templates(kind, lang, held_out=held)) for held in (False, True))
        assert not set.intersection(*both)


@pytest.mark.parametrize("words", [strangers.descriptions, strangers.places, strangers.things])
@pytest.mark.parametrize("lang", LANGUAGES)
def test_strangers_are_apart_and_no_names(words, lang):
    train, held_out = words(lang), words(lang, held_out=True)
    assert not set(train) & set(held_out)
    if words is strangers.things:
        known = {name for one in load_concepts() for name in (one.en, one.plural, one.zh, *one.tags_en, *one.tags_zh)}
        assert not known & {*train, *held_out}


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_prompt_names_its_things(scenes, lang, held_out):
    for number, spec in enumerate(scenes):
        said = worded(spec, lang, np.random.default_rng(number), held_out=held_out)
        assert said == worded(spec, lang, np.random.default_rng(number), held_out=held_out)
        assert "{" not in said
        for item in spec.objects:
            one = concept_of(item)
            assert one.en in said or one.plural in said or one.zh in said, (said, one.en)
            if item.colour:
                assert item.colour in said or COLOURS_ZH[item.colour] in said, said


def test_each_scene_has_wordings_of_several_families(scenes):
    for spec in scenes:
        for lang in LANGUAGES:
            assert len({one.family for one in templates(lang) if fits(one, spec)}) >= 4
    counted = next(spec for spec in scenes if spec.kind == "count")
    (bare,) = [one for one in templates("en") if one.text == "{bare}"]
    assert slots("draw {one} {place}") == {"one", "place"}
    with pytest.raises(DataError, match="cannot say a 'count' scene"):
        fill(bare, counted, np.random.default_rng(0))


def test_typos_are_one_letter_off_and_no_other_name():
    names = {word for one in load_concepts() for word in one.en.lower().split()}
    for name in sorted(names):
        if not re.fullmatch("[a-z]{4,}", name):
            continue
        wrong = misspelt(name, np.random.default_rng(len(name)))
        assert wrong not in names and abs(len(wrong) - len(name)) <= 1 and wrong[0] == name[0]
        assert wrong in with_typo(f"a {name}", np.random.default_rng(0)) or with_typo(
            f"a {name}", np.random.default_rng(0)
        )
    assert with_typo("画一只猫", np.random.default_rng(0)) == "画一只猫"


def test_capitals_are_heard_as_small_letters():
    rng, spellings = np.random.default_rng(0), template().spellings
    for text in ("three red apples", "draw me a T-shirt", "a Christmas tree and a jack-o-lantern"):
        heard = fold(text, spellings, sentence=False)
        found = {in_capitals(text, rng) for _ in range(30)}
        assert len(found) >= 3
        assert {fold(said, spellings, sentence=False) for said in found} == {heard}


def test_digits_and_slips(scenes):
    assert in_digits("three red apples") == "3 red apples"
    assert in_digits("画两只猫和一条狗") == "画2只猫和一条狗"
    spec = next(spec for spec in scenes if spec.kind == "single" and not concept_of(spec.objects[0]).mass)
    name = concept_of(spec.objects[0]).en
    for right, wrong in (("a", "an"), ("an", "a")):
        said = with_slip(f"draw {right} {name}", spec, np.random.default_rng(0))
        assert said in (f"draw {wrong} {name}", f"draw {right} {name}")


def test_noise_is_off_at_zero_and_repeatable(scenes):
    off = NoiseSettings(typo=0, capitals=0, digits=0, filler=0, grammar=0)
    loud = NoiseSettings(typo=1, capitals=1, digits=1, filler=1, grammar=1)
    changed = 0
    for number, spec in enumerate(scenes):
        text = worded(spec, "en", np.random.default_rng(number))
        assert noisy(text, spec, np.random.default_rng(1), off) == text
        one, other = (noisy(text, spec, np.random.default_rng(number), loud) for _ in range(2))
        assert one == other
        changed += one != text
    assert changed > 0.9 * len(scenes)
    with pytest.raises(ConfigError, match=r"noise.typo is 1.5; give a share from 0 to 1"):
        NoiseSettings(typo=1.5)
