"""Words <-> ids: byte-level BPE in Qwen2's form, for user text that can never become a control token.

The tokenizer inside holds no added token at all. `<|im_end|>`, `<im_start>` or `<I12>` in a text are therefore plain
characters, always; control ids are only ever written by `prompt.py`. (Turning special tokens off by an option is not
enough: tokens that a checkpoint added as "not special" survive such options.) The same trick makes a published folder
with 65,541 added tokens load in a fraction of a second instead of 9 to 16.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from opentar.core.errors import PromptError, WeightsError

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
SPECIALS = (END_OF_TEXT, TURN_START, TURN_END)
FILE = "tokenizer.json"
IMAGE_START, IMAGE_END = "<im_start>", "<im_end>"

# Qwen2's splitting rule to the letter, because llama.cpp and vLLM know it by name: digits stand alone, a word keeps
# one leading space, punctuation clings to line ends.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Words of the chat form: every sequence carries them, so they are counted with every text.
_ROLE_WORDS = "system\nuser\nassistant\n"


class TextTokenizer:
    """Byte-level BPE. Ids 0 .. pieces-1 are text, added tokens lie above them, `size` counts both."""

    def __init__(self, bpe: Tokenizer, added: Sequence[Mapping[str, Any]], size: int) -> None:
        """`bpe` without added tokens; `added` as tokenizer.json lists them (see `added_token`); `size` ids in all."""
        self._bpe = bpe
        self._added = sorted((dict(entry) for entry in added), key=lambda entry: int(entry["id"]))
        ids = {entry["content"]: int(entry["id"]) for entry in self._added}
        missing = [name for name in SPECIALS if name not in ids]
        if missing:
            raise WeightsError(f"{FILE} names no id for {', '.join(missing)}; a Qwen2 tokenizer has all three")
        self._specials = {name: ids[name] for name in SPECIALS}
        self.size = size
        self.pieces = bpe.get_vocab_size(with_added_tokens=False)

    @classmethod
    def from_json(cls, text: str) -> TextTokenizer:
        """Read the text of a tokenizer.json; see `from_data`. Raises WeightsError also for what is no JSON."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise WeightsError(f"{FILE} cannot be read as a byte-level BPE tokenizer: {error}") from error
        return cls.from_data(data)

    @classmethod
    def from_data(cls, data: Any) -> TextTokenizer:
        """Read the content of a tokenizer.json (ours or a published one). Raises WeightsError if it is no such BPE.

        Added tokens are looked at for their ids only. The text ends where `<im_start>` stands; without that token
        (a folder before extension, or ours) it ends after the last added token.
        """
        try:
            added = {entry["content"]: entry for entry in data.get("added_tokens", [])}
            bpe = _bpe(data)
            numbers = [int(entry["id"]) for entry in added.values()]
        except Exception as error:
            # tokenizers raises bare Exception for a file it cannot read, so nothing narrower can be caught here.
            raise WeightsError(f"{FILE} cannot be read as a byte-level BPE tokenizer: {error}") from error
        end = max([*numbers, bpe.get_vocab_size(with_added_tokens=False) - 1]) + 1
        if IMAGE_START in added:
            end = int(added[IMAGE_START]["id"])
        return cls(bpe, [entry for entry in added.values() if int(entry["id"]) < end], end)

    @classmethod
    def load(cls, folder: str | Path) -> TextTokenizer:
        """Read `folder`/tokenizer.json. Raises WeightsError if it is missing or damaged."""
        path = Path(folder) / FILE
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise WeightsError(f"{path} cannot be read: {error}") from error

    def to_json(self, new_tokens: Sequence[Mapping[str, Any]] = ()) -> str:
        """A tokenizer.json that `from_json` and other libraries read.

        It lists the added tokens of the text, such as the three specials; `new_tokens` (see `added_token`) follow.
        """
        data = json.loads(self._bpe.to_str())
        data["added_tokens"] = [*self._added, *new_tokens]
        return json.dumps(data, ensure_ascii=False)

    def save(self, folder: str | Path) -> None:
        """Write `folder`/tokenizer.json."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        (path / FILE).write_text(self.to_json(), encoding="utf-8")

    def special(self, name: str) -> int:
        """Id of `<|endoftext|>`, `<|im_start|>` or `<|im_end|>`. Raises KeyError for any other name."""
        return self._specials[name]

    def encode(self, text: str) -> list[int]:
        """Text -> ids below `pieces`. Raises PromptError for a lone surrogate, the only text that is no UTF-8."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError(
                f"the text holds half of a character at position {error.start}; give valid text"
            ) from error
        return self._bpe.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Ids -> text; special ids leave nothing. Raises PromptError for an id that is no text, such as a code."""
        for number in ids:
            if not 0 <= number < self.size:
                raise PromptError(f"id {number} is no text; text ids are 0 to {self.size - 1}")
        return self._bpe.decode([number for number in ids if number < self.pieces], skip_special_tokens=False)

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Text as it grows: a chunk is given out once its last character is complete (a character may span ids)."""
        held: list[int] = []
        for number in ids:
            held.append(number)
            chunk = self.decode(held)
            if chunk and not chunk.endswith("\ufffd"):
                yield chunk
                held = []
        if held and (rest := self.decode(held)):
            yield rest


def _bpe(data: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a tokenizer.json without its added tokens. Raises ValueError or what tokenizers raises."""
    model = {name: value for name, value in data["model"].items() if value is not None}
    if model.pop("type") != "BPE":
        raise ValueError(f"model type {data['model']['type']!r}")
    vocab, merges = model.pop("vocab"), model.pop("merges")
    pairs = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError(f"the ids of its {len(vocab)} pieces are not 0 to {len(vocab) - 1}")
    # Cutting and padding to a length are options of other programs; here they could ask for any memory.
    shell = {
        **data,
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "model": {**data["model"], "vocab": {}, "merges": []},
    }
    tokenizer = Tokenizer.from_str(json.dumps(shell))
    # Handed over as Python objects: through JSON once more, Qwen's 151,643 pieces would take twice as long.
    tokenizer.model = models.BPE(vocab=vocab, merges=pairs, **model)
    return tokenizer


def train_bpe(texts: Iterable[str], size: int = 2048) -> TextTokenizer:
    """Learn a byte-level BPE of at most `size` ids, the three specials included, from `texts`.

    The 256 bytes are pieces from the start, so any text can be encoded, in any language. No normalization: what goes
    in comes out. Few texts give fewer pieces than asked. Raises PromptError if `size` cannot hold the bytes.
    """
    least = 256 + len(SPECIALS)
    if size < least:
        raise PromptError(f"a tokenizer of {size} ids was asked for; bytes and specials alone need {least}")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    bpe.train_from_iterator(_with_roles(texts), trainer)
    pieces = bpe.get_vocab_size(with_added_tokens=False)
    added = [added_token(pieces + place, name, special=True) for place, name in enumerate(SPECIALS)]
    return TextTokenizer(bpe, added, pieces + len(SPECIALS))


def added_token(number: int, name: str, *, special: bool) -> dict[str, Any]:
    """One entry of `added_tokens` in a tokenizer.json; libraries leave special ones out of decoded text on request."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special}
    return {"id": number, "content": name, **flags, "special": special}


def _with_roles(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield _ROLE_WORDS
        yield text
