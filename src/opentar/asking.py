"""What callers give, brought into one form and checked before a model is loaded: prompts, questions on pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentar.core.errors import ConfigError, PromptError
from opentar.language.known_words import has_words
from opentar.vocab import Scale, Vocab

if TYPE_CHECKING:
    from typing import IO

    from numpy.typing import NDArray
    from PIL import Image

    Picture = str | Path | bytes | IO[bytes] | Image.Image | NDArray[Any]
    Pictures = Picture | Sequence[Picture]
    """One picture, or several that are shown together in one prompt."""
    Questions = list[str] | tuple[str, ...]
    """A batch of questions."""
    Scales = int | Sequence[int | None] | None
    """A scale for every picture, or one for each; None is the default."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about pictures."""

    pictures: tuple[tuple[Picture, Scale], ...]
    """The pictures that are shown, each with the grid it is encoded on."""
    text: str
    """What is asked."""


def questions(
    image: Picture | Sequence[Pictures],
    question: str | Questions,
    scale: int | Sequence[Scales] | None,
    vocab: Vocab,
    default: int,
) -> list[Question]:
    """The questions of a call of `Tar.ask`; its docstring says what may be given.

    Raises:
        PromptError: a question is no text or wordless, or there are not as many pictures as questions.
        ConfigError: an unknown scale, or not as many scales as pictures.
    """
    if not isinstance(question, (list, tuple)):
        return [_question(image, question, scale, vocab, default)]
    count = len(question)
    if not count:
        raise PromptError("the list of questions is empty; give at least one")
    images = _listed(image, count)
    scales = list(scale) if isinstance(scale, (list, tuple)) else [scale] * count
    if len(images) != count:
        raise PromptError(
            f"{len(images)} pictures were given for {count} questions; give one picture for all, or one entry each"
        )
    if len(scales) != count:
        raise ConfigError(f"{len(scales)} scales were given for {count} questions; give one for all, or one each")
    return [_question(*one, vocab, default) for one in zip(images, question, scales, strict=True)]


def prompts(prompt: str | Sequence[str]) -> list[str]:
    """One prompt or several as a list. Raises PromptError for an empty list, and for what is no text or wordless."""
    several = [prompt] if isinstance(prompt, (str, bytes)) or not isinstance(prompt, Sequence) else list(prompt)
    if not several:
        raise PromptError("the list of prompts is empty; give at least one")
    for text in several:
        _check_text(text, "prompt")
    return several


def _question(image: Any, question: str, scale: Any, vocab: Vocab, default: int) -> Question:
    _check_text(question, "question")
    pictures = _listed(image, 1)
    if not pictures:
        raise PromptError("no picture was given; give at least one")
    scales = list(scale) if isinstance(scale, (list, tuple)) else [scale] * len(pictures)
    if len(scales) != len(pictures):
        raise ConfigError(
            f"{len(scales)} scales were given for {len(pictures)} pictures; give one for all, or one for each"
        )
    grids = [vocab.scale(default if one is None else one) for one in scales]
    return Question(pictures=tuple(zip(pictures, grids, strict=True)), text=question)


def _listed(image: Any, count: int) -> list[Any]:
    """A list of pictures as a list, one picture `count` times; a name or the bytes of a file are one picture."""
    several = isinstance(image, Sequence) and not isinstance(image, (str, bytes))
    return list(image) if several else [image] * count


def _check_text(text: object, what: str) -> None:
    if not isinstance(text, str):
        raise PromptError(f"the {what} is {type(text).__name__}, not text; give a string")
    if not text.strip():
        raise PromptError(f"the {what} is empty; write at least one word")
    if not has_words(text):
        raise PromptError(f"the {what} holds no word, only punctuation; write at least one word")
