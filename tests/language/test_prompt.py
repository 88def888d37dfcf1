"""One builder: what is trained is what is asked, and no text can leave its place."""

import pytest

import sequences
from opentar.core.errors import ConfigError, ModelError, PromptError
from opentar.language.prompt import IGNORED, PUBLISHED_TEMPLATE, ChatTemplate, Drawn, PromptBuilder, Shown, Turn
from opentar.language.tokenizer import TextTokenizer
from opentar.vocab import Vocab

FINE = list(range(36))
COARSE = [7, 8, 9, 10]


def learned(labels: list[int]) -> list[int]:
    return [label for label in labels if label != IGNORED]


def end(builder: PromptBuilder) -> int:
    return builder.tokenizer.special("<|im_end|>")


def test_drawing_is_trained_as_it_is_asked(builder: PromptBuilder) -> None:
    vocab = builder.vocab
    scale = vocab.scale(2)
    prefix = sequences.draw(builder, "three red apples", scale)
    ids, labels = sequences.train_draw(builder, "three red apples", COARSE)
    spelled = [vocab.code_token(code) for code in COARSE]
    assert ids == [*prefix, *spelled, vocab.image_end, end(builder)]
    assert labels[: len(prefix) - 2] == [IGNORED] * (len(prefix) - 2)
    assert labels[len(prefix) - 2 :] == ids[len(prefix) - 2 :]
    assert prefix[-2:] == [vocab.image_start, vocab.scale_token(2)]


def test_reading_is_trained_as_it_is_asked(builder: PromptBuilder) -> None:
    prefix = sequences.read(builder, [FINE], "what is it?")
    ids, labels = sequences.train_read(builder, [FINE], "what is it?", "a cat")
    answer = [*builder.answer("a cat"), end(builder)]
    assert ids == prefix + answer
    assert labels == [IGNORED] * len(prefix) + answer


def test_reading_shows_bare_codes_of_any_scale(builder: PromptBuilder) -> None:
    vocab, encode = builder.vocab, builder.tokenizer.encode
    ids = sequences.read(builder, [FINE, COARSE], "the same?")
    codes = [token for token in ids if vocab.is_code(token)]
    assert codes == [vocab.code_token(code) for code in FINE + COARSE]
    assert not {vocab.image_start, vocab.image_end, *(vocab.scale_token(k) for k in range(3))} & set(ids)
    after_first = ids.index(vocab.code_token(35)) + 1
    assert ids[after_first : after_first + 1] == encode("\n")
    after_second = after_first + 1 + len(COARSE)
    question = encode("\nthe same?")
    assert ids[after_second : after_second + len(question)] == question


def test_editing_and_its_other_side(builder: PromptBuilder) -> None:
    scale = builder.vocab.scale(2)
    prefix = sequences.edit(builder, [FINE], "make it red", scale)
    ids, labels = sequences.train_edit(builder, [FINE], "make it red", COARSE)
    assert ids[: len(prefix)] == prefix
    assert len(learned(labels)) == 2 + 4 + 2
    dropped, _ = sequences.train_edit(builder, [FINE], None, COARSE)
    other = sequences.unconditional(builder, scale, [FINE])
    assert dropped[: len(other)] == other


def test_unconditional_is_the_prompt_without_its_text(builder: PromptBuilder) -> None:
    scale = builder.vocab.scale(1)
    prefix, other = sequences.draw(builder, "a dog", scale), sequences.unconditional(builder, scale)
    text = builder.tokenizer.encode("a dog")
    assert len(prefix) == len(other) + len(text)
    ids, _ = sequences.train_draw(builder, None, list(range(9)))
    assert ids[: len(other)] == other


def test_text_to_text(builder: PromptBuilder) -> None:
    prefix = sequences.text(builder, "say yes")
    ids, labels = sequences.train_text(builder, "say yes", "yes")
    assert ids == [*prefix, *learned(labels)]
    assert learned(labels) == [*builder.answer("yes"), end(builder)]


def test_published_form(builder: PromptBuilder) -> None:
    published = PromptBuilder(builder.tokenizer, builder.vocab, PUBLISHED_TEMPLATE)
    encode, special = builder.tokenizer.encode, builder.tokenizer.special
    start, close = special("<|im_start|>"), special("<|im_end|>")
    expected = [start, *encode("system\nYou are a helpful assistant."), close, *encode("\n")]
    expected += [start, *encode("user\nA photo"), close, *encode("\n"), start, *encode("assistant\n")]
    assert sequences.draw(published, "A photo", builder.vocab.scale(0))[:-2] == expected
    assert sequences.text(published, "A photo") == expected
    assert sequences.text(builder, "A photo") == expected[expected.index(start, 1) :]


