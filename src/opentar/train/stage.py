"""What a training stage is: a module with a loss, batches or a stream of its own, held-out scores, and a result."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from opentar.core.errors import ConfigError
from opentar.data.stream import Batch, SeededBatches, Stream


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
    """Held-out samples behind a score (stages whose samples are expensive take a share of it)."""

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
    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """`size` training samples as CPU tensors, a pure function of `rng` (called in a worker process)."""

    def stream(self, *, workers: int, rank: int, world: int, accumulate: int) -> Stream:
        """What the trainer draws from: seeded batches, or a reader of its own in a subclass."""
        settings = self.settings
        return SeededBatches(
            self.batch,
            steps=settings.steps * accumulate,
            size=max(1, settings.batch_size // accumulate),
            seed=settings.seed,
            workers=workers,
            rank=rank,
            world=world,
        )

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


class BesideFrozen(nn.Module):
    """A module with frozen parts beside it: they move to its device, and are no part of its weights and checkpoints."""

    def __init__(self, *frozen: nn.Module) -> None:
        super().__init__()
        # A plain tuple: nn.Module would register modules that are set as attributes.
        self.frozen = tuple(part.requires_grad_(False) for part in frozen)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BesideFrozen:
        for part in self.frozen:
            part._apply(fn, recurse)
        return super()._apply(fn, recurse)
