"""What a service tells of a request; `index` counts the answers of a request from 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Code:
    """One more code of a drawing."""

    index: int
    code: int
    step: int
    """Codes drawn so far, this one included."""
    total: int
    """Codes of the whole grid."""
    place: int
    """Where the code stands, row by row from 0; several codes a pass do not come in that order."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """One more id of a text, and the text that is certain with it."""

    index: int
    text: str
    """May be empty: half a character, white space, or what may become a stop text waits for what follows."""
    token: int | None = None
    """The id; None for the rest of the text, when it has ended."""
    log: float | None = None
    """Natural logarithm of its probability, where the request asked."""
    likeliest: tuple[tuple[int, float], ...] = ()
    """The likeliest ids and theirs, where the request asked."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A picture as it stands while its codes are drawn or it is painted."""

    index: int
    picture: Image.Image
    number: int
    """Counts the previews of this picture from 0."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A finished picture; its `info` says how to draw it again."""

    index: int
    picture: Image.Image
    codes: tuple[int, ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """How likely each choice is; the numbers sum to 1."""

    index: int
    probabilities: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """An answer has ended well; the last event of its index."""

    index: int
    reason: Literal["stop", "length"]
    """`length`: a text was cut at its limit."""
    prompt_tokens: int
    answer_tokens: int
    """Ids of a text, codes of a drawing."""
    prompt_codes: int = 0
    """Those of the prompt's tokens that are codes of pictures."""


Event = Code | Token | Preview | Picture | Chosen | Ended
"""Anything that a service tells; what fails is raised."""
