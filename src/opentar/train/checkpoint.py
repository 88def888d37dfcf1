"""Resumable checkpoints: safetensors and JSON only, complete or absent, the newest whole one wins."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from opentar.core.errors import WeightsError
from opentar.core.folder import MANIFEST, load_part, save_part

KEEP = 2
"""Checkpoints kept: the newest, and one behind it in case the newest is damaged."""


def flatten_optimizers(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """Moments as named tensors, `optim<which>.<index of the parameter>.<moment>`."""
    flat = {}
    for which, optimizer in enumerate(optimizers):
        for index, moments in optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                flat[f"optim{which}.{index}.{name}"] = value if isinstance(value, torch.Tensor) else torch.tensor(value)
    return flat


def restore_optimizers(optimizers: Sequence[torch.optim.Optimizer], flat: dict[str, torch.Tensor]) -> None:
    """Put moments from `flatten_optimizers` back; groups and rates stay those of the running recipe."""
    for which, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in part(flat, f"optim{which}").items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        for parameter, moments in optimizer.state.items():
            for name, value in moments.items():
                if value.shape == parameter.shape:
                    # Fused AdamW walks memory in the parameter's own layout (channels last for convolutions): a moment
                    # that lies otherwise would be paired with the wrong weights, silently.
                    moments[name] = torch.empty_like(parameter).copy_(value)


def save_checkpoint(
    folder: Path,
    step: int,
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    ema: dict[str, torch.Tensor] | None,
    meta: dict[str, Any],
) -> Path:
    """Write `folder/step-NNNNNNN` and drop all but the newest `KEEP` checkpoints.

    Old ones go only after the new one is whole on disk (`save_part` writes its manifest last and renames the folder).
    """
    state = {f"model.{key}": value for key, value in module.state_dict().items()}
    state |= flatten_optimizers(optimizers)
    state |= {f"ema.{key}": value for key, value in (ema or {}).items()}
    target = folder / f"step-{step:07d}"
    if target.is_dir() and not (target / MANIFEST).is_file():
        # A checkpoint that lost its manifest is written again; what somebody else put there stays.
        (target / MANIFEST).touch()
    save_part(target, {"step": step, **meta}, state)
    for old in checkpoints(folder)[KEEP:]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders under `folder`, newest first."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), reverse=True)


def newest_whole(folder: Path, warn: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
    """(meta, tensors) of the newest checkpoint that its manifest confirms; damaged ones are reported to `warn`.

    None where there is no checkpoint at all. Raises: WeightsError where there are some and none is whole.
    """
    found = checkpoints(folder)
    for path in found:
        try:
            return load_part(path)
        except WeightsError as error:
            warn(f"checkpoint {path.name} is damaged and is passed over: {error}")
    if found:
        raise WeightsError(
            f"none of the {len(found)} checkpoints in {folder} is whole; delete that folder to start over"
        )
    return None


def part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors under `prefix.`, without it."""
    return {key[len(prefix) + 1 :]: value for key, value in state.items() if key.startswith(prefix + ".")}
