"""Text samples: questions about told scenes can be answered from the telling alone; nothing held out is trained on."""

from dataclasses import replace

import numpy as np
import pytest

from opentar.language.prompt import PromptBuilder
from opentar.language.tokenizer import train_bpe
from opentar.nano.recipes import nano
from opentar.nano.tasks import ANSWERS, TextTasks, told_questions
from opentar.nano.world.captions import noun_en
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.palette import BACKGROUNDS
from opentar.nano.world.questions import NO, YES
from opentar.nano.world.scenes import SceneGenerator
from opentar.vocab import Vocab


@pytest.fixture(scope="module")
def told():
    generator, rng = SceneGenerator("train"), np.random.default_rng(4)
    specs = [generator.sample(rng) for _ in range(300)]
    return [(spec, *told_questions(spec, "en", rng)) for spec in specs]


def test_what_a_caption_does_not_tell_is_not_asked(told):
    kinds = set()
    for spec, text, asked in told:
        assert 1 <= len(asked) <= ANSWERS
        for qa in asked:
            kinds.add(qa.kind)
            match qa.kind:
                case "background":
                    assert qa.answer in BACKGROUNDS and qa.answer in text
                case "position":
                    assert spec.kind == "position"
                case "colour":
                    assert qa.answer in text
                case "presence" if qa.answer == YES["en"]:
                    names = [load_concepts()[item.concept] for item in spec.objects]
                    assert any(c.en in text or c.plural in text or noun_en(c) in text for c in names)
    assert kinds == {"presence", "count", "colour", "background", "position", "matching"}


def test_yes_and_no_come_alike(told):
    answers = [qa.answer for _, _, asked in told for qa in asked if qa.kind == "presence"]
    assert 0.4 < answers.count(YES["en"]) / len(answers) < 0.6
    assert set(answers) == {YES["en"], NO["en"]}


def test_shares_decide_what_comes():
    tokenizer = train_bpe(("a red apple on a white background", "Is there a dog in the picture? yes no"), 300)
    vocab = Vocab(text_size=tokenizer.size, codebook_size=16, grid_side=12)
    prompts = PromptBuilder(tokenizer, vocab, limit=2048)
    turns = tokenizer.special("<|im_start|>")
    most = {}
    for share in (0.0, 1.0):
        settings = replace(nano().text, caption_share=0.5 * (1 - share), question_share=share)
        tasks, rng = TextTasks(settings), np.random.default_rng(1)
        examples = [prompts.labelled(tasks.sample(rng)) for _ in range(20)]
        assert all(len(ids) == len(labels) and max(labels) >= 0 for ids, labels in examples)
        most[share] = max(ids.count(turns) for ids, _ in examples)
    assert most[0.0] == 2 < most[1.0] <= 2 * ANSWERS
