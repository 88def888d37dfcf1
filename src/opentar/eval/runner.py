"""Gives the examples of a benchmark to a model: drawings in batches, questions in blocks, outcomes in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from opentar.core.progress import Count, Progress, part_of
from opentar.eval.benchmark import Ask, Benchmark, Draw, Example

if TYPE_CHECKING:
    from PIL import Image

    from opentar.pipeline import Tar

_BLOCK = 64
"""Questions between two calls of a progress callback."""


def run(
    tar: Tar,
    benchmark: Benchmark,
    *,
    detok: str | None = None,
    scale: int | None = None,
    passes: str | None = None,
    progress: Progress | None = None,
) -> tuple[list[Any], dict[str, Any]]:
    """The outcomes of a benchmark, and their scores.

    Args:
        tar: the model.
        benchmark: what it is given, and how it is scored.
        detok: de-tokenizer of drawings, None for the model's own choice.
        scale: index of the code grid to draw at, None for the model's own choice.
        passes: how many codes a pass of the AR de-tokenizer draws, by name (`Tar.generate`).
        progress: called as ("drawing" | "painting" | "reading", done, total).
    """
    found = outcomes(tar, benchmark.examples(), detok=detok, scale=scale, passes=passes, progress=progress)
    return found, benchmark.score(found)


def outcomes(
    tar: Tar,
    examples: Sequence[Example],
    *,
    detok: str | None = None,
    scale: int | None = None,
    passes: str | None = None,
    progress: Progress | None = None,
) -> list[Any]:
    """A picture for each `Draw` and a text for each `Ask`, in the order of the examples; arguments as in `run`."""
    found: list[Any] = [None] * len(examples)
    drawings = [(place, one) for place, one in enumerate(examples) if isinstance(one, Draw)]
    questions = [(place, one) for place, one in enumerate(examples) if isinstance(one, Ask)]
    pictures = draw_all(tar, [one for _, one in drawings], detok=detok, scale=scale, passes=passes, progress=progress)
    answers = ask_all(tar, [one for _, one in questions], progress=part_of(progress, "reading"))
    for (place, _), outcome in zip([*drawings, *questions], [*pictures, *answers], strict=True):
        found[place] = outcome
    return found


def draw_all(
    tar: Tar,
    drawings: Sequence[Draw],
    *,
    detok: str | None,
    scale: int | None,
    passes: str | None = None,
    progress: Progress | None,
) -> list[Image.Image]:
    """The pictures, each the one that `Tar.generate` draws from its prompt and seed alone."""
    made: dict[int, Image.Image] = {}
    for seed in dict.fromkeys(one.seed for one in drawings):
        places = [place for place, one in enumerate(drawings) if one.seed == seed]
        prompts = [drawings[place].prompt for place in places]
        told = _drawing(progress)
        pictures = tar.generate(prompts, seed=seed, detok=detok, scale=scale, passes=passes, callback_on_step_end=told)
        made |= dict(zip(places, pictures, strict=True))
    return [made[place] for place in range(len(drawings))]


def ask_all(tar: Tar, questions: Sequence[Ask], *, progress: Count | None = None) -> list[str]:
    """The answers, each the one that `Tar.ask` gives."""
    answers: list[str] = []
    for start in range(0, len(questions), _BLOCK):
        block = questions[start : start + _BLOCK]
        answers += tar.ask([list(one.pictures) for one in block], [one.question for one in block])
        if progress is not None:
            progress(len(answers), len(questions))
    return answers


def _drawing(progress: Progress | None) -> Progress | None:
    if progress is None:
        return None
    return lambda what, step, total: progress("drawing" if what == "codes" else "painting", step, total)
