"""Many questions to one model: `Tar.ask` in blocks, so that somebody who waits is told how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from opentar.core.errors import DataError
from opentar.core.progress import Count

if TYPE_CHECKING:
    from opentar.pipeline import Tar

_BLOCK = 64


def ask_all(
    tar: Tar,
    pictures: Sequence[Image.Image],
    questions: Sequence[tuple[int, str]],
    *,
    max_new_tokens: int | None = None,
    progress: Count | None = None,
) -> list[str]:
    """Answer (picture number, question) pairs; each answer is the one `Tar.ask` gives.

    Raises DataError for a picture number that is not there, PromptError for a question that cannot be asked.
    """
    for number, question in questions:
        if not 0 <= number < len(pictures):
            raise DataError(f"question {question!r} asks about picture {number}; there are {len(pictures)}, from 0")
    answers: list[str] = []
    for start in range(0, len(questions), _BLOCK):
        block = questions[start : start + _BLOCK]
        shown = [pictures[number] for number, _ in block]
        answers += tar.ask(shown, [question for _, question in block], max_new_tokens=max_new_tokens)
        if progress is not None:
            progress(len(answers), len(questions))
    return answers
