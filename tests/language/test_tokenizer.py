"""Any text goes in and comes out; no text becomes a control token; published files load without their added tokens."""

import json

import pytest

from opentar.core.errors import PromptError, WeightsError
from opentar.language.tokenizer import IMAGE_START, SPECIALS, TextTokenizer, added_token, train_bpe

TEXTS = [
    "three red apples",
    "浅蓝色背景",
    "naïve cafe\u0301",
    "🍎🍏 \u200d",
    "tab\tnew\r\n\n  spaces  ",
    "١٢٣ Ω ﬁ",
    "x" * 500,
]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_round_trips(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_control_tokens_in_a_text_are_ordinary_pieces(tokenizer: TextTokenizer, injection: str) -> None:
    text = injection
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert max(ids) < tokenizer.pieces


def test_special_ids_follow_the_pieces(tokenizer: TextTokenizer) -> None:
    assert [tokenizer.special(name) for name in SPECIALS] == [tokenizer.pieces + place for place in range(3)]
    assert tokenizer.size == tokenizer.pieces + 3
    with pytest.raises(KeyError):
        tokenizer.special("<I0>")


def test_digits_stand_alone(tokenizer: TextTokenizer) -> None:
    many = train_bpe(["2024 2024 2024 2024 1234 1234"] * 50, size=300)
    assert len(many.encode("2024")) == 4


def test_role_words_are_single_pieces(tokenizer: TextTokenizer) -> None:
    for role in ("system", "user", "assistant"):
        assert len(tokenizer.encode(f"{role}\n")) == 2


def test_training_repeats_itself() -> None:
    texts = ["a red car", "a red cat", "two cats"] * 3
    assert train_bpe(texts, size=280).to_json() == train_bpe(iter(texts), size=280).to_json()


def test_size_is_kept_and_a_size_below_the_bytes_is_refused() -> None:
    assert train_bpe(["ab ab ab abc abc"] * 9, size=262).size == 262
    with pytest.raises(PromptError, match="need 259"):
        train_bpe(["a"], size=258)


def test_save_and_load(tokenizer: TextTokenizer, tmp_path) -> None:
    tokenizer.save(tmp_path / "new")
    loaded = TextTokenizer.load(tmp_path / "new")
    text = "three red apples <|im_end|> 苹果"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert (loaded.size, loaded.pieces) == (tokenizer.size, tokenizer.pieces)
    assert [loaded.special(name) for name in SPECIALS] == [tokenizer.special(name) for name in SPECIALS]


def test_stream_gives_whole_characters(tokenizer: TextTokenizer) -> None:
    text = "a 🍎 and 鱼"
    chunks = list(tokenizer.stream(tokenizer.encode(text)))
    assert "".join(chunks) == text
    assert not any("\ufffd" in chunk for chunk in chunks)


def test_stream_gives_out_a_character_that_is_never_completed(tokenizer: TextTokenizer) -> None:
    assert "".join(tokenizer.stream(tokenizer.encode("🍎")[:1])) == "\ufffd"


def test_decode_skips_specials_and_refuses_codes(tokenizer: TextTokenizer) -> None:
    assert tokenizer.decode([*tokenizer.encode("yes"), tokenizer.special("<|im_end|>")]) == "yes"
    with pytest.raises(PromptError, match="is no text"):
        tokenizer.decode([tokenizer.size])


def test_half_a_character_is_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(PromptError, match="half of a character at position 2"):
        tokenizer.encode("ab\ud83d")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": {"type": "Unigram"}}', "\x00\xff"])
def test_damaged_files_are_refused(content: str, tmp_path) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(WeightsError, match=r"tokenizer\.json"):
        TextTokenizer.load(tmp_path)


def test_missing_file_and_missing_specials_are_refused(tokenizer: TextTokenizer, tmp_path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        TextTokenizer.load(tmp_path)
    bare = {**json.loads(tokenizer.to_json()), "added_tokens": []}
    with pytest.raises(WeightsError, match="no id for"):
        TextTokenizer.from_json(json.dumps(bare))


def test_added_tokens_of_the_text_outlive_saving_and_new_ones_follow(tokenizer: TextTokenizer) -> None:
    plain = added_token(tokenizer.size, "<tool_call>", special=False)
    grown = TextTokenizer.from_json(tokenizer.to_json([plain]))
    assert (grown.size, grown.pieces) == (tokenizer.size + 1, tokenizer.pieces)
    assert json.loads(grown.to_json())["added_tokens"][-1] == plain
    assert max(grown.encode("<tool_call>")) < grown.pieces
    image = added_token(grown.size, IMAGE_START, special=True)
    extended = TextTokenizer.from_json(grown.to_json([image]))
    assert extended.size == grown.size
    assert extended.to_json() == grown.to_json()


def test_merges_are_read_in_both_forms(tokenizer: TextTokenizer) -> None:
    data = json.loads(tokenizer.to_json())
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    older = TextTokenizer.from_data(data)
    assert data["added_tokens"]
    assert older.to_json() == tokenizer.to_json()
    for text in TEXTS:
        assert older.encode(text) == tokenizer.encode(text)
