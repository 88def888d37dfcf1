"""User text in the form of the training texts: what is changed, and that training texts are not."""

import dataclasses
import unicodedata

import numpy as np
import pytest

import sequences
from opentar.language.prompt import PUBLISHED_TEMPLATE, ChatTemplate, PromptBuilder
from opentar.language.spelling import fold
from opentar.nano.bundle import template
from opentar.nano.world.captions import all_captions
from opentar.nano.world.fixed import geneval_prompts, pope_questions
from opentar.nano.world.questions import questions
from opentar.nano.world.scenes import SceneGenerator

NANO = template()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red apple", "a red apple"),
        ("A RED APPLE", "a red apple"),
        ("A Red Apple", "a red apple"),
        ("three\u00a0red apples", "three red apples"),
        ("three\tred\r\napples ", "three red apples"),
        ("  three  red\u2009\u3000apples", "three red apples"),
        ("red\u2011apple", "red apple"),
        ("a light-blue ice\u2010cream", "a light blue ice cream"),
        ("\uff34\uff48\uff52\uff45\uff45 red \uff13", "three red 3"),
        ("a re\u00add app\u200ble", "a red apple"),
        ("the cat\u2019s hat", "the cat's hat"),
        ("a T-SHIRT, a christmas tree", "a T-shirt, a Christmas tree"),
        ("a JACK-O-LANTERN", "a jack-o-lantern"),
        ("the picture shows a cat. the background is grey.", "The picture shows a cat. The background is gray."),
        ("a cat！", "A cat!"),
        ("红苹果, 一只 猫", "红苹果，一只猫"),
        ("一件t恤.", "一件T恤。"),
        ("\uff34恤", "T恤"),
    ],
)
def test_a_prompt_in_one_form(text: str, expected: str) -> None:
    assert fold(text, NANO.spellings, sentence=False) == expected
    assert fold(expected, NANO.spellings, sentence=False) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("what colour is the apple", "What color is the apple"),
        ("IS THERE A T-SHIRT？", "Is there a T-shirt?"),
        ("有几个苹果?", "有几个苹果？"),
        ("图中 有什么 ?", "图中有什么？"),
    ],
)
def test_a_question_begins_as_a_sentence(text: str, expected: str) -> None:
    assert fold(text, NANO.spellings, sentence=True) == expected


def _training_texts(split: str, scenes: int):
    generator, rng = SceneGenerator(split), np.random.default_rng(3)
    for _ in range(scenes):
        spec = generator.sample(rng)
        yield from ((text, False) for text in all_captions(spec))
        for lang in ("en", "zh"):
            yield from ((qa.question, True) for qa in questions(spec, lang, rng, describing=True))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_training_texts_stay_as_they_are(split: str) -> None:
    for text, sentence in _training_texts(split, 120):
        assert fold(text, NANO.spellings, sentence=sentence) == text


def test_the_fixed_sets_stay_as_they_are() -> None:
    for prompt in geneval_prompts():
        assert fold(prompt.prompt, NANO.spellings, sentence=False) == prompt.prompt
    for lang in ("en", "zh"):
        for asked in pope_questions("adversarial", 400, lang):
            assert fold(asked.text, NANO.spellings, sentence=True) == asked.text


def test_what_is_folded_is_what_is_encoded(builder: PromptBuilder) -> None:
    folding = PromptBuilder(builder.tokenizer, builder.vocab, NANO, builder.limit)
    scale, codes = builder.vocab.scale(2), [1, 2, 3, 4]
    odd, plain = "THREE\u00a0Red\u2011Apples", "three red apples"
    assert folding.heard(odd, "prompt") == plain
    assert (
        sequences.draw(folding, odd, scale)
        == sequences.draw(builder, plain, scale)
        != sequences.draw(builder, odd, scale)
    )
    assert sequences.train_draw(folding, odd, codes) == sequences.train_draw(builder, plain, codes)
    assert sequences.edit(folding, [codes], odd, scale) == sequences.edit(builder, [codes], plain, scale)
    assert sequences.read(folding, [codes], "IS THERE A CAT?") == sequences.read(builder, [codes], "Is there a cat?")
    # Texts that are neither prompt nor question of a picture have any form.
    assert sequences.text(folding, odd) == sequences.text(builder, odd)
    assert folding.answer(odd) == builder.answer(odd)


@pytest.mark.parametrize("published", [PUBLISHED_TEMPLATE, ChatTemplate()])
def test_published_models_hear_every_letter(builder: PromptBuilder, published: ChatTemplate) -> None:
    odd = "A\u00a0Red\u2011Apple\u2019s \uff13 " + unicodedata.normalize("NFD", "é")
    assert not published.fold
    own = PromptBuilder(builder.tokenizer, builder.vocab, published, builder.limit)
    assert own.heard(odd, "prompt") == odd
    assert builder.tokenizer.decode(sequences.draw(own, odd, builder.vocab.scale(2))[:-2]).count(odd) == 1


def test_nothing_is_left_of_marks_without_width(builder: PromptBuilder) -> None:
    from opentar.core.errors import PromptError

    folding = PromptBuilder(builder.tokenizer, builder.vocab, dataclasses.replace(NANO, spellings={}), builder.limit)
    with pytest.raises(PromptError, match="empty"):
        sequences.draw(folding, "\u200b\u200b", builder.vocab.scale(2))
