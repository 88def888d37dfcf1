"""Streams of batches that can be broken off and resumed: what a trainer draws from."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Batch = dict[str, Tensor]
"""CPU tensors by name."""


class Stream(Protocol):
    """Batches in order, and where it stands."""

    def __iter__(self) -> Iterator[Batch]:
        """The batches from where the stream stands."""

    def state(self) -> dict[str, Any]:
        """Plain values that `resume` takes; they say which batch comes next, prefetched ones not counted."""

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where a stream with this state stood. Raises DataError for a state of another kind of stream."""

    def close(self) -> None:
        """End the workers; another iteration would start new ones."""


class SeededBatches:
    """Batches by step number: batch k is a function of (seed, k, rank) alone, whatever the workers or the start.

    Args:
        make: called as make(rng, size) in a worker process; a pure function of `rng`.
        steps: number of batches.
        size: samples of a batch over all ranks.
        seed: of the stream.
        workers: processes that make batches ahead; 0 makes them here.
        rank: number of this process.
        world: processes in all.
    """

    def __init__(
        self,
        make: Callable[[np.random.Generator, int], Batch],
        *,
        steps: int,
        size: int,
        seed: int,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._dataset = _ByStep(make, steps, max(1, size // world), seed, rank)
        self._workers, self._next = workers, 0
        self._running: Generator[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        self._running = self._run()
        return self._running

    def _run(self) -> Generator[Batch]:
        loader: DataLoader[Any] = DataLoader(
            self._dataset,
            batch_size=None,
            sampler=range(self._next, len(self._dataset)),
            num_workers=self._workers,
            prefetch_factor=4 if self._workers else None,
            worker_init_fn=_outlive_signals if self._workers else None,
        )
        for batch in loader:
            self._next += 1
            yield batch

    def state(self) -> dict[str, Any]:
        """The number of the next batch."""
        return {"next": self._next}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on with batch `state["next"]`."""
        self._next = int(state["next"])

    def close(self) -> None:
        """Tell the workers to stop while they can still be heard, not when the interpreter ends."""
        if self._running is not None:
            self._running.close()


class _ByStep(Dataset[Batch]):
    def __init__(
        self, make: Callable[[np.random.Generator, int], Batch], steps: int, size: int, seed: int, rank: int
    ) -> None:
        self.make, self.steps, self.size, self.seed, self.rank = make, steps, size, seed, rank

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        return self.make(np.random.default_rng([self.seed, step, self.rank]), self.size)


def _outlive_signals(_worker: int) -> None:
    """Ctrl-C reaches the whole process group; the trainer ends its step with batches that still come, then ends us."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def on(device: torch.device, batch: Batch) -> Batch:
    """The batch on a device."""
    return {name: value.to(device) for name, value in batch.items()}
