"""A recipe: an open graph of named steps. Each trains something, needs others, and may be gated by its scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentar.core.errors import ConfigError
from opentar.train.stage import Stage
from opentar.train.trainer import Trainer

Run = Callable[[Path, bool], dict[str, float]]
"""Called as run(run folder, quiet); trains into `run folder / name of the step` and returns the final scores."""


@dataclass(frozen=True)
class Gate:
    """A score that a step must reach before the next may start."""

    score: str
    """Name of the score in the step's final scores."""
    at_least: float
    """Smallest value that opens the gate."""

    def check(self, step: str, scores: Mapping[str, float]) -> str | None:
        """None where the gate is open, else the sentence that says why it is shut."""
        value = scores.get(self.score)
        if value is not None and value >= self.at_least:
            return None
        shown = "missing" if value is None else f"{value:.3f}"
        return (
            f"stage {step} ended with {self.score} {shown}, below its gate of {self.at_least:.3f}: "
            "train it longer, or pass --no-gates to continue all the same"
        )


@dataclass(frozen=True, kw_only=True)
class Step:
    """One node of a recipe's graph."""

    run: Run
    """What it does."""
    needs: tuple[str, ...] = ()
    """Steps that must have ended."""
    gates: tuple[Gate, ...] = ()
    """Scores this step must reach before others build on it."""
    weight: int = 0
    """Of steps that are ready at once, the heavier starts first: it has the longer way to the end behind it."""

    def refusal(self, name: str, scores: Mapping[str, float]) -> str | None:
        """Why nothing may build on these scores, or None."""
        texts = [gate.check(name, scores) for gate in self.gates]
        return next((text for text in texts if text), None)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a run is made of.

    Raises ConfigError for a step that needs one which is not there, or which does not stand before it.
    """

    model: str
    """What is trained: the name that `opentar train` takes."""
    name: str
    """Of the recipe among those of the model."""
    settings: Mapping[str, Any]
    """Every number, as plain values: kept in the run folder, which cannot be resumed with others."""
    steps: Mapping[str, Step]
    """In an order in which they can run one after the other."""
    gated: bool = True
    """False where the numbers are far too small to pass a gate (smoke tests)."""

    def __post_init__(self) -> None:
        names = list(self.steps)
        for place, (name, step) in enumerate(self.steps.items()):
            for need in step.needs:
                if need not in names[:place]:
                    raise ConfigError(f"step {name} needs {need}, which is no step before it: {', '.join(names)}")


def trained(build: Callable[[Path], Stage]) -> Run:
    """A step that is one training run of the stage that `build(run folder)` makes."""

    def run(out: Path, quiet: bool) -> dict[str, float]:
        stage = build(out)
        return Trainer(stage, out / stage.name, quiet=quiet).run()

    return run
