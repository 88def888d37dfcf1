"""Tensors of files that others published: which of them a part can be made of, by type and by number.

Types are looked at when a file is read, which costs nothing; numbers are read one tensor at a time, before anything is
written or while it is copied, so that a trial run refuses what a real one would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from opentar.core.errors import WeightsError
from opentar.core.headers import read_header

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


def same_numbers(one: Tensor, other: Tensor, rows: int = 4096) -> bool:
    """Whether two tensors hold the same numbers, whatever their types; compared by blocks of the first dimension."""
    if one.shape != other.shape:
        return False
    return all(
        torch.equal(first.double(), second.double())
        for first, second in zip(one.split(rows), other.split(rows), strict=True)
    )


def copy_checked(
    source: Path, target: Path, kinds: Mapping[str, torch.dtype], check: Callable[[str, Tensor], None]
) -> Iterator[str]:
    """Copy a safetensors file byte by byte, each tensor checked on its way; yields the name of each that is done.

    Args:
        source: a file that safetensors has opened, so that its numbers are known to stand one after the other.
        target: the new file.
        kinds: the type of every tensor.
        check: raises for a tensor that must not be copied; its shape is not that of the file.

    Raises:
        WeightsError: the file is missing or damaged.
        OSError: the disk refuses.
    """
    header = read_header(source)
    with source.open("rb") as file, target.open("wb") as copy:
        length = file.read(8)
        copy.write(length + file.read(int.from_bytes(length, "little")))
        for name in sorted(header, key=lambda name: header[name].place):
            start, end = header[name].place
            content = bytearray(end - start)
            if file.readinto(content) != len(content):
                raise WeightsError(f"{source} is missing or damaged: {name} is cut short; get it again")
            if content:
                check(name, torch.frombuffer(content, dtype=kinds[name]))
            copy.write(content)
            yield name


def each_tensor_of(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a safetensors file, each mapped by itself: one that is let go gives its memory back.

    Raises:
        WeightsError: missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
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
