"""The recipe of the next training: samples can be built, words are known, the present one is as it was."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from opentar.core.config import to_dict
from opentar.language.known_words import KnownWords
from opentar.language.prompt import Drawn, PromptBuilder, Shown
from opentar.language.tokenizer import train_bpe
from opentar.nano.benchmarks.honest import denies, honest_set
from opentar.nano.benchmarks.wording import worded_things
from opentar.nano.bundle import known_words
from opentar.nano.corpus import SceneCorpus
from opentar.nano.recipes import nano, nano_words
from opentar.nano.stages.pictures import ScenePictures
from opentar.nano.steps import recipe_of
from opentar.nano.tasks import TextTasks
from opentar.nano.worded_tasks import TalkTask, WordedDrawTask, template_texts, worded_task, worded_words
from opentar.nano.wording.honest import PAIRED
from opentar.nano.wording.strangers import descriptions, things
from opentar.nano.wording.templates import FAMILIES
from opentar.vocab import Vocab


@pytest.fixture(scope="module")
def corpus() -> SceneCorpus:
    """Forty scenes with codes by lot."""
    specs, rng = ScenePictures().specs(np.random.default_rng(0), 40), np.random.default_rng(1)
    codes = tuple(torch.from_numpy(rng.integers(0, 4096, (40, length))) for length in (144, 36, 16))
    return SceneCorpus(codes=codes, latents=None, specs=tuple(specs), styles=None)


def test_the_recipe_differs_in_language_alone() -> None:
    present, following = to_dict(nano()), to_dict(nano_words())
    assert {key for key in present if present[key] != following[key]} == {"joint", "tune"}
    assert {"worded", "talked", "noise"} <= set(following["joint"]) - set(present["joint"])
    assert json.dumps(recipe_of("nano_words").settings)
    assert list(recipe_of("nano_words").steps) == list(recipe_of("nano").steps)


def test_samples_are_repeatable_and_fit_the_model(corpus: SceneCorpus) -> None:
    settings = replace(nano_words().joint, worded=1.0, talked=1.0, after_drawing=0.5)
    tokenizer = train_bpe(template_texts(), 600)
    vocab = Vocab(text_size=tokenizer.size, codebook_size=4096, grid_side=12)
    prompts = PromptBuilder(tokenizer, vocab, limit=512)
    draw = WordedDrawTask(corpus=corpus, settings=settings, lang="en")
    talk = TalkTask(corpora=[corpus] * 3, settings=settings, lang="zh")
    lengths = set()
    for seed in range(60):
        drawn, shown = draw.sample(np.random.default_rng(seed)), talk.sample(np.random.default_rng(seed))
        assert drawn == draw.sample(np.random.default_rng(seed))
        assert isinstance(drawn[1].parts[0], Drawn) and isinstance(shown[0].parts[0], Shown)
        for turns in (drawn, shown):
            ids, labels = prompts.labelled(turns)
            assert len(ids) == len(labels)
        lengths.add(len(drawn))
    assert min(lengths) == 2 and max(lengths) > 4
    task = worded_task(settings, [corpus] * 3, TextTasks(nano_words().text))
    assert all(task.sample(np.random.default_rng(seed)) for seed in range(20))


def test_words_of_templates_become_known_and_strangers_do_not() -> None:
    own = known_words()
    known = KnownWords(worded_words(own))
    assert set(own) <= set(worded_words(own))
    for said in ("please draw me an apple", "can you draw two cats?", "请画一只猫", "how many dogs do you see?"):
        assert known.split(said)[1] == []
    for lang in ("en", "zh"):
        for word in (
            *descriptions(lang),
            *descriptions(lang, held_out=True),
            *things(lang),
            *things(lang, held_out=True),
        ):
            assert known.split(word)[1], word


def test_a_denial_is_read_as_one() -> None:
    for said in ("none", "no", "There is no dog.", "There are no jeans.", "I am not sure.", "Nothing."):
        assert denies(said)
    for said in ("three", "a notebook", "on the left", ""):
        assert not denies(said)


def test_the_sets_of_the_evaluation_are_fixed_and_balanced() -> None:
    things = worded_things(18)
    assert things == worded_things(30)[:18]
    assert len({one.concept for one in things}) == 18
    assert {one.families["en"] for one in things} == set(FAMILIES) - {"plural"}
    specs, asked = honest_set(6)
    assert asked[: len(honest_set(3)[1])] == honest_set(3)[1] and len(specs) == 6
    kinds = [one.qa.kind for one in asked]
    for kind in PAIRED:
        assert kinds.count(kind) == kinds.count(f"no_{kind}")
    assert kinds.count("stranger") == 6
