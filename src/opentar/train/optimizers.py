"""Optimizers and the learning rate of a stage: fused AdamW, Muon where a recipe names matrices for it."""

from __future__ import annotations

import math

import torch
from torch import nn

from opentar.core.errors import ConfigError
from opentar.train.stage import LoopSettings, Stage


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
