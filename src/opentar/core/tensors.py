"""Tensors of files that others published: which of them a part can be made of, by type and by number.

Types are looked at when a file is read, which costs nothing; numbers are read one tensor at a time, before anything is
written, so that a trial run refuses what a real one would.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from opentar.core.errors import WeightsError

KINDS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Types of numbers that are read. Smaller floats go with scales of their own, which no published file of ours has."""


def check_kind(where: str | Path, name: str, kind: torch.dtype) -> None:
    """Raise WeightsError unless `kind` is one of KINDS; `where` and `name` are the file and the tensor."""
    if kind not in KINDS:
        known = ", ".join(_short(one) for one in KINDS)
        raise WeightsError(f"{where}: {name} is of type {kind}; expected floating-point numbers, one of {known}")


def check_plain(where: str | Path, name: str, tensor: Tensor) -> None:
    """Raise WeightsError unless `tensor` holds numbers of one of KINDS, each of them.

    A file of torch.save may hold tensors that are sparse, nested, quantized or without numbers (on the meta device).
    """
    if tensor.is_nested or tensor.layout != torch.strided:
        layout = "nested" if tensor.is_nested else f"sparse ({tensor.layout})"
        raise WeightsError(f"{where}: {name} is {layout}; expected a plain tensor, which holds every number")
    if tensor.device.type != "cpu":
        raise WeightsError(f"{where}: {name} has no numbers in the file ({tensor.device}); export or download it again")
    check_kind(where, name, tensor.dtype)


def check_numbers(where: str | Path, name: str, tensor: Tensor, kind: torch.dtype) -> None:
    """Raise WeightsError for NaN, infinity, and numbers that would become infinite in the type `kind`."""
    if not tensor.numel():
        return
    # Both pass NaN on and need no memory beside the tensor; what fits them fits all between.
    ends = torch.stack(torch.aminmax(tensor.detach()))
    if not torch.isfinite(ends).all():
        raise WeightsError(f"{where}: {name} holds NaN or infinity; download it again")
    for end in ends:
        if not torch.isfinite(end.to(kind)):
            raise WeightsError(
                f"{where}: {name} holds {float(end):.3g}, and {_short(kind)} can hold numbers up to "
                f"{torch.finfo(kind).max:.3g} only; download it again"
            )


def each_tensor_of(path: Path, left_out: Collection[str] = ()) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a safetensors file, each mapped by itself: one that is let go gives its memory back.

    Raises:
        WeightsError: missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name not in left_out]  # noqa: SIM118, it is no dict
        for name in names:
            yield name, tensor_alone(path, name)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is missing or damaged: {error}") from error


def tensor_alone(path: Path, name: str) -> Tensor:
    """A tensor of a safetensors file in a mapping of its own. Raises what safetensors raises."""
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def _short(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
