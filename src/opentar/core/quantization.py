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
from typing import NamedTuple

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


class Quantized(NamedTuple):
    """A matrix as a file holds it: what whoever has chosen its numbers gives to be stored."""

    values: Tensor
    scale: Tensor

    def numel(self) -> int:
        """How many numbers it stands for."""
        return self.values.numel() * (1 if self.values.dtype == torch.int8 else 2)

    def numbers(self) -> Tensor:
        """float32 numbers."""
        return dequantize(self.values, self.scale)


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
    whole = torch.stack([values & 15, values >> 4], -1).flatten(1)
    by_group = whole.unflatten(1, (scale.shape[1], -1)).float().sub_(8)
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


def search_group(numbers: Tensor, weights: Tensor | None = None, *, zero: bool = False) -> Tensor:
    """float32 (..., 2): scale and middle for groups (..., columns), of several ranges the one of least squared error.

    Both are rounded as they are stored, and as products in bfloat16 use them: what is measured will be computed.
    `weights` (columns,): how much the error of each column counts; None for all alike. With `zero` only ranges that
    hold zero, as a whole number of steps.
    """
    low, high = numbers.amin(-1), numbers.amax(-1)
    if zero:
        low, high = low.clamp(max=0), high.clamp(min=0)
    best = numbers.new_empty(*low.shape, 2)
    least = torch.full_like(low, float("inf"))
    for share in _SHRUNK:
        scale = ((high - low) * share / 15).bfloat16().half().float()
        if zero:
            # Of 8 bits and 4, so that float16 holds it.
            middle = (8 - (-low * share / torch.where(scale == 0, 1.0, scale)).round_().clamp_(0, 15)) * scale
        else:
            middle = ((high + low) / 2 + scale / 2).bfloat16().half().float()
        error = (steps_of(numbers, scale, middle) * scale[..., None]).add_(middle[..., None]).sub_(numbers).square_()
        if weights is not None:
            error *= weights
        lost = error.sum(-1)
        better = lost < least
        least = torch.where(better, lost, least)
        best = torch.where(better[..., None], torch.stack([scale, middle], -1), best)
    return best


def pairs(whole: Tensor) -> Tensor:
    """uint8 (rows, columns) of 0..15 as bytes of two, (rows, columns / 2)."""
    halves = whole.unflatten(1, (-1, 2))
    return halves[..., 0] | (halves[..., 1] << 4)


def _groups_of_4(tensor: Tensor, group: int, zero: bool) -> tuple[Tensor, Tensor]:
    numbers = tensor.float().unflatten(1, (-1, group))
    scale = search_group(numbers, zero=zero)
    whole = (steps_of(numbers, *scale.unbind(-1)) + 8).to(torch.uint8)
    return pairs(whole.flatten(1)), scale.half()


def steps_of(numbers: Tensor, scale: Tensor, middle: Tensor) -> Tensor:
    """float32 whole numbers -8..7 for (..., columns), with scale and middle (...)."""
    steps = torch.where(scale == 0, 1.0, scale)
    return ((numbers - middle[..., None]) / steps[..., None]).round_().clamp_(-8, 7)


def _told(tensor: Tensor) -> str:
    return f"{_short(tensor.dtype)} {list(tensor.shape)}"


def _short(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
