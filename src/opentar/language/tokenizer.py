"""Words <-> ids: byte-level BPE in Qwen2's form, for user text that can never become a control token.

The tokenizer inside holds no added token at all. `<|im_end|>`, `<im_start>` or `<I12>` in a text are therefore plain
characters, always; control ids are only ever written by `prompt.py`. (Turning special tokens off by an option is not
enough: tokens that a checkpoint added as "not special" survive such options.) The same trick makes a published folder
with 65,541 added tokens load in a fraction of a second instead of 9 to 16.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from opentar.core.errors import PromptError, WeightsError

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
SPECIALS = (END_OF_TEXT, TURN_START, TURN_END)
FILE = "tokenizer.json"

# Qwen2's splitting rule to the letter, because llama.cpp and vLLM know it by name: digits stand alone, a word keeps
# one leading space, punctuation clings to line ends.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Words of the chat form: every sequence carries them, so they are counted with every text.
_ROLE_WORDS = "system\nuser\nassistant\n"


class TextTokenizer:
    """Byte-level BPE. Ids 0 .. pieces-1 are text, `specials` lie above them, `size` counts both."""

    def __init__(self, bpe: Tokenizer, specials: dict[str, int], size: int) -> None:
        """`bpe` without added tokens; `specials` maps the three names to ids; `size` ids in all."""
        missing = [name for name in SPECIALS if name not in specials]
        if missing:
            raise WeightsError(f"{FILE} names no id for {', '.join(missing)}; a Qwen2 tokenizer has all three")
        self._bpe = bpe
        self._specials = {name: specials[name] for name in SPECIALS}
        self.size = size
        self.pieces = bpe.get_vocab_size(with_added_tokens=False)

    @classmethod
    def from_json(cls, text: str) -> TextTokenizer:
        """Read a tokenizer.json (ours or a published one). Raises WeightsError if it is not a byte-level BPE.

        Added tokens are looked at for their ids only. The text ends where `<im_start>` stands; without that token
        (a folder before extension, or ours) it ends after the last added token.
        """
        try:
            data = json.loads(text)
            added = {entry["content"]: int(entry["id"]) for entry in data.pop("added_tokens", [])}
            if data["model"]["type"] != "BPE":
                raise ValueError(f"model type {data['model']['type']!r}")
            bpe = Tokenizer.from_str(json.dumps({**data, "added_tokens": []}))
        except Exception as error:
            # tokenizers raises bare Exception for a file it cannot read, so nothing narrower can be caught here.
            raise WeightsError(f"{FILE} cannot be read as a byte-level BPE tokenizer: {error}") from error
        last = max([*added.values(), bpe.get_vocab_size(with_added_tokens=False) - 1])
        return cls(bpe, {name: added[name] for name in SPECIALS if name in added}, added.get("<im_start>", last + 1))

    @classmethod
    def load(cls, folder: str | Path) -> TextTokenizer:
        """Read `folder`/tokenizer.json. Raises WeightsError if it is missing or damaged."""
        path = Path(folder) / FILE
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise WeightsError(f"{path} cannot be read: {error}") from error

    def to_json(self) -> str:
        """A tokenizer.json that `from_json` and other libraries read; the three specials are listed in it."""
        data = json.loads(self._bpe.to_str())
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        data["added_tokens"] = [
            {"id": number, "content": name, **flags}
            for name, number in sorted(self._specials.items(), key=lambda item: item[1])
        ]
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
    return TextTokenizer(bpe, {name: pieces + place for place, name in enumerate(SPECIALS)}, pieces + len(SPECIALS))


def _with_roles(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield _ROLE_WORDS
        yield text
