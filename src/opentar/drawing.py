"""What a call of `Tar.generate` consists of: one entry a picture, and the steps of all batches as one count."""

from __future__ import annotations

from dataclasses import dataclass

from opentar.core.progress import Progress as StepCallback
from opentar.engine.request import Request


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One picture to draw."""

    prompt: str
    """What to draw, as it was given."""
    heard: str
    """The text that is encoded."""
    request: Request
    """What the engine is asked for; its seed is that of this picture alone."""
    index: int
    """Its place among the pictures of the prompt, from 0."""


class Progress:
    """Joins the steps of several batches into one count a stage."""

    def __init__(self, callback: StepCallback | None, batches: int) -> None:
        self._callback = callback
        self._batches = batches
        self._done = 0

    def step(self, stage: str, step: int, total: int) -> None:
        if self._callback is not None:
            self._callback(stage, self._done * total + step, self._batches * total)

    def next_batch(self) -> None:
        self._done += 1
