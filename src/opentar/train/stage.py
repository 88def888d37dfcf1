"""What a training stage is: a module, batches that are pure functions of a generator, a loss, scores, a result."""

from __future__ import annotations

import abc
import signal
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from opentar.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long and how fast one stage learns. Schedules count steps, never seconds: resuming changes nothing."""

    steps: int
    """Optimizer steps."""
    batch_size: int
    """Samples a step (over all processes)."""
    learning_rate: float
    """Peak rate, of both optimizers."""
    warmup_steps: int = 100
    """Linear warm-up from zero."""
    final_fraction: float = 0.02
    """The cosine ends at this fraction of the peak rate."""
    weight_decay: float = 0.02
    """Decoupled decay, on matrices only."""
    beta2: float = 0.98
    """Second moment of AdamW; the short runs here like it below 0.999."""
    muon: tuple[str, ...] = ()
    """Name fragments of the matrices inside blocks that Muon moves (arXiv 2502.16982, its steps as large as AdamW's);
    everything else is AdamW's."""
    grad_clip: float = 1.0
    """Largest gradient norm."""
    ema_decay: float = 0.0
    """Decay of the averaged weights that are kept as the result; 0 keeps the last weights."""
    seed: int = 20251123
    """Seed of weights, batches and noise."""
    save_every: int = 250
    """Steps between resumable checkpoints."""
    sample_every: int = 1000
    """Steps between samples and held-out scores; the last step always gets them."""
    log_every: int = 20
    """Steps between lines of the log."""
    score_size: int = 384
    """Held-out samples behind a score (stages whose samples are dear take a share of it)."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every", "sample_every", "log_every", "score_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; a whole number of at least 1 is needed")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"learning_rate is {self.learning_rate}; give a number between 0 and 1")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay is {self.ema_decay}; give a number from 0 to below 1")


class Stage(abc.ABC):
    """One stage of training. A subclass is small: data, loss, samples, scores and what it hands on."""

    name: str
    """Folder name of the stage inside a run."""

    settings: LoopSettings

    @abc.abstractmethod
    def module(self) -> nn.Module:
        """Build the module to train; its `forward(batch)` returns (loss, metrics), computed under autocast."""

    @abc.abstractmethod
    def batch(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        """`size` training samples as CPU tensors, a pure function of `rng` (called in a worker process)."""

    @abc.abstractmethod
    def scores(self, module: nn.Module) -> dict[str, float]:
        """Held-out scores in [0, 1] or dB, of `module` in eval mode, on validation data only."""

    def samples(self, module: nn.Module, folder: Path, step: int) -> None:  # noqa: B027  (optional)
        """Write pictures or texts that a person can look at into `folder`."""

    @abc.abstractmethod
    def finish(self, module: nn.Module, folder: Path) -> None:
        """Write the stage's result (part folders) into `folder`; called once, after the last step."""

    def before_step(self, module: nn.Module, step: int) -> None:  # noqa: B027  (optional)
        """Called before every step, e.g. to free a frozen part; what it does must follow from `step` alone."""

    def fast_parameters(self) -> tuple[str, ...]:
        """Name fragments of parameters that learn at ten times the rate (condition embeddings)."""
        return ()


@dataclass(frozen=True)
class Gate:
    """A score that a stage must reach before the next may start."""

    score: str
    """Name of the score in the stage's final scores."""
    at_least: float
    """Smallest value that opens the gate."""

    def check(self, stage: str, scores: Mapping[str, float]) -> str | None:
        """None where the gate is open, else the sentence that says why it is shut."""
        value = scores.get(self.score)
        if value is not None and value >= self.at_least:
            return None
        shown = "missing" if value is None else f"{value:.3f}"
        return (
            f"stage {stage} ended with {self.score} {shown}, below its gate of {self.at_least:.3f}: "
            "train it longer, or pass --no-gates to go on with what there is"
        )


class StepBatches(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Batches by step number: item k is a function of (seed, k, rank) alone, whatever the workers or the start."""

    def __init__(self, stage: Stage, rank: int = 0, world: int = 1) -> None:
        self.stage, self.rank, self.world = stage, rank, world

    def __len__(self) -> int:
        return self.stage.settings.steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.stage.settings.seed, step, self.rank])
        return self.stage.batch(rng, max(1, self.stage.settings.batch_size // self.world))


def feed(stage: Stage, start: int, workers: int, rank: int = 0, world: int = 1) -> Generator[dict[str, torch.Tensor]]:
    """Yield the batches of steps `start`, `start + 1`, ... in order."""
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        StepBatches(stage, rank, world),
        batch_size=None,
        sampler=range(start, stage.settings.steps),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_outlive_signals if workers else None,
    )
    batches = iter(loader)
    try:
        yield from batches
    finally:
        # Dropped here, not when the interpreter ends: workers are told to stop while they can still be heard.
        del batches


def _outlive_signals(_worker: int) -> None:
    """Ctrl-C reaches the whole process group; the loop finishes its step with batches that still come, then ends us."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
