"""How the tensors of a part become bytes: float32, bfloat16, int8 or int4 in safetensors, large parts in several files.

int8 and int4 are as core/quantization.py says. In the storage int8, tensors with fewer than 4,096 elements or one
dimension (norms, biases) stay float32: they cost little and carry much. In a part that is computed quantized, the form
of each tensor is told by name, and so it always is for int4. Integer and boolean tensors are stored exactly in every
storage.

Files are written as the tensors come and mapped when they are read, so that neither way ever holds a model twice.
"""

from __future__ import annotations

import errno
import json
import os
import re
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from opentar.core.errors import ConfigError, WeightsError, nearest, shown
from opentar.core.headers import SCALE
from opentar.core.quantization import HALF_MAX, Packed, Quantized, check_forms, dequantize, quantize
from opentar.core.tensors import each_tensor_of, tensor_alone

STORAGES = ("float32", "bfloat16", "int8", "int4")
SHARD_BYTES = 4_000_000_000
"""A part with more bytes of tensors is cut into files of at most so many (one tensor may be larger)."""
STEM = "model"
"""Name of weights files without their ending."""

State = Mapping[str, Tensor] | Iterable[tuple[str, Tensor | Quantized]]
"""Named tensors, or such as are quantized already.

A mapping that makes each tensor when it is asked for, or a generator, costs one tensor's memory."""
LoadDtype = torch.dtype | Literal["stored", "packed"]
"""Type of loaded floating tensors; "stored": as they lie in the file, mapped instead of read (int8 becomes float32);
"packed": the same, but what its folder says is to be computed quantized stays so (`read_packed`)."""
_DTYPES: dict[str, LoadDtype] = {
    "stored": "stored",
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
_INT8_FROM_ELEMENTS = 4096
_OWN_MAPPING_FROM = 1 << 20
"""Bytes of a tensor that is worth a mapping of its own while it is converted."""


def resolve_dtype(dtype: str | torch.dtype | None) -> LoadDtype:
    """The type to run in: "float32", "bfloat16", "float16" (or fp32, bf16, fp16, a torch.dtype), None for as stored.

    Raises:
        ConfigError: another type.
    """
    if dtype is None:
        return "stored"
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise ConfigError(f"dtype {shown(dtype)} is unknown; use {', '.join(_DTYPES)}.{nearest(name, _DTYPES)}")
    return _DTYPES[name]


def check_storage(storage: str) -> None:
    """Raise ConfigError unless `storage` is one of STORAGES."""
    if storage not in STORAGES:
        raise ConfigError(f"storage {shown(storage)} is unknown; use {_choices()}.{nearest(storage, STORAGES)}")


def write_tensors(
    folder: Path,
    state: State,
    storage: str,
    shard_bytes: int = SHARD_BYTES,
    stem: str = STEM,
    forms: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Write `state` into `folder`; returns, for each tensor left out because it is tied, the name of its twin.

    One file `model.safetensors`, or with more than `shard_bytes` of tensors `model-00001-of-0000N.safetensors` ... and
    `model.safetensors.index.json`, the form of Hugging Face. What is held at a time is the tensors of one file. Equal
    states give equal bytes: the metadata has one key, because safetensors writes several in random order.
    With `forms`, those that it names are stored in that form (float32, bfloat16, or one of quantized weights) and all
    others as float32, whatever `storage` is.

    Raises:
        ConfigError: unknown storage or form, int4 without forms, or a name that storage keeps for itself.
        WeightsError: NaN or infinity.
        OSError: the disk refuses.
    """
    check_storage(storage)
    if storage == "int4" and forms is None:
        raise ConfigError("int4 is the storage of folders that opentar quantize writes; save as float32, then quantize")
    shards = _Shards(folder, shard_bytes, stem)
    first_seen: dict[tuple[object, ...], tuple[str, weakref.ref[Tensor]]] = {}
    tied: dict[str, str] = {}
    for name, tensor in state.items() if isinstance(state, Mapping) else state:
        if isinstance(tensor, Quantized):
            shards.add({name: tensor.values, name + SCALE: tensor.scale})
            continue
        memory = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device)
        # A tensor that is gone may have left its address to this one; an empty one has no memory at all.
        if tensor.numel() and memory in first_seen and first_seen[memory][1]() is not None:
            tied[name] = first_seen[memory][0]
            continue
        first_seen[memory] = name, weakref.ref(tensor)
        form = storage if forms is None else forms.get(name, "float32")
        shards.add(_packed(name, tensor.detach().cpu(), form, named=forms is not None))
        del tensor
    shards.finish()
    return tied


def read_tensors(
    folder: Path,
    storage: str,
    tied: Mapping[str, str],
    dtype: LoadDtype = torch.float32,
    stem: str = STEM,
    exact: tuple[str, ...] = (),
    forms: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """The tensors that `write_tensors` wrote, floating ones as `dtype` says, tied ones again.

    Those whose names begin with one of `exact` are not rounded: where `dtype` is narrower they stay as stored.
    Tensors whose type need not change are mapped: their bytes are read when they are first used, and what is written
    to them never reaches the file. `forms` names tensors that must be quantized, and how.

    Raises:
        WeightsError: missing, malformed or contradicting files.
    """
    assert dtype != "packed", "read_packed is for these"
    stored, files = _stored(folder, storage, stem, forms)
    try:
        state = {
            name: _restored(folder / files[name], name, stored, dtype, exact=name.startswith(exact))
            for name in stored
            if not name.endswith(SCALE)
        }
        return state | {name: state[source] for name, source in tied.items()}
    except (ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise WeightsError(f"{folder} holds weights that do not fit together ({error}); get it again") from error


def read_packed(
    folder: Path, storage: str, tied: Mapping[str, str], forms: Mapping[str, str], exact: tuple[str, ...] = ()
) -> tuple[dict[str, Tensor], dict[str, Packed]]:
    """The tensors of a part that is computed quantized, and those named by `forms` as they lie in their files.

    The first mapping has all of them: the quantized ones without numbers (on the meta device), in the shape that they
    stand for, the others as float32; where their names begin with one of `exact` they stay as stored.

    Raises:
        WeightsError: missing, malformed or contradicting files, or a tensor in another form than `forms` says.
    """
    stored, files = _stored(folder, storage, STEM, forms)
    state: dict[str, Tensor] = {}
    packed: dict[str, Packed] = {}
    for name, tensor in stored.items():
        if name.endswith(SCALE):
            continue
        if name in forms:
            columns = tensor.shape[1] * (2 if tensor.dtype == torch.uint8 else 1)
            packed[name] = Packed(folder / files[name], name, forms[name], (tensor.shape[0], columns))
            state[name] = torch.empty(packed[name].shape, device="meta")
        else:
            keep: torch.dtype | Literal["stored"] = "stored" if name.startswith(exact) else torch.float32
            state[name] = _restored(folder / files[name], name, stored, keep, exact=False)
    try:
        packed |= {name: packed[source] for name, source in tied.items() if source in packed}
        return state | {name: state[source] for name, source in tied.items()}, packed
    except KeyError as error:
        raise WeightsError(f"{folder} ties weights to {error}, which it lacks; get it again") from error


def each_restored(folder: Path, storage: str) -> Iterator[tuple[str, Tensor, bool]]:
    """Every tensor but tied ones: name, numbers in the type they are stored in (int8 as float32), whether it was int8.

    One is mapped or held at a time: each that is let go gives its memory back.

    Raises:
        WeightsError: missing or malformed files.
    """
    stored, _ = _stored(folder, storage, STEM, None)
    for name, tensor in each_tensor(folder):
        if name.endswith(SCALE):
            continue
        scale = stored.get(name + SCALE)
        yield name, tensor if scale is None else dequantize(tensor, scale), scale is not None


class _Shards:
    """Collects tensors and writes a file whenever the next one would make it too large."""

    def __init__(self, folder: Path, limit: int, stem: str) -> None:
        self.folder, self.limit, self.stem = folder, limit, stem
        self.held: dict[str, Tensor] = {}
        self.held_bytes = 0
        self.written: list[tuple[str, ...]] = []
        self.total_bytes = 0

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what belongs into one file together."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self.held and self.held_bytes + size > self.limit:
            self._write()
        self.held.update(tensors)
        self.held_bytes += size
        self.total_bytes += size

    def finish(self) -> None:
        """Write the rest and give the files their names, now that their number is known."""
        if self.held or not self.written:
            self._write()
        count = len(self.written)
        if count == 1:
            self._unnamed(1).rename(self.folder / f"{self.stem}.safetensors")
            return
        places: dict[str, str] = {}
        for number, names in enumerate(self.written, 1):
            file = f"{self.stem}-{number:05d}-of-{count:05d}.safetensors"
            self._unnamed(number).rename(self.folder / file)
            places |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": self.total_bytes}, "weight_map": dict(sorted(places.items()))}
        (self.folder / _index(self.stem)).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _write(self) -> None:
        self.written.append(tuple(self.held))
        path = self._unnamed(len(self.written))
        # Some versions of the library leave a file that only its owner may read; it shall be as any new file is.
        path.touch()
        mode = path.stat().st_mode
        try:
            save_file(self.held, path, metadata={"format": "pt"})
            path.chmod(mode)
        except SafetensorError as error:
            # The library tells a full disk in its own words; the number of the system's error is in them.
            code = re.search(r"(?:os error|code:) (\d+)", str(error))
            reason = os.strerror(int(code[1])) if code else "the weights could not be written"
            raise OSError(int(code[1]) if code else errno.EIO, reason) from error
        self.held, self.held_bytes = {}, 0

    def _unnamed(self, number: int) -> Path:
        return self.folder / f"{self.stem}-{number:05d}.safetensors"


def _index(stem: str) -> str:
    return f"{stem}.safetensors.index.json"


def stored_dtype(folder: Path, stem: str = STEM) -> torch.dtype:
    """The type to compute in for weights that run as they are stored: bfloat16 where all numbers are, else float32.

    Raises:
        WeightsError: missing or malformed files.
    """
    kinds = {tensor.dtype for tensor in _mapped(folder, stem).values() if tensor.is_floating_point()}
    return torch.bfloat16 if kinds == {torch.bfloat16} else torch.float32


def each_tensor(folder: Path, stem: str = STEM) -> Iterator[tuple[str, Tensor]]:
    """Every tensor as it lies in the files, each in a mapping of its own: one that is let go gives its memory back.

    For numbers that are converted while they are read; the others are mapped at once by `read_tensors`.

    Raises:
        WeightsError: missing or malformed files.
    """
    places = _places(folder, stem)
    for file in [f"{stem}.safetensors"] if places is None else sorted(set(places.values())):
        yield from each_tensor_of(folder / file)


def _stored(
    folder: Path, storage: str, stem: str, forms: Mapping[str, str] | None
) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """All tensors as they lie in the files, mapped, and the file of each; what is quantized is looked at."""
    where = folder / f"{stem}.safetensors"
    if storage not in STORAGES:
        raise WeightsError(f"{where} is stored as {shown(storage)}; this version reads {_choices()}: update OpenTar")
    stored = _mapped(folder, stem)
    check_forms(stored, forms or {}, where)
    return stored, _places(folder, stem) or dict.fromkeys(stored, f"{stem}.safetensors")


def _mapped(folder: Path, stem: str) -> dict[str, Tensor]:
    """All tensors of the one file or of the several, as they lie there."""
    places = _places(folder, stem)
    stored: dict[str, Tensor] = {}
    for file in [f"{stem}.safetensors"] if places is None else sorted(set(places.values())):
        path = folder / file
        try:
            with safe_open(path, framework="pt") as content:
                found = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
            raise WeightsError(f"{path} is not a readable weights file ({error}); get it again") from error
        if places is not None and set(found) != {name for name, place in places.items() if place == file}:
            raise WeightsError(f"{path} holds other tensors than {_index(stem)} says; get the folder again")
        stored |= found
    return stored


def _places(folder: Path, stem: str) -> dict[str, str] | None:
    """Tensor -> file, or None where one file holds all."""
    path = folder / _index(stem)
    if not path.is_file():
        return None
    try:
        places = json.loads(path.read_bytes())["weight_map"]
        files = set(places.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path} has no weight_map; get the folder again") from error
    for file in files:
        if not isinstance(file, str) or not re.fullmatch(r"[\w.-]+\.safetensors", file, re.ASCII):
            raise WeightsError(f"{path} names {shown(file)}; only safetensors files beside it are read")
    return places


def _packed(name: str, tensor: Tensor, form: str, *, named: bool) -> dict[str, Tensor]:
    """The one or two stored tensors of `tensor`; always fresh memory, because safetensors refuses shared views.

    `named` says that the form was chosen for this tensor; else it is that of the storage, for large ones.
    """
    if name.endswith(SCALE):
        raise ConfigError(f"tensor name {shown(name)} ends with {SCALE!r}, which storage keeps for itself; rename it")
    if not tensor.is_floating_point():
        return {name: tensor.clone(memory_format=torch.contiguous_format)}
    if not _is_finite(tensor):
        raise WeightsError(f"tensor {name} holds NaN or infinity; nothing was saved, go back to an earlier checkpoint")
    large = tensor.ndim >= 2 and tensor.numel() >= _INT8_FROM_ELEMENTS
    if form not in ("float32", "bfloat16") and (named or large):
        if _fits_scales(tensor, form):
            values, scale = quantize(tensor, form)
            return {name: values, name + SCALE: scale}
        if named:
            raise WeightsError(f"tensor {name} holds numbers too large for {form}; leave it out or rescale it")
    dtype = torch.bfloat16 if form == "bfloat16" else torch.float32
    packed = torch.empty(tensor.shape, dtype=dtype).copy_(tensor)
    if not _is_finite(packed):
        raise WeightsError(f"tensor {name} holds numbers too large for {dtype}; nothing was saved")
    return {name: packed}


def _fits_scales(tensor: Tensor, form: str) -> bool:
    """Whether float16 can hold its scales, and with 4 bits the middle of a group, which may be as large as a number."""
    lowest, highest = torch.aminmax(tensor)
    return bool(torch.maximum(-lowest, highest) / (127 if form == "int8" else 1) < HALF_MAX)


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.numel():
        return True
    # Both pass NaN on, and unlike isfinite they need no memory beside the tensor.
    lowest, highest = torch.aminmax(tensor)
    return bool(torch.isfinite(lowest) and torch.isfinite(highest))


def _restored(
    path: Path, name: str, stored: Mapping[str, Tensor], dtype: torch.dtype | Literal["stored"], *, exact: bool
) -> Tensor:
    tensor, scale = stored[name], stored.get(name + SCALE)
    if exact and dtype != "stored" and dtype.itemsize < (torch.float32 if scale is not None else tensor.dtype).itemsize:
        dtype = "stored"
    changes = scale is not None or (dtype != "stored" and tensor.is_floating_point() and tensor.dtype != dtype)
    if changes and tensor.nbytes >= _OWN_MAPPING_FROM:
        # What is read of the common mapping counts as memory until all of it is let go.
        tensor = tensor_alone(path, name)
    if scale is not None:
        tensor = dequantize(tensor, scale)
    if not tensor.is_floating_point():
        return tensor
    if dtype == "stored":
        # float16 of other programs overflows where nothing is done about it (nn/half.py); float32 holds every one.
        return tensor.float() if tensor.dtype == torch.float16 else tensor
    return tensor.to(dtype)


def _choices() -> str:
    return ", ".join(STORAGES)
