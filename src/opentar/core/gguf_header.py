"""What a GGUF file holds, by its header alone: no number of a tensor is read and no library is loaded.

The program that runs such files is written in C and trusts them, so they are read here first, within bounds.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from opentar.core.errors import WeightsError, shown

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32
_MOST = 1 << 16
"""Keys or tensors of one file; far more than any model has."""
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type of a value -> how struct calls it."""
_STRING, _ARRAY = 8, 9
_TYPES = (
    *((0, "float32", 1, 4), (1, "float16", 1, 2), (30, "bfloat16", 1, 2)),
    *((2, "q4_0", 32, 18), (3, "q4_1", 32, 20), (6, "q5_0", 32, 22), (7, "q5_1", 32, 24), (8, "q8_0", 32, 34)),
    *((10, "q2_k", 256, 84), (11, "q3_k", 256, 110), (12, "q4_k", 256, 144), (13, "q5_k", 256, 176)),
    *((14, "q6_k", 256, 210), (20, "iq4_nl", 32, 18), (23, "iq4_xs", 256, 136)),
)
"""Types of tensors: number as ggml counts them, name, numbers of a block, bytes of a block."""
BLOCKS = {kind: (numbers, size) for kind, _, numbers, size in _TYPES}
"""Type of a tensor -> numbers of a block, and its bytes."""
KINDS = {kind: name for kind, name, _, _ in _TYPES}
"""Type of a tensor -> its name."""


class GgufTensor(NamedTuple):
    """One tensor of a file."""

    kind: int
    """its type, a key of BLOCKS"""
    shape: tuple[int, ...]
    """sizes, rows first as everywhere else here (the file has them the other way round)"""
    begin: int
    """first byte in the file"""
    bytes: int
    """its size"""


class GgufHeader(NamedTuple):
    """Keys and tensors of a file."""

    values: dict[str, Any]
    """numbers, truth values and texts; of an array only its length"""
    tensors: dict[str, GgufTensor]
    """by name"""


def tensor_bytes(kind: int, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor. Raises KeyError for an unknown type, ValueError where blocks do not fill its rows."""
    numbers, size = BLOCKS[kind]
    if not shape or shape[-1] % numbers:
        raise ValueError(f"rows of {shape[-1:]} are no whole blocks of {numbers}")
    return math.prod(shape) // numbers * size


def read_gguf(path: Path) -> GgufHeader:
    """The header, and that every tensor lies in the file and nothing behind them.

    Raises:
        WeightsError: no such file, no GGUF, cut short, or of a version or type that is not known here.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
            if head != MAGIC:
                _refuse(path, "is no GGUF file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _Reader(path, content).header()
    except (OSError, struct.error, IndexError, ValueError, KeyError, OverflowError) as error:
        raise WeightsError(f"{shown(path)} is no readable GGUF file ({error}); write or get it again") from error


class _Reader:
    """Walks through a header. Whatever leads out of the file ends in struct.error or ValueError."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path, self.content, self.place = path, content, len(MAGIC)

    def header(self) -> GgufHeader:
        version = self.number("I")
        if version not in _VERSIONS:
            _refuse(self.path, f"is GGUF of version {version}; versions {_VERSIONS[0]} and {_VERSIONS[1]} are read")
        tensors, keys = self.number("Q"), self.number("Q")
        if max(tensors, keys) > _MOST:
            raise ValueError(f"{tensors} tensors and {keys} keys")
        values = {self.text(): self.value(self.number("I")) for _ in range(keys)}
        found: dict[str, tuple[int, tuple[int, ...], int]] = {}
        for _ in range(tensors):
            name, sides = self.text(), self.number("I")
            if not 0 < sides <= 4:
                raise ValueError(f"a tensor of {sides} dimensions")
            shape = tuple(self.number("Q") for _ in range(sides))[::-1]
            found[name] = self.number("I"), shape, self.number("Q")
        alignment = values.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
            raise ValueError(f"an alignment of {alignment}")
        return GgufHeader(values, self.placed(found, -(-self.place // alignment) * alignment, alignment))

    def placed(
        self, found: dict[str, tuple[int, tuple[int, ...], int]], start: int, alignment: int
    ) -> dict[str, GgufTensor]:
        """The tensors behind `start`, compared with the size of the file."""
        placed: dict[str, GgufTensor] = {}
        for name, (kind, shape, offset) in found.items():
            if kind not in BLOCKS:
                _refuse(self.path, f"stores {shown(name)} in a type (number {kind}) that is not known here")
            placed[name] = GgufTensor(kind, shape, start + offset, tensor_bytes(kind, shape))
        ends = [tensor.begin + tensor.bytes for tensor in placed.values()]
        size, end = len(self.content), max(ends, default=start)
        if size < end:
            _refuse(self.path, f"is cut short: it has {size} bytes and its tensors end at {end}")
        if size > end + alignment:
            raise ValueError("its size is not that of its tensors")
        return placed

    def number(self, kind: str) -> Any:
        (found,) = struct.unpack_from("<" + kind, self.content, self.place)
        self.place += struct.calcsize("<" + kind)
        return found

    def text(self) -> str:
        begin = self.skip_text()
        return self.content[begin : self.place].decode("utf-8", "replace")

    def skip_text(self) -> int:
        """Steps over a text and returns where it begins."""
        length = self.number("Q")
        begin = self.place
        self.place += length
        if self.place > len(self.content):
            raise ValueError("a text leads out of the file")
        return begin

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        inner, length = self.number("I"), self.number("Q")
        if inner == _STRING:
            if length > len(self.content):
                raise ValueError("an array leads out of the file")
            for _ in range(length):
                self.skip_text()
        else:
            self.place += struct.calcsize("<" + _SCALARS[inner]) * length
            if self.place > len(self.content):
                raise ValueError("an array leads out of the file")
        return length


def _refuse(path: Path, what: str) -> NoReturn:
    raise WeightsError(f"{shown(path)} {what}; write or get it again")
