"""The only builder of sequences: training, reading, drawing, editing and evaluation all come through here.

Form (Qwen2.5's chat form; `{}` marks where text goes, everything else is ids)::

    [<|im_start|>system\\n{system}<|im_end|>\\n]                       only if the template has a system text
    <|im_start|>user\\n{text}<|im_end|>\\n<|im_start|>assistant\\n       then the answer, then <|im_end|>

    draw    user: text                                  assistant: <im_start><S_k> codes <im_end>
    read    user: codes \\n [codes \\n ...] question      assistant: text      (bare codes: no boundary, no scale)
    edit    user: codes \\n text                         assistant: <im_start><S_k> codes <im_end>
    text    user: text                                  assistant: text

A part between two control ids is encoded as one string ("user\\n" with the text that follows), as the published
tokenizer does, so ids agree with published models. Labels are -100 on everything the model is given and the ids
themselves on everything it must say: words, scale token, codes, <im_end>, <|im_end|>.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from opentar.core.errors import ConfigError, PromptError, shown
from opentar.language.spelling import fold
from opentar.language.tokenizer import END_OF_TEXT, TURN_END, TURN_START, TextTokenizer
from opentar.vocab import Scale, Vocab

IGNORED = -100
"""Label of a position that is not learned (PyTorch's own convention)."""
CHARACTERS_PER_TOKEN = 64
"""A text longer than the limit times this is refused unencoded: encoding 50 MB only to refuse it would cost seconds."""

Role = Literal["system", "user", "assistant"]
Codes = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """What stands before the user's turn, and how the user's text is written there."""

    system: str | None = None
    """System text; None (nano) leaves the system turn out."""
    fold: bool = False
    """Bring prompts and questions into the letters of the training texts (see spelling.py); False changes nothing."""
    spellings: dict[str, str] = field(default_factory=dict)
    """With `fold`: words in small letters -> as the training texts write them, such as t-shirt -> T-shirt."""


PUBLISHED_TEMPLATE = ChatTemplate(system="You are a helpful assistant.")
"""What the published models were trained with."""


@dataclass(frozen=True)
class Shown:
    """A picture given to be read: its codes stand bare."""

    codes: Codes


@dataclass(frozen=True)
class Drawn:
    """A picture drawn as an answer: <im_start><S_k> codes <im_end>."""

    codes: Codes


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation: who speaks, and texts and pictures in order."""

    role: Role
    parts: tuple[str | Shown | Drawn, ...]


class PromptBuilder:
    """Builds ids, and labels beside them, from texts and codes. Holds no state but its three parts and the limit."""

    def __init__(
        self, tokenizer: TextTokenizer, vocab: Vocab, template: ChatTemplate | None = None, limit: int = 2048
    ) -> None:
        """`limit`: most ids of a whole sequence, the answer included (the model's positions)."""
        if tokenizer.size != vocab.text_size:
            raise ConfigError(f"the tokenizer has {tokenizer.size} ids and the vocab expects {vocab.text_size}")
        self.tokenizer = tokenizer
        self.vocab = vocab
        self.template = template or ChatTemplate()
        self.limit = limit
        self.padding = tokenizer.special(END_OF_TEXT)
        self._open = tokenizer.special(TURN_START)
        self._close = tokenizer.special(TURN_END)

    def heard(self, text: str, what: Literal["prompt", "question"]) -> str:
        """The text of a picture's prompt or question as it is encoded: folded where the template says so.

        Raises PromptError for an empty or much too long text, or what is no text.
        """
        text = self._text(text, what)
        if not self.template.fold:
            return text
        return self._text(fold(text, self.template.spellings, sentence=what == "question"), what)

    # Turns: what is asked for.

    def drawing(self, text: str) -> list[Turn]:
        """A conversation whose answer is a picture. Raises PromptError for an empty text."""
        return [Turn("user", (self.heard(text, "prompt"),))]

    def editing(self, pictures: Sequence[Codes], text: str) -> list[Turn]:
        """A conversation about pictures whose answer is a picture. Raises PromptError as `reading`."""
        return [Turn("user", self._given(pictures, self.heard(text, "prompt")))]

    def reading(self, pictures: Sequence[Codes], question: str) -> list[Turn]:
        """A conversation about pictures. Raises PromptError for no picture or an empty question."""
        return [Turn("user", self._given(pictures, self.heard(question, "question")))]

    def saying(self, text: str) -> list[Turn]:
        """A conversation of words alone, encoded as they are. Raises PromptError for an empty text."""
        return [Turn("user", (self._text(text, "prompt"),))]

    # Ids: what the model is given, and what it learns.

    def prefix(self, turns: Sequence[Turn], scale: Scale | None = None) -> list[int]:
        """Ids of a conversation, the assistant's turn opened; with a scale they end in <im_start><S_k>.

        A leading system turn replaces the template's. Raises PromptError where it does not fit the model, the codes
        of the scale included.
        """
        ids = self._build(turns, opened=True)[0]
        if scale is not None:
            ids += [self.vocab.image_start, self.vocab.scale_token(scale.index)]
            # Codes, <im_end> and <|im_end|> are still to come and need their positions.
            self._check_length(len(ids) + scale.length + 2)
        return ids

    def labelled(self, turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
        """Ids and labels of a whole conversation, equally long, not shifted; every assistant turn is learned."""
        return self._build(turns, opened=False)

    def answer(self, text: str) -> list[int]:
        """Ids of a possible answer without its end. Raises PromptError for an empty one."""
        return self.tokenizer.encode(self._text(text, "answer"))

    def _build(self, turns: Sequence[Turn], opened: bool) -> tuple[list[int], list[int]]:
        writer = _Writer(self)
        turns = list(turns)
        if self.template.system is not None and not (turns and turns[0].role == "system"):
            turns.insert(0, Turn("system", (self.template.system,)))
        for place, turn in enumerate(turns):
            # The line end after the last answer would never be read by anything: generation stops at <|im_end|>.
            writer.turn(turn, last=not opened and place == len(turns) - 1)
        if opened:
            writer.control(self._open, said=False)
            writer.words("assistant\n")
            writer.flush(said=False)
        self._check_length(len(writer.ids))
        return writer.ids, writer.labels

    def _given(self, pictures: Sequence[Codes], text: str) -> tuple[str | Shown, ...]:
        """Pictures, each followed by a line end, then the text. Raises PromptError for no picture."""
        if not pictures:
            raise PromptError("no picture was given to read; give at least one")
        parts: list[str | Shown] = []
        for codes in pictures:
            parts += [Shown(codes), "\n"]
        return (*parts, text)

    def _text(self, text: object, what: str) -> str:
        if not isinstance(text, str):
            raise PromptError(f"the {what} is {type(text).__name__}, not text; give a string")
        if not text.strip():
            raise PromptError(f"the {what} is empty; write at least one word")
        return self._checked(text, what)

    def _checked(self, text: str, what: str) -> str:
        if "\0" in text:
            raise PromptError(f"the {what} holds a NUL character at position {text.index(chr(0))}; remove it")
        most = self.limit * CHARACTERS_PER_TOKEN
        if len(text) > most:
            raise PromptError(f"the {what} is {len(text)} characters long; at most {most} are read, shorten it")
        return text

    def _check_length(self, length: int) -> None:
        if length > self.limit:
            raise PromptError(
                f"prompt and answer need {length} tokens; this model has {self.limit}, shorten the prompt"
            )


class _Writer:
    """Grows ids and labels together. Words wait until a control id or a code comes, so that they are encoded as one."""

    def __init__(self, builder: PromptBuilder) -> None:
        self.builder = builder
        self.ids: list[int] = []
        self.labels: list[int] = []
        self._waiting = ""

    def words(self, text: str) -> None:
        self._waiting += text

    def flush(self, said: bool) -> None:
        if self._waiting:
            self._put(self.builder.tokenizer.encode(self._waiting), said)
        self._waiting = ""

    def control(self, number: int, said: bool) -> None:
        self.flush(said)
        self._put([number], said)

    def turn(self, turn: Turn, last: bool) -> None:
        """One whole turn. Raises PromptError for an unknown role."""
        if turn.role not in ("system", "user", "assistant"):
            raise PromptError(f"role {shown(turn.role)} does not exist; allowed are system, user and assistant")
        said = turn.role == "assistant"
        self.control(self.builder._open, said=False)
        self.words(f"{turn.role}\n")
        if said:
            # The head is given, the answer is learned: encoding them apart keeps training and generation alike.
            self.flush(said=False)
        for part in turn.parts:
            self._part(part, said)
        self.control(self.builder._close, said)
        if not last:
            self.words("\n")
            self.flush(said=False)

    def _part(self, part: str | Shown | Drawn, said: bool) -> None:
        if isinstance(part, str):
            self.words(self.builder._checked(part, "text"))
            return
        vocab = self.builder.vocab
        codes = [int(code) for code in part.codes]
        scale = vocab.scale_of_length(len(codes))
        tokens = [vocab.code_token(code) for code in codes]
        if isinstance(part, Drawn):
            tokens = [vocab.image_start, vocab.scale_token(scale.index), *tokens, vocab.image_end]
        self.flush(said)
        self._put(tokens, said)

    def _put(self, ids: list[int], said: bool) -> None:
        self.ids += ids
        self.labels += ids if said else [IGNORED] * len(ids)
