"""The one training loop: accelerate, deterministic steps, resumable, logged, and stopped cleanly by a signal."""

from __future__ import annotations

import json
import math
import signal
import time
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from opentar.core.config import to_dict
from opentar.core.device import has_bf16_cpu
from opentar.core.errors import ConfigError, DataError
from opentar.train import checkpoint
from opentar.train.journal import Journal
from opentar.train.stage import LoopSettings, Stage, feed

MOST_BAD_STEPS = 5
"""Steps in a row whose loss or gradient may be NaN or infinite before the run stops; such steps change nothing."""


class Interrupted(Exception):
    """A signal asked the loop to stop; the step under way was finished and saved."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}; the same command goes on from here")
        self.exit_code = 128 + number


def rate_at(settings: LoopSettings, step: int) -> float:
    """Share of the peak learning rate at `step`: linear warm-up, then a cosine to `final_fraction`."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.final_fraction + (1 - settings.final_fraction) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def make_optimizers(stage: Stage, module: nn.Module) -> list[torch.optim.Optimizer]:
    """Fused AdamW, and Muon beside it where the settings name matrices for it.

    Decay on matrices only, ten times the rate on the stage's fast parameters.

    Raises: ConfigError for a fragment of a name that no weight has.
    """
    settings, fast = stage.settings, stage.fast_parameters()
    names = [name for name, _ in module.named_parameters()]
    for what, fragments in (("fast parameter", fast), ("muon", settings.muon)):
        for fragment in fragments:
            if not any(fragment in name for name in names):
                raise ConfigError(f"stage {stage.name} names {what} {fragment!r}, which no weight is called")
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    turned: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        quick = any(fragment in name for fragment in fast)
        if not parameter.requires_grad:
            continue
        if parameter.ndim == 2 and not quick and any(fragment in name for fragment in settings.muon):
            turned.append(parameter)
        else:
            groups.setdefault((quick, parameter.ndim >= 2), []).append(parameter)
    rate, decay = settings.learning_rate, settings.weight_decay
    adamw = [
        {
            "params": parameters,
            "lr": rate * (10 if quick else 1),
            "peak": rate * (10 if quick else 1),
            "weight_decay": decay if matrix and not quick else 0.0,
        }
        for (quick, matrix), parameters in sorted(groups.items())
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(adamw, betas=(0.9, settings.beta2), fused=True)]
    if turned:
        muon = [{"params": turned, "peak": rate}]
        optimizers.append(torch.optim.Muon(muon, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return optimizers


class Loop:
    """Runs one stage to its end inside `folder`, from the newest checkpoint there if one exists."""

    def __init__(self, stage: Stage, folder: Path, *, workers: int = 1, quiet: bool = False) -> None:
        self.stage, self.folder, self.settings, self.workers = stage, folder, stage.settings, workers
        self.journal = Journal(folder, stage.name, stage.settings.steps, quiet=quiet)
        self.stop_signal = 0
        self.bad = 0

    def run(self) -> dict[str, float]:
        """Train to the last step; returns the final scores.

        Raises: Interrupted after SIGINT/SIGTERM (state saved), DataError when losses stay NaN.
        """
        # The stages keep frozen parts and noise on the CPU; other devices come with work that can measure them.
        self.accelerator = Accelerator(cpu=True, mixed_precision="bf16" if has_bf16_cpu() else "no")
        torch.manual_seed(self.settings.seed)
        module = self.stage.module()
        optimizers = make_optimizers(self.stage, module)
        step, ema = self._resume(module, optimizers)
        prepared, *optimizers = self.accelerator.prepare(module, *optimizers)
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._steps(module, prepared, optimizers, ema, step)
            return self._finish(module, ema)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self.journal.close()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.stop_signal:
            # The second one does not wait for the step to end: checkpoints are whole or absent at any moment.
            raise KeyboardInterrupt
        self.stop_signal = number

    def _meta(self) -> dict[str, Any]:
        """What a checkpoint must have in common with the loop that goes on from it."""
        recipe = getattr(self.stage, "recipe", self.settings)
        return {"stage": self.stage.name, "settings": json.loads(json.dumps(to_dict(recipe)))}

    def _resume(
        self, module: nn.Module, optimizers: list[torch.optim.Optimizer]
    ) -> tuple[int, dict[str, torch.Tensor] | None]:
        ema = None
        if self.settings.ema_decay:
            ema = {key: value.detach().clone() for key, value in module.state_dict().items()}
        found = checkpoint.newest_whole(self.folder / "checkpoints", self.journal.say)
        if found is None:
            return 0, ema
        meta, state = found
        if meta["settings"] != self._meta()["settings"]:
            raise ConfigError(
                f"{self.folder} holds a run of stage {self.stage.name} with other settings; "
                "give the settings it was started with, or another --out folder"
            )
        module.load_state_dict(checkpoint.part(state, "model"))
        checkpoint.restore_optimizers(optimizers, state)
        self.journal.say(f"resumed at step {meta['step']}")
        return meta["step"], (checkpoint.part(state, "ema") if ema is not None else None)

    def _steps(
        self,
        module: nn.Module,
        prepared: nn.Module,
        optimizers: list[Any],
        ema: dict[str, torch.Tensor] | None,
        start: int,
    ) -> None:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        self.bad, began = 0, time.perf_counter()
        module.train()
        with closing(feed(self.stage, start, self.workers, rank, world)) as batches:
            for step, batch in enumerate(batches, start=start):
                numbers = self._step(module, prepared, optimizers, batch, step)
                if not self.bad:
                    self._average(module, ema, step)
                if step % self.settings.log_every == 0 or step + 1 == self.settings.steps:
                    rate = (step + 1 - start) * self.settings.batch_size / (time.perf_counter() - began)
                    self.journal.row(
                        step, {key: float(value) for key, value in numbers.items()} | {"samples_per_s": rate}
                    )
                self._between(module, optimizers, ema, step + 1)

    def _step(
        self, module: nn.Module, prepared: nn.Module, optimizers: list[Any], batch: dict[str, torch.Tensor], step: int
    ) -> dict[str, Any]:
        """One optimizer step; a loss that is not finite changes nothing, too many of them in a row raise DataError."""
        accelerator, settings = self.accelerator, self.settings
        # Every random draw of a step follows from (seed, step): no generator state has to survive a restart.
        torch.manual_seed(settings.seed * 1_000_003 + step * 31 + accelerator.process_index)
        self.stage.before_step(module, step)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["peak"] * rate_at(settings, step)
        loss, metrics = prepared({key: value.to(accelerator.device) for key, value in batch.items()})
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(module.parameters(), settings.grad_clip)
        # A finite loss can have a gradient that is not, and one such step would destroy every weight.
        self.bad = 0 if math.isfinite(loss.item()) and math.isfinite(float(norm)) else self.bad + 1
        if self.bad > MOST_BAD_STEPS:
            raise DataError(
                f"stage {self.stage.name}: loss or gradient was not finite for {self.bad} steps in a row up to step "
                f"{step}; lower learning_rate, then start again from the last checkpoint"
            )
        for optimizer in optimizers:
            if not self.bad:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return {"loss": loss.item(), **metrics, "grad_norm": norm}

    def _average(self, module: nn.Module, ema: dict[str, torch.Tensor] | None, step: int) -> None:
        if ema is None:
            return
        decay = min(self.settings.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            for key, value in module.state_dict().items():
                if value.is_floating_point():
                    ema[key].lerp_(value, 1 - decay)
                else:
                    ema[key].copy_(value)

    def _between(
        self, module: nn.Module, optimizers: list[Any], ema: dict[str, torch.Tensor] | None, done: int
    ) -> None:
        """Checkpoint, samples and scores between two steps; raises Interrupted once a signal came."""
        last = done == self.settings.steps
        if self.accelerator.is_main_process and (done % self.settings.save_every == 0 or last or self.stop_signal):
            checkpoint.save_checkpoint(self.folder / "checkpoints", done, module, optimizers, ema, self._meta())
        if self.stop_signal:
            raise Interrupted(self.stop_signal)
        if done % self.settings.sample_every == 0 and not last:
            self._look(module, ema, done)

    def _look(self, module: nn.Module, ema: dict[str, torch.Tensor] | None, done: int) -> dict[str, float]:
        """Samples and held-out scores with the weights that would be kept."""
        kept = {key: value.clone() for key, value in module.state_dict().items()} if ema is not None else None
        if ema is not None:
            module.load_state_dict(ema)
        module.eval()
        with torch.inference_mode():
            try:
                folder = self.folder / "samples"
                folder.mkdir(parents=True, exist_ok=True)
                self.stage.samples(module, folder, done)
            except OSError as error:
                # Samples are for looking at: a disk that is full for them must not end days of training.
                self.journal.say(f"samples of step {done} cannot be written ({error.strerror}); training goes on")
            scores = self.stage.scores(module)
        if kept is not None:
            module.load_state_dict(kept)
        module.train()
        self.journal.row(done, {f"score/{key}": value for key, value in scores.items()})
        return scores

    def _finish(self, module: nn.Module, ema: dict[str, torch.Tensor] | None) -> dict[str, float]:
        scores = self._look(module, ema, self.settings.steps)
        if ema is not None:
            module.load_state_dict(ema)
        module.eval()
        self.stage.finish(module, self.folder / "result")
        return scores
