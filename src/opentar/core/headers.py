"""What a safetensors file holds, by its header alone: no number is read and no library is loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

from opentar.core.errors import WeightsError

SCALE = "::scale"
"""Ending of the tensors that hold the scales of int8 ones (core/storage.py); they are no parameters."""
_LENGTH_BYTES = 8
_LONGEST = 100_000_000
"""The format's own limit for a header."""


class TensorHeader(NamedTuple):
    """One tensor of a file."""

    dtype: str
    """as safetensors names it: F32, BF16, I8, ..."""
    shape: tuple[int, ...]
    """sizes"""
    place: tuple[int, int] = (0, 0)
    """first byte of its numbers behind the header, and the one after the last"""

    @property
    def numbers(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, TensorHeader]:
    """Tensor name -> type and shape. Raises WeightsError for a file that is missing or no safetensors file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if length > min(_LONGEST, path.stat().st_size):
                raise ValueError("its header would be longer than the file")
            content = json.loads(file.read(length))
        content.pop("__metadata__", None)
        return {
            name: TensorHeader(
                str(entry["dtype"]),
                tuple(int(side) for side in entry["shape"]),
                (int(entry["data_offsets"][0]), int(entry["data_offsets"][1])),
            )
            for name, entry in content.items()
        }
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path} is no readable safetensors file ({error}); get it again") from error


def check_header(path: Path) -> None:
    """Compare the header of a safetensors file with the file: every tensor lies in it, and nothing lies behind them.

    Raises:
        WeightsError: it was cut short, or is no safetensors file.
    """
    read_header(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            content = json.loads(file.read(length))
        content.pop("__metadata__", None)
        room = path.stat().st_size - _LENGTH_BYTES - length
        ends = [tuple(int(end) for end in entry["data_offsets"]) for entry in content.values()]
        if not all(len(pair) == 2 and 0 <= pair[0] <= pair[1] <= room for pair in ends):
            raise ValueError("a tensor lies outside of the file")
        if room != max((end for _, end in ends), default=0):
            raise ValueError("its size is not that of its tensors")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is no readable safetensors file ({error}); get it again") from error
