"""The model that ships: small enough, whole, and able to do what the README says of it."""

import warnings

import numpy as np
import pytest
from PIL import Image

from opentar import Tar, UnknownWordsWarning
from opentar.checkpoints import find, model_folder
from opentar.core.folder import verify
from opentar.nano.world.captions import concept_of
from opentar.nano.world.fixed import geneval_prompts, pope_questions
from opentar.nano.world.questions import questions
from opentar.nano.world.render import load_book, render
from opentar.nano.world.scenes import SceneGenerator


@pytest.fixture(scope="module")
def nano():
    return Tar.from_pretrained("nano", device="cpu")


def test_nano_is_bundled_small_and_undamaged():
    folder = find.find_model("nano")
    assert folder.parent == find.BUNDLED
    assert sum(size for _, size in model_folder.part_files(folder)) <= 20e6
    config = model_folder.read_config(folder)
    assert config.detokenizers == ("diffusion", "ar")
    assert config.licence and config.data
    for part in config.parts:
        verify(folder / part)


def test_it_names_what_it_sees(nano):
    """Held-out layouts of single things in all training styles; chance is one in 301."""
    generator, rng = SceneGenerator("val"), np.random.default_rng(21)
    specs = [generator.sample(rng, "single") for _ in range(12)]
    said = [nano.describe(Image.fromarray(render(spec, load_book("train")))) for spec in specs]
    right = sum(concept_of(spec.objects[0]).en in text for spec, text in zip(specs, said, strict=True))
    assert right >= 6, said


def test_what_it_draws_it_reads_again(nano):
    prompts = ["a banana on a white background", "a rocket on a light gray background", "a key on a black background"]
    pictures = nano.generate(prompts, seed=0)
    said = [nano.describe(picture) for picture in pictures]
    names = ("banana", "rocket", "key")
    assert sum(name in text for name, text in zip(names, said, strict=True)) >= 2, said
    again = nano.generate(prompts[0], seed=0)[0]
    assert np.array_equal(np.asarray(again), np.asarray(pictures[0]))
    preview = nano.generate(prompts[0], seed=0, detok="ar")[0]
    assert preview.size == (128, 128)


def test_words_it_never_learned_are_named(nano):
    assert nano.unknown_words("a zeppelin above a banana") == ["zeppelin"]


@pytest.mark.parametrize(
    "odd",
    [
        *("THREE RED APPLES", "Three Red Apples", "three\u00a0red\tapples", "three red\u2011apples"),
        *("\uff34hree  red apples", "please draw three red apples"),
    ],
)
def test_it_hears_a_prompt_however_it_is_written(nano, odd):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownWordsWarning)
        pictures = [nano.generate(text, seed=1, scale=2, steps=1)[0] for text in (odd, "three red apples")]
    assert np.array_equal(*pictures)
    assert (pictures[0].info["prompt"], pictures[0].info["encoded"]) == (odd, "three red apples")


def test_its_folder_says_how_its_texts_are_written(nano):
    """`python -m opentar.nano.bundle src/opentar/models/nano` writes what the recipe says today."""
    from opentar.nano.bundle import template

    assert nano.parts.language.builder.template == template()


def test_its_own_prompts_and_questions_hold_no_unknown_word(nano):
    heard = [prompt.prompt for prompt in geneval_prompts(20)]
    assert [text for text in heard if nano.known_words.known_part(text) != text] == []
    describing = nano.parts.config.defaults.read.describe
    asked = [describing, *(one.text for lang in ("en", "zh") for one in pope_questions("random", 400, lang))]
    generator, rng = SceneGenerator("val"), np.random.default_rng(2)
    for _ in range(200):
        spec = generator.sample(rng)
        asked += [qa.question for lang in ("en", "zh") for qa in questions(spec, lang, rng, describing=True)]
    assert {text: unknown for text in [*heard, *asked] if (unknown := nano.known_words.split(text)[1])} == {}
