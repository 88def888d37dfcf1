"""The one training loop: accelerate, deterministic steps, resumable, logged, and stopped cleanly by a signal."""

from __future__ import annotations

import json
import math
import signal
import time
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from opentar.core.config import to_dict
from opentar.core.device import has_bf16_cpu
from opentar.core.errors import ConfigError, DataError
from opentar.data.stream import Batch, on
from opentar.train import checkpoint
from opentar.train.logger import Logger
from opentar.train.optimizers import make_optimizers, rate_at
from opentar.train.stage import Stage

MOST_BAD_STEPS = 5
"""Steps in a row whose loss or gradient may be NaN or infinite before the run stops; such steps change nothing."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a stage runs on; no part of its recipe: a run may be resumed elsewhere, with the same `accumulate`."""

    device: Literal["cpu", "auto"] = "cpu"
    """"cpu", where a seed gives the same bits again, or "auto": what accelerate finds, several processes too."""
    precision: Literal["auto", "no", "bf16"] = "auto"
    """Mixed precision of the forward pass; "auto" is bf16 where the hardware multiplies it, else none."""
    accumulate: int = 1
    """Batches whose gradients make one step; each has batch_size / accumulate samples."""
    workers: int = 1
    """Processes that make batches ahead."""

    def __post_init__(self) -> None:
        if self.accumulate < 1 or self.workers < 0:
            raise ConfigError(
                f"accumulate is {self.accumulate} and workers {self.workers}; give at least 1, and 0 or more"
            )

    def accelerator(self) -> Accelerator:
        """Device, precision and processes as accelerate knows them."""
        precision = self.precision
        if precision == "auto":
            gpu = self.device != "cpu" and torch.cuda.is_available()
            precision = "bf16" if (torch.cuda.is_bf16_supported() if gpu else has_bf16_cpu()) else "no"
        return Accelerator(cpu=self.device == "cpu", mixed_precision=precision)


