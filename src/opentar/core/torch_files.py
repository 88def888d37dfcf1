"""Files of torch.save that others published, read so that nothing in them can run.

They are pickles. `weights_only` builds tensors and plain values and refuses every other object before it exists. A few
names are let through, and each stands for code of this module that makes a plain value of what it is given:
`easydict.EasyDict` and `argparse.Namespace` become mappings, NumPy's scalars numbers and texts, its types their names.
Neither easydict nor NumPy runs, nor need they be installed.
"""

from __future__ import annotations

import collections
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opentar.core.errors import WeightsError, shown
from opentar.core.foreign import refuse_foreign
from opentar.core.foreign_files import AR, TA_TOK, VQGAN, of_file
from opentar.core.pickled_names import path_to

_BLOCK = 16 << 20
_LONGEST_PICKLE = 64 << 20
_REFUSED = re.compile(r"GLOBAL ([\w.]+)|(?:class|function|type|of) <?(?:class|function) '?([\w.]+)")
_NUMBERS = dict(b1="?", i1="b", i2="h", i4="i", i8="q", u1="B", u2="H", u4="I", u8="Q", f2="e", f4="f", f8="d")
"""NumPy's code of a type -> struct's"""
_NAMED = {"b": "bool", "i": "int", "u": "uint", "f": "float"}


class _Namespace(dict[str, Any]):
    """An argparse.Namespace as a mapping."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.update(state)


class _NumpyType(str):
    """A NumPy type as its name, such as float32."""

    code: str
    order: str

    def __new__(cls, code: str, *ignored: object) -> _NumpyType:
        kind = code[:1]
        name = f"{_NAMED[kind]}{8 * int(code[1:])}".replace("bool8", "bool") if code in _NUMBERS else code
        if code not in _NUMBERS and kind != "U":
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype of {code}")
        made = super().__new__(cls, name)
        made.code, made.order = code, "<"
        return made

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _numpy_scalar(kind: _NumpyType, content: bytes) -> bool | int | float | str:
    """A NumPy scalar as a plain value, from its bytes."""
    if kind.code.startswith("U"):
        return content.decode("utf-32-be" if kind.order == ">" else "utf-32-le").rstrip("\0")
    value: bool | int | float = struct.unpack(kind.order + _NUMBERS[kind.code], content)[0]
    return value


_SAFE: list[Any] = [
    (collections.OrderedDict, "easydict.EasyDict"),
    (_Namespace, "argparse.Namespace"),
    (_NumpyType, "numpy.dtype"),
    (_numpy_scalar, "numpy.core.multiarray.scalar"),
    (_numpy_scalar, "numpy._core.multiarray.scalar"),
]
"""What is built in the place of a class or function that a pickle names."""


def read_torch_file(path: Path, what: str, example: str, wanted: str = "") -> Any:
    """The content of a file of torch.save: tensors on the CPU, mapped from the disk where the file allows it.

    Args:
        path: the file.
        what: what it should hold, for error texts ("a VQGAN").
        example: the name such a file is published under.
        wanted: the argument it was given as (core/foreign.py), so that another kind of checkpoint is told as that.

    Raises:
        WeightsError: no such file, something else, damaged, or it holds objects other than tensors and plain values.
    """
    _check_kind(path, what, example, wanted)
    try:
        with torch.serialization.safe_globals(_SAFE):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError as error:
        raise WeightsError(f"there is no file {shown(path)}; give the path of {what} ({example})") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds objects other than tensors and plain values{_refused(path, str(error))}; "
            f"nothing of it was run; give {example}"
        ) from error
    except Exception as error:
        # A malformed pickle or archive fails in a dozen unrelated ways inside torch.
        reason = (str(error).split("\n")[0] or type(error).__name__)[:120]
        raise WeightsError(f"{path} cannot be read ({reason}); download {example} again") from error


def model_of(path: Path, what: str, example: str, wanted: str = "") -> Mapping[str, Any]:
    """The mapping under "model" of a file of torch.save. Raises WeightsError as `read_torch_file`, or without one."""
    blob = read_torch_file(path, what, example, wanted)
    model = blob.get("model") if isinstance(blob, Mapping) else None
    if not isinstance(model, Mapping):
        raise WeightsError(f'{path} is not {what}; a mapping with "model" is expected, as in {example}')
    return model


class Sums:
    """The checksums that an archive of torch.save keeps of its records; mapped tensors are read without a look at them.

    Files of the old form, and those written with the checksums switched off (all zero), have nothing to compare.

    Args:
        path: the file. What is no number (the pickle, the version) is compared at once.

    Raises:
        WeightsError: a record differs, or the list of records is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: set[tuple[int, int]] = set()
        self._seen: set[int] = set()
        if not zipfile.is_zipfile(path):
            return
        try:
            with zipfile.ZipFile(path) as archive:
                records = [record for record in archive.infolist() if record.file_size]
                if not any(record.CRC for record in records):
                    return
                numbers = [record for record in records if "/data/" in record.filename]
                self._known = {(record.file_size, record.CRC) for record in numbers}
                for record in records:
                    if record not in numbers:
                        archive.read(record)
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as error:
            raise WeightsError(f"{path} is damaged ({error}); download it again") from error

    def check(self, name: str, tensor: Tensor) -> None:
        """Raise WeightsError unless the bytes behind `tensor` have the checksum of one of the records; each once."""
        storage = tensor.untyped_storage()
        if not self._known or not storage.nbytes() or storage.data_ptr() in self._seen:
            return
        self._seen.add(storage.data_ptr())
        content = torch.empty(0, dtype=torch.uint8).set_(storage).numpy().data
        found = 0
        for start in range(0, len(content), _BLOCK):
            found = zlib.crc32(content[start : start + _BLOCK], found)
        if (len(content), found) not in self._known:
            raise WeightsError(f"{self.path} is damaged (wrong checksum of {name}); download it again")


def _check_kind(path: Path, what: str, example: str, wanted: str) -> None:
    """Refuse what is no file of torch.save, or is one of another kind, before it is read."""
    if path.is_dir():
        refuse_foreign(path, wanted)
        raise WeightsError(f"{shown(path)} is a folder; give the path of {what} ({example})")
    found = of_file(path)
    known = (TA_TOK, AR, VQGAN)
    if found is None or found.kind in (wanted, "torch") or (not wanted and found.kind in known):
        return
    raise WeightsError(f"{shown(path)} is {found.what}, not {what} ({example}); {found.then}")


def _refused(path: Path, message: str) -> str:
    """ ": NAME at KEYS" of what torch refused, as far as it can be told."""
    found = _REFUSED.search(message)
    if found is None:
        return ""
    name = found[1] or found[2]
    where = path_to(_pickle_of(path), name)
    return f": {name} at {shown(where)}" if where else f": {name}"


def _pickle_of(path: Path) -> bytes:
    """The pickle of a file; in the old form three come before it: a magic number, a version, facts of the system."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                record = next(one for one in archive.infolist() if one.filename.endswith("/data.pkl"))
                return archive.read(record) if record.file_size <= _LONGEST_PICKLE else b""
        with path.open("rb") as file:
            content = file.read(_LONGEST_PICKLE)
    except (OSError, StopIteration, zipfile.BadZipFile, ValueError, NotImplementedError):
        return b""
    for _ in range(3):
        content = content[_end_of_pickle(content) :]
    return content


def _end_of_pickle(content: bytes) -> int:
    try:
        return 1 + next(place for opcode, _, place in pickletools.genops(content) if opcode.name == "STOP" and place)
    except (ValueError, StopIteration):
        return len(content)
