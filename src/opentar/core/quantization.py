"""Weights of 8 and of 4 bits: how they are made of numbers, how a file holds them, and numbers again.

| form | tensor NAME | tensor NAME::scale | a number is |
|---|---|---|---|
| int8 | int8 (rows, ...) | float16 (rows,) | q * scale, -127 <= q <= 127 |
| int4/GROUP | uint8 (rows, columns / 2) | float16 (rows, columns / GROUP, 2) | (q - 8) * scale + middle, 0 <= q <= 15 |
| int4z/GROUP | the same | the same | the same, and middle = (8 - z) * scale with a whole z, 0 <= z <= 15 |

A group is so many neighbouring columns of a row; the last dimension of its scales holds (scale, middle). A byte holds
two numbers, that of the even column in its low half. In int4z zero is among the 16 numbers of a group: OpenVINO
multiplies with such weights as they are, with others it unpacks them first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from opentar.core.errors import ConfigError, WeightsError, shown
from opentar.core.headers import SCALE
from opentar.core.tensors import tensor_alone

GROUPS = (32, 64, 128)
"""Sizes of groups that PyTorch's product takes, best first: small ones lose least (docs/cli.md, opentar quantize)."""
OPENVINO_GROUPS = (128, 64, 32)
"""The same for OpenVINO, whose product is quick where a group is as long as one of the activations."""
WITH_ZERO = "int4z"
"""How forms of 4 bits begin that hold zero itself."""
HALF_MAX = torch.finfo(torch.float16).max
_ROWS_AT_ONCE = 1 << 23
"""Numbers that are converted at a time; their float32 copies are the memory that converting takes."""
_SHRUNK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Parts of a group's range that are tried: cutting a few large numbers off may make all others finer."""


def form_of(bits: int, rows: int, columns: int, groups: Sequence[int] = GROUPS, kind: str = "int4") -> str:
    """The form of a matrix of that shape for 8 or 4 bits: the first of `groups` that fits, int8 where none does.

    `kind` is that of 4 bits, int4 or int4z.
    """
    group = next((group for group in groups if columns % group == 0), None)
    # PyTorch's product of 4 bits takes 16 rows at a time.
    return f"{kind}/{group}" if bits == 4 and group is not None and rows % 16 == 0 else "int8"


def group_of(form: str) -> int | None:
    """Columns of a group of an int4 or int4z form; None for int8.

    Raises:
        ConfigError: no such form.
    """
    if form == "int8":
        return None
    known = {f"{kind}/{group}": group for kind in ("int4", WITH_ZERO) for group in GROUPS}
    if form not in known:
        raise ConfigError(f"{shown(form)} is no form of quantized weights; use int8, {', '.join(known)}")
    return known[form]


@dataclass(frozen=True)
class Packed:
    """A quantized matrix in its file. Nothing is held: each call maps the file anew and lets it go with the result."""

    path: Path
    name: str
    form: str
    shape: tuple[int, int]
    """rows and columns of the numbers"""

    def values(self) -> Tensor:
        """What the file holds, mapped: int8 (rows, columns), or uint8 (rows, columns / 2) of pairs."""
        return tensor_alone(self.path, self.name)

    def scale(self) -> Tensor:
        """float16 scales: (rows,), or (rows, groups, 2)."""
        return tensor_alone(self.path, self.name + SCALE)