class Interrupted(Exception):
    """A signal asked the trainer to stop; the step under way was finished and saved."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}; the same command resumes the run")
        self.exit_code = 128 + number


class Trainer:
    """Runs one stage to its end inside `folder`, from the newest checkpoint there if one exists."""

    def __init__(self, stage: Stage, folder: Path, *, hardware: Hardware | None = None, quiet: bool = False) -> None:
        self.stage, self.folder, self.settings = stage, folder, stage.settings
        self.hardware = hardware or Hardware()
        self.logger = Logger(folder, stage.name, stage.settings.steps, quiet=quiet)
        self.stop_signal = 0
        self.bad = 0

    def run(self) -> dict[str, float]:
        """Train to the last step; returns the final scores.

        Raises: Interrupted after SIGINT/SIGTERM (state saved), DataError when losses stay NaN.
        """
        self.accelerator = self.hardware.accelerator()
        torch.manual_seed(self.settings.seed)
        module = self.stage.module()
        optimizers = make_optimizers(self.stage, module)
        self.stream = self.stage.stream(
            workers=self.hardware.workers,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            accumulate=self.hardware.accumulate,
        )
        step, ema = self._resume(module, optimizers)
        prepared, *optimizers = self.accelerator.prepare(module, *optimizers)
        if ema is not None:
            ema = on(self.accelerator.device, ema)
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._steps(module, prepared, optimizers, ema, step)
            return self._finish(module, ema)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self.logger.close()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.stop_signal == number:
            # The second one does not wait for the step to end: checkpoints are whole or absent at any moment.
            raise KeyboardInterrupt
        # Another one is the same wish: Ctrl-C reaches every process, and a parent passes it on as SIGTERM.
        self.stop_signal = self.stop_signal or number

    def _meta(self) -> dict[str, Any]:
        """What a checkpoint must have in common with the trainer that resumes it."""
        recipe = getattr(self.stage, "recipe", self.settings)
        return {"stage": self.stage.name, "settings": json.loads(json.dumps(to_dict(recipe)))}

    def _resume(
        self, module: nn.Module, optimizers: list[torch.optim.Optimizer]
    ) -> tuple[int, dict[str, Tensor] | None]:
        ema = None
        if self.settings.ema_decay:
            ema = {key: value.detach().clone() for key, value in module.state_dict().items()}
        found = checkpoint.newest_whole(self.folder / "checkpoints", self.logger.say)
        if found is None:
            return 0, ema
        meta, state = found
        if meta["settings"] != self._meta()["settings"]:
            raise ConfigError(
                f"{self.folder} holds a run of stage {self.stage.name} with other settings; "
                "give the settings it was started with, or another --out folder"
            )
        if meta.get("accumulate", self.hardware.accumulate) != self.hardware.accumulate:
            raise ConfigError(
                f"{self.folder} was trained with {meta['accumulate']} batches a step; its place in the data is counted "
                "in them: give the same accumulate"
            )
        module.load_state_dict(checkpoint.part(state, "model"))
        checkpoint.restore_optimizers(optimizers, state)
        # Checkpoints of before streams had a state are at the beginning of their step.
        self.stream.resume(meta.get("stream", {"next": meta["step"] * self.hardware.accumulate}))
        self.logger.say(f"resumed at step {meta['step']}")
        return meta["step"], (checkpoint.part(state, "ema") if ema is not None else None)

    def _steps(
        self,
        module: nn.Module,
        prepared: nn.Module,
        optimizers: list[Any],
        ema: dict[str, Tensor] | None,
        start: int,
    ) -> None:
        self.bad, began = 0, time.perf_counter()
        module.train()
        with closing(self.stream):
            batches = iter(self.stream)
            for step in range(start, self.settings.steps):
                micro = list(islice(batches, self.hardware.accumulate))
                if len(micro) < self.hardware.accumulate:
                    raise DataError(f"stage {self.stage.name}: the data ended at step {step} of {self.settings.steps}")
                numbers = self._step(module, prepared, optimizers, micro, step)
                if not self.bad:
                    self._average(module, ema, step)
                if step % self.settings.log_every == 0 or step + 1 == self.settings.steps:
                    rate = (step + 1 - start) * self.settings.batch_size / (time.perf_counter() - began)
                    self.logger.row(
                        step, {key: float(value) for key, value in numbers.items()} | {"samples_per_s": rate}
                    )
                self._between(module, optimizers, ema, step + 1)

    def _step(
        self, module: nn.Module, prepared: nn.Module, optimizers: list[Any], micro: list[Batch], step: int
    ) -> dict[str, Any]:
        """One optimizer step; a loss that is not finite changes nothing, too many of them in a row raise DataError."""
        accelerator, settings = self.accelerator, self.settings
        # Every random draw of a step follows from (seed, step): no generator state has to survive a restart.
        torch.manual_seed(settings.seed * 1_000_003 + step * 31 + accelerator.process_index)
        self.stage.before_step(module, step)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["peak"] * rate_at(settings, step)
        total, metrics = torch.zeros((), device=accelerator.device), {}
        for batch in micro:
            loss, metrics = prepared(on(accelerator.device, batch))
            accelerator.backward(loss if len(micro) == 1 else loss / len(micro))
            total = total + loss.detach() / len(micro)
        norm = accelerator.clip_grad_norm_(module.parameters(), settings.grad_clip)
        # A finite loss can have a gradient that is not, and one such step would destroy every weight. One look at
        # both: each waits for the device.
        finite = math.isfinite(float(total + norm))
        self.bad = 0 if finite else self.bad + 1
        if self.bad > MOST_BAD_STEPS:
            raise DataError(
                f"stage {self.stage.name}: loss or gradient was not finite for {self.bad} steps in a row up to step "
                f"{step}; lower learning_rate and train into another --out folder"
            )
        for optimizer in optimizers:
            if finite:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return {"loss": total, **metrics, "grad_norm": norm}

    def _average(self, module: nn.Module, ema: dict[str, Tensor] | None, step: int) -> None:
        if ema is None:
            return
        decay = min(self.settings.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            for key, value in module.state_dict().items():
                if value.is_floating_point():
                    ema[key].lerp_(value, 1 - decay)
                else:
                    ema[key].copy_(value)

    def _between(self, module: nn.Module, optimizers: list[Any], ema: dict[str, Tensor] | None, done: int) -> None:
        """Checkpoint, samples and scores between two steps; raises Interrupted once a signal came."""
        last = done == self.settings.steps
        if done % self.settings.save_every == 0 or last or self.stop_signal:
            if self.accelerator.is_main_process:
                meta = self._meta() | {"stream": self.stream.state(), "accumulate": self.hardware.accumulate}
                checkpoint.save_checkpoint(self.folder / "checkpoints", done, module, optimizers, ema, meta)
            self.accelerator.wait_for_everyone()
        if self.stop_signal:
            raise Interrupted(self.stop_signal)
        if done % self.settings.sample_every == 0 and not last:
            if self.accelerator.is_main_process:
                _exchange(module, ema)
                self._look(module, done)
                _exchange(module, ema)
            self.accelerator.wait_for_everyone()

    def _look(self, module: nn.Module, done: int) -> dict[str, float]:
        """Samples and held-out scores."""
        module.eval()
        with torch.inference_mode():
            try:
                folder = self.folder / "samples"
                folder.mkdir(parents=True, exist_ok=True)
                self.stage.samples(module, folder, done)
            except OSError as error:
                # Samples are for looking at: a disk that is full for them must not end days of training.
                self.logger.say(f"samples of step {done} cannot be written ({error.strerror}); training continues")
            scores = self.stage.scores(module)
        module.train()
        self.logger.row(done, {f"score/{key}": value for key, value in scores.items()})
        return scores

    def _finish(self, module: nn.Module, ema: dict[str, Tensor] | None) -> dict[str, float]:
        if not self.accelerator.is_main_process:
            return {}
        _exchange(module, ema)
        scores = self._look(module, self.settings.steps)
        module.eval()
        self.stage.finish(module.cpu(), self.folder / "result")
        return scores


def _exchange(module: nn.Module, ema: dict[str, Tensor] | None) -> None:
    """Swap the weights with their average, one tensor at a time; samples, scores and results are the average's."""
    if ema is None:
        return
    with torch.no_grad():
        for key, value in module.state_dict().items():
            kept = value.clone()
            value.copy_(ema[key])
            ema[key].copy_(kept)