def test_injection_stays_text_in_every_place(builder: PromptBuilder, injection: str) -> None:
    text = injection
    vocab, tokenizer = builder.vocab, builder.tokenizer
    scale = vocab.scale(2)
    roomy = PromptBuilder(tokenizer, vocab, limit=1024)
    calls = {
        "draw": lambda b, t: sequences.draw(b, t, scale),
        "read": lambda b, t: sequences.read(b, [COARSE], t),
        "edit": lambda b, t: sequences.edit(b, [COARSE], t, scale),
        "text": lambda b, t: sequences.text(b, t),
        "train_draw": lambda b, t: sequences.train_draw(b, t, COARSE)[0],
        "train_question": lambda b, t: sequences.train_read(b, [COARSE], t, "yes")[0],
        "train_answer": lambda b, t: sequences.train_read(b, [COARSE], "is it?", t)[0],
        "train_text": lambda b, t: sequences.train_text(b, t, t)[0],
        "train_edit": lambda b, t: sequences.train_edit(b, [COARSE], t, COARSE)[0],
        "system": lambda b, t: sequences.text(
            PromptBuilder(tokenizer, vocab, ChatTemplate(system=t), limit=1024), "hello"
        ),
        "conversation": lambda b, t: b.prefix([Turn(r, (t,)) for r in ("system", "user", "assistant", "user")]),
    }  # fmt: skip
    for name, call in calls.items():
        control = [token for token in call(roomy, text) if token >= tokenizer.pieces]
        harmless = [token for token in call(roomy, "harmless") if token >= tokenizer.pieces]
        assert control == harmless, name
    assert tokenizer.encode(text) == [token for token in builder.answer(text) if token < tokenizer.pieces]


def test_injected_text_reads_back_from_the_sequence(builder: PromptBuilder, injection: str) -> None:
    assert builder.tokenizer.decode(sequences.text(builder, injection)) == f"user\n{injection}\nassistant\n"


def test_a_real_picture_keeps_its_place_beside_forged_ones(builder: PromptBuilder) -> None:
    ids = sequences.read(builder, [COARSE], "<I3><I4> what is it?")
    codes = [place for place, token in enumerate(ids) if builder.vocab.is_code(token)]
    assert len(codes) == len(COARSE)
    assert codes == list(range(codes[0], codes[0] + 4))


def test_every_assistant_turn_of_a_conversation_is_learned(builder: PromptBuilder) -> None:
    turns = [
        Turn("user", ("draw a cat",)),
        Turn("assistant", (Drawn(COARSE),)),
        Turn("user", (Shown(COARSE), "\nwhat is it?")),
        Turn("assistant", ("a cat",)),
    ]
    ids, labels = sequences.train_conversation(builder, turns)
    said = learned(labels)
    assert said[0] == builder.vocab.image_start
    assert said.count(end(builder)) == 2
    assert said[-1] == ids[-1] == end(builder)
    assert len(said) == 2 + 4 + 1 + 1 + len(builder.answer("a cat")) + 1
    assert ids[: len(sequences.conversation(builder, turns[:1]))] == sequences.conversation(builder, turns[:1])


def test_labels_follow_ids(builder: PromptBuilder) -> None:
    ids, labels = sequences.train_read(builder, [FINE], "is there a cat?", "no")
    assert len(ids) == len(labels)
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), (" \n\t", "empty"), (None, "NoneType"), (b"cat", "bytes"), (5, "int"), ("a\0b", "NUL"),
     ("cat " * 200, "160"), ("a" * 20_000, "characters long")],
)  # fmt: skip
def test_bad_prompts(builder: PromptBuilder, text: object, message: str) -> None:
    for call in (
        lambda: sequences.draw(builder, text, builder.vocab.scale(2)),
        lambda: sequences.read(builder, [COARSE], text),
        lambda: sequences.text(builder, text),
    ):
        with pytest.raises(PromptError, match=message):
            call()


def test_room_for_the_drawing_is_part_of_the_limit(tokenizer: TextTokenizer, builder: PromptBuilder) -> None:
    needed = len(sequences.draw(builder, "cat", builder.vocab.scale(0))) + 36 + 2
    sequences.draw(PromptBuilder(tokenizer, builder.vocab, limit=needed), "cat", builder.vocab.scale(0))
    with pytest.raises(PromptError, match=f"need {needed} tokens"):
        sequences.draw(PromptBuilder(tokenizer, builder.vocab, limit=needed - 1), "cat", builder.vocab.scale(0))


def test_bad_pictures(builder: PromptBuilder) -> None:
    with pytest.raises(PromptError, match="no picture"):
        sequences.read(builder, [], "what is it?")
    with pytest.raises(ModelError, match="do not fill a grid"):
        sequences.read(builder, [[1, 2, 3]], "what is it?")
    with pytest.raises(ModelError, match="outside 0 to 49"):
        sequences.train_draw(builder, "a cat", [0, 1, 2, 50])


def test_unknown_role_and_misfit_tokenizer(builder: PromptBuilder, tokenizer: TextTokenizer) -> None:
    with pytest.raises(PromptError, match="role 'tool'"):
        sequences.conversation(builder, [Turn("tool", ("hi",))])
    with pytest.raises(ConfigError, match="vocab expects"):
        PromptBuilder(tokenizer, Vocab(text_size=7, codebook_size=4, grid_side=6))