def quantize(tensor: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """The two stored tensors of a matrix of floating numbers (int8 takes any number of dimensions).

    Raises:
        ConfigError: an unknown form, or a matrix that the group does not divide.
    """
    group = group_of(form)
    if group is not None and (tensor.ndim != 2 or tensor.shape[1] % group):
        raise ConfigError(f"a tensor of shape {list(tensor.shape)} has no groups of {group}; quantize it to int8")
    rows = max(1, _ROWS_AT_ONCE // max(1, tensor[0].numel()))
    zero = form.startswith(WITH_ZERO)
    parts = [_rows_of_8(part) if group is None else _groups_of_4(part, group, zero) for part in tensor.split(rows)]
    values, scales = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(scales)


def dequantize(values: Tensor, scale: Tensor) -> Tensor:
    """float32 numbers of what `quantize` gave."""
    if values.dtype == torch.int8:
        return values.float() * scale.float().view(-1, *[1] * (values.ndim - 1))
    pairs = torch.stack([values & 15, values >> 4], -1).flatten(1)
    by_group = pairs.unflatten(1, (scale.shape[1], -1)).float().sub_(8)
    by_group.mul_(scale[..., :1].float()).add_(scale[..., 1:].float())
    return by_group.flatten(1)


def check_forms(stored: Mapping[str, Tensor], forms: Mapping[str, str], where: Path) -> None:
    """Raise WeightsError unless each tensor that `forms` names lies there with its scales, in its form."""
    for name, form in forms.items():
        try:
            group = group_of(form)
        except ConfigError as error:
            raise WeightsError(f"{where}: {name}: {error}") from error
        if name not in stored or name + SCALE not in stored:
            lacking = name + SCALE if name in stored else name
            raise WeightsError(f"{where} lacks {lacking}, which its config names as {form}; get the folder again")
        values, scale = stored[name], stored[name + SCALE]
        kind, per_value = (torch.int8, 1) if group is None else (torch.uint8, 2)
        if values.ndim != 2 or values.dtype != kind:
            raise WeightsError(
                f"{where}: {name} is {_told(values)}, and {form} is a matrix of {_short(kind)}; get the folder again"
            )
        rows, columns = values.shape[0], values.shape[1] * per_value
        expected = (rows,) if group is None else (rows, columns // group, 2)
        if tuple(scale.shape) != expected or scale.dtype != torch.float16 or (group and columns % group):
            raise WeightsError(
                f"{where}: {name + SCALE} is {_told(scale)}, and {form} of {rows} x {columns} needs "
                f"float16 {list(expected)}; get the folder again"
            )


def _rows_of_8(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The error of a number is at most half the scale of its row."""
    rows = tensor.float().flatten(1)
    largest = rows.abs().amax(dim=1)
    scale = (largest / 127).half()
    # Rounded down, the scale would cut the largest values off: take the next float16 (its bits as integer, plus one).
    up = (scale.view(torch.int16) + 1).view(torch.float16)
    scale = torch.where(scale.float() * 127 < largest, up, scale)
    divisor = torch.where(scale == 0, torch.ones_like(scale), scale).float()
    values = torch.round(rows / divisor[:, None]).clamp_(-127, 127).to(torch.int8)
    return values.view(tensor.shape), scale


def _groups_of_4(tensor: Tensor, group: int, zero: bool) -> tuple[Tensor, Tensor]:
    """Of several ranges for each group the one with the smallest squared error; with `zero`, of those that hold it."""
    numbers = tensor.float().unflatten(1, (-1, group))
    low, high = numbers.amin(-1, keepdim=True), numbers.amax(-1, keepdim=True)
    if zero:
        low, high = low.clamp(max=0), high.clamp(min=0)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    least = torch.empty(0)
    for share in _SHRUNK:
        # Rounded as they are stored, and as products in bfloat16 use them: what is measured is what will be computed.
        scale = ((high - low) * share / 15).bfloat16().half().float()
        steps = torch.where(scale == 0, 1.0, scale)
        if zero:
            # Of 8 bits and 4, so that float16 holds it.
            middle = (8 - (-low * share / steps).round_().clamp_(0, 15)) * scale
        else:
            middle = ((high + low) / 2 + scale / 2).bfloat16().half().float()
        q = ((numbers - middle) / steps).round_().clamp_(-8, 7)
        error = (q * scale).add_(middle).sub_(numbers).square_().sum(-1, keepdim=True)
        if best is None:
            best, least = (q, scale, middle), error
            continue
        better = error < least
        least = torch.where(better, error, least)
        best = (
            torch.where(better, q, best[0]),
            torch.where(better, scale, best[1]),
            torch.where(better, middle, best[2]),
        )
    assert best is not None
    q, scale, middle = best
    halves = (q + 8).to(torch.uint8).flatten(1).unflatten(1, (-1, 2))
    return halves[..., 0] | (halves[..., 1] << 4), torch.cat([scale, middle], -1).half()


def _told(tensor: Tensor) -> str:
    return f"{_short(tensor.dtype)} {list(tensor.shape)}"


def _short(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
