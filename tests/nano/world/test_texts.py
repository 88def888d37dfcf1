"""The text corpus: real pairs in both languages, and the tasks made of them."""

import gzip

import numpy as np
import pytest

from opentar.core.errors import DataError
from opentar.nano.world import build_texts
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.texts import TASKS, TextPair, load_texts, raw_strings, tasks_of, text_task


def test_the_corpus_has_every_emoji_and_definitions_of_concepts():
    texts = load_texts()
    assert sum(text.kind == "emoji" for text in texts) == 1_949
    defined = {text.en for text in texts if text.kind == "gloss"}
    assert sum(concept.en in defined for concept in load_concepts()) > 265
    assert all(text.en and text.zh for text in texts)
    assert all(text.gloss and '"' not in text.gloss[-1:] for text in texts if text.kind == "gloss")


def test_concepts_are_translated_as_in_their_own_table():
    pairs = {(text.en, text.zh) for text in load_texts() if text.kind == "emoji"}
    assert {(concept.en, concept.zh) for concept in load_concepts()} <= pairs


def test_definitions_are_of_the_right_sense():
    glosses = {text.en: text.gloss for text in load_texts() if text.gloss}
    for name, word in {"mouse": "rodent", "bat": "wings", "bank": "building", "ring": "jewelry", "octopus": "tentacles",
                       "cake": "baked", "football": "ball", "bow": "knot"}.items():  # fmt: skip
        assert word in glosses[name], glosses[name]


def test_tasks_repeat_with_their_seed_and_all_occur():
    posed = [(text, task) for text in load_texts()[::40] for task in tasks_of(text)]

    def written(seed):
        rng = np.random.default_rng(seed)
        return [text_task(text, task, rng) for text, task in posed]

    assert written(1) == written(1) != written(2)
    assert {task for text in load_texts() for task in tasks_of(text)} == set(TASKS)
    for prompt, answer in written(3):
        assert prompt and answer and "{" not in prompt + answer


def test_each_task_asks_and_answers_in_place():
    rng = np.random.default_rng(0)
    text = TextPair(kind="emoji", en="cat", zh="猫", tags_en=("pet", "animal"), tags_zh=("宠物",))
    assert text_task(text, "en_zh", rng)[1] == "猫"
    assert text_task(text, "zh_en", rng)[1] == "cat"
    prompt, answer = text_task(text, "label", rng)
    assert answer == "cat" and "pet" in prompt and "animal" in prompt and "cat" not in prompt
    assert text_task(text, "tags", rng)[1] == "pet, animal"
    gloss = TextPair(kind="gloss", en="cat", zh="猫", gloss="feline mammal")
    assert text_task(gloss, "define", rng)[1] == "feline mammal"
    with pytest.raises(DataError, match="allowed: define"):
        text_task(gloss, "tags", rng)
    with pytest.raises(DataError, match="allowed: none"):
        text_task(TextPair(kind="emoji", en="OK", zh="OK"), "label", rng)
    assert list(raw_strings([text, gloss])) == ["cat", "猫", "pet", "animal", "宠物", "cat", "猫", "feline mammal"]


def test_no_answer_to_a_label_task_stands_in_its_prompt():
    for text in load_texts():
        assert text.en not in text.tags_en and text.zh not in text.tags_zh


def test_wordnet_files_are_parsed_and_the_sense_is_chosen(tmp_path):
    licence = "  1 This software and database is being provided\n"
    (tmp_path / "index.noun").write_text(licence + "octopus n 2 2 @ ~ 2 0 00000010 00000020  \n")
    (tmp_path / "data.noun").write_text(
        licence
        + '00000010 13 n 01 octopus 0 001 @ 00000001 n 0000 | a dish; "octopus for supper"  \n'
        + '00000020 05 n 01 octopus 0 001 @ 00000001 n 0000 | a cephalopod: "it swims"  \n'
    )
    wordnet = build_texts.read_wordnet(tmp_path)
    assert build_texts.gloss_of("octopus", "animals-nature", wordnet) == "a cephalopod"
    assert build_texts.gloss_of("octopus", "food-drink", wordnet) == "a dish"
    assert build_texts.gloss_of("squid", "food-drink", wordnet) == ""
    with pytest.raises(DataError, match="wordnet-base"):
        build_texts.read_wordnet(tmp_path / "nowhere")


def test_writing_the_corpus_is_reproducible(tmp_path):
    row = {"kind": "emoji", "en": "man's shoe", "zh": "“鞋”", "tags_en": "a|b", "tags_zh": "", "gloss": ""}
    build_texts.write_texts([row], tmp_path / "a.gz")
    build_texts.write_texts([row], tmp_path / "b.gz")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    lines = gzip.decompress((tmp_path / "a.gz").read_bytes()).decode().splitlines()
    assert lines[1] == "emoji\tman's shoe\t“鞋”\ta|b\t\t"
