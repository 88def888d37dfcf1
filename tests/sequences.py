"""Ids of the conversations that tests need again and again, by way of the one builder."""

from __future__ import annotations

from collections.abc import Sequence

from opentar.engine.request import unprompted
from opentar.language.prompt import Drawn, PromptBuilder, Turn
from opentar.vocab import Scale

Codes = Sequence[int]
Labelled = tuple[list[int], list[int]]


def draw(builder: PromptBuilder, text: str, scale: Scale) -> list[int]:
    """text -> picture."""
    return builder.prefix(builder.drawing(text), scale)


def unconditional(builder: PromptBuilder, scale: Scale, pictures: Sequence[Codes] = ()) -> list[int]:
    """The other side of guidance, of a drawing or (with pictures) of an edit."""
    turns = builder.editing(pictures, "anything") if pictures else builder.drawing("anything")
    return builder.prefix(unprompted(turns), scale)


def edit(builder: PromptBuilder, pictures: Sequence[Codes], text: str, scale: Scale) -> list[int]:
    """picture(s) and text -> picture."""
    return builder.prefix(builder.editing(pictures, text), scale)


def read(builder: PromptBuilder, pictures: Sequence[Codes], question: str) -> list[int]:
    """picture(s) and question -> text."""
    return builder.prefix(builder.reading(pictures, question))


def text(builder: PromptBuilder, given: str) -> list[int]:
    """text -> text."""
    return builder.prefix(builder.saying(given))


def conversation(builder: PromptBuilder, turns: Sequence[Turn]) -> list[int]:
    """Any conversation."""
    return builder.prefix(turns)


def train_draw(builder: PromptBuilder, given: str | None, codes: Codes) -> Labelled:
    """A labelled drawing; None leaves its text out."""
    turns = [Turn("user", ("",))] if given is None else builder.drawing(given)
    return builder.labelled([*turns, Turn("assistant", (Drawn(codes),))])


def train_edit(builder: PromptBuilder, pictures: Sequence[Codes], given: str | None, codes: Codes) -> Labelled:
    """A labelled edit; None leaves its text out."""
    turns = builder.editing(pictures, "anything" if given is None else given)
    turns = unprompted(turns) if given is None else turns
    return builder.labelled([*turns, Turn("assistant", (Drawn(codes),))])


def train_read(builder: PromptBuilder, pictures: Sequence[Codes], question: str, answer: str) -> Labelled:
    """A labelled answer about pictures."""
    return builder.labelled([*builder.reading(pictures, question), Turn("assistant", (answer,))])


def train_text(builder: PromptBuilder, given: str, answer: str) -> Labelled:
    """A labelled answer to a text."""
    return builder.labelled([*builder.saying(given), Turn("assistant", (answer,))])


def train_conversation(builder: PromptBuilder, turns: Sequence[Turn]) -> Labelled:
    """Any labelled conversation."""
    return builder.labelled(turns)
