"""Checkpoint folders: config.json + model.safetensors (or several, and their index) [+ extra files] + manifest.json.

Parts of a model are saved and loaded here. How a folder is written whole or not at all is `core/atomic.py`, what its
manifest says and how files are compared with it `core/manifest.py`, how tensors are stored (float32, bfloat16, int8,
int4) `core/storage.py`. No pickles, no remote code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from opentar.core.atomic import atomic_folder
from opentar.core.errors import ConfigError, WeightsError, shown
from opentar.core.manifest import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    changed_parts,
    folder_hash,
    plain_name,
    read_json,
    read_listed,
    saved_files,
    standing,
    verify,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from opentar.core.quantization import Packed
    from opentar.core.storage import LoadDtype, State

    ModuleT = TypeVar("ModuleT", bound=nn.Module)

__all__ = [
    "CONFIG",
    "MANIFEST",
    "WEIGHTS",
    "assemble",
    "atomic_folder",
    "changed_parts",
    "folder_hash",
    "is_quantized",
    "load_packed",
    "load_part",
    "read_config",
    "read_listed",
    "save_part",
    "saved_files",
    "standing",
    "strict_load",
    "verify",
]
_QUANTIZED = "quantized"
"""Key of a part's config: tensor -> form of those that are computed quantized."""
_OUR_KEYS = ("storage", "tied_tensors", _QUANTIZED)


def save_part(
    folder: Path,
    config: Mapping[str, Any],
    state: State,
    storage: str = "float32",
    extra: Mapping[str, bytes] | None = None,
    shard_bytes: int | None = None,
    forms: Mapping[str, str] | None = None,
    quantized: Collection[str] = (),
) -> None:
    """Write one part of a model (or a checkpoint) as a complete folder; an older part of that name is replaced.

    Args:
        folder: where the part shall stand; its parent is made when it is missing.
        config: plain values; the keys "storage", "tied_tensors" and "quantized" are ours and are added here.
        state: tensors of any dtype by name, or pairs of both; each is asked for once, in order, and let go when its
            file is written. Floating ones are stored as `storage` says, others exactly. Tensors that share one memory
            (tied weights) are stored once, if the state keeps them all alive.
        storage: "float32", "bfloat16", "int8", or with `forms` "int4".
        extra: more files by name (tokenizer.json, ...).
        shard_bytes: most bytes of tensors in one file; None is 4 GB.
        forms: how single tensors are stored, as `write_tensors` says.
        quantized: names in `forms` of those that shall be computed as they are stored.

    Raises:
        OutputError: the folder holds something else, or the disk refuses.
        ConfigError: unknown storage, a file name that leaves the folder, or a config that JSON cannot hold.
        WeightsError: a tensor holds NaN or infinity; such weights are never written.
    """
    from opentar.core.storage import SHARD_BYTES, check_storage, write_tensors

    check_storage(storage)
    for key in _OUR_KEYS:
        if key in config:
            raise ConfigError(f"the key {key!r} of a part's config is written by save_part; leave it out")
    if set(extra or {}) & {CONFIG, WEIGHTS, MANIFEST}:
        raise ConfigError(f"extra files must not be called {CONFIG}, {WEIGHTS} or {MANIFEST}; choose other names")
    # Before the weights, which may take minutes to write.
    _json_bytes(config)
    with atomic_folder(folder) as unfinished:
        tied = write_tensors(
            unfinished, state, storage, SHARD_BYTES if shard_bytes is None else shard_bytes, forms=forms
        )
        ours: dict[str, Any] = {"storage": storage} | ({"tied_tensors": tied} if tied else {})
        if quantized:
            ours[_QUANTIZED] = {name: (forms or {})[name] for name in quantized}
        for name, content in {CONFIG: _json_bytes({**config, **ours}), **(extra or {})}.items():
            _inside(unfinished, name).parent.mkdir(parents=True, exist_ok=True)
            _inside(unfinished, name).write_bytes(content)


def load_part(
    folder: Path, dtype: LoadDtype | None = None, exact: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors that were given to `save_part`, every file verified.

    Args:
        folder: the part.
        dtype: of floating tensors: None is float32; "stored" leaves them as they lie in the file, and maps them
            instead of reading them (int8 becomes float32).
        exact: beginnings of names that are never rounded; they stay as stored where `dtype` is narrower.

    Raises:
        WeightsError: no such folder, or a file is missing, cut short, changed or not of the stated storage.
    """
    import torch

    from opentar.core.storage import read_tensors

    folder = standing(folder)
    verify(folder, remember=True)
    config, how = _storage_of(folder)
    kind = torch.float32 if dtype is None else dtype
    return config, read_tensors(folder, how.storage, how.tied, kind, exact=exact, forms=how.forms)


def load_packed(
    folder: Path, exact: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Packed]]:
    """Config, tensors and quantized tensors of a part that is computed quantized, every file verified.

    `core.storage.read_packed` says what they hold. Raises WeightsError, also for a part that is not quantized.
    """
    from opentar.core.storage import read_packed

    folder = standing(folder)
    verify(folder, remember=True)
    config, how = _storage_of(folder)
    if not how.forms:
        raise WeightsError(f"{folder} is not quantized; make a quantized model with opentar quantize")
    return config, *read_packed(folder, how.storage, how.tied, how.forms, exact)


def is_quantized(folder: Path) -> bool:
    """Whether the part in a folder, or one in a folder below it, says that it is computed quantized.

    Raises:
        WeightsError: no such folder.
    """
    inner = sorted(path.parent for path in standing(folder).glob(f"*/{CONFIG}"))
    return any(bool(read_config(place).get(_QUANTIZED)) for place in (folder, *inner))


def packed_tensors(folder: Path) -> set[str]:
    """Names of the tensors of a part that are computed quantized; empty for a part that is not."""
    found = read_config(folder).get(_QUANTIZED) if (folder / CONFIG).is_file() else None
    return set(found) if isinstance(found, dict) else set()


class _Storage(NamedTuple):
    storage: str
    tied: dict[str, str]
    forms: dict[str, str]


def _storage_of(folder: Path) -> tuple[dict[str, Any], _Storage]:
    """The config of a part without our keys, and what these say. Raises WeightsError."""
    config = read_config(folder)
    storage, tied, forms = config.pop("storage", None), config.pop("tied_tensors", {}), config.pop(_QUANTIZED, {})
    if not isinstance(storage, str) or not isinstance(tied, dict):
        raise WeightsError(f"{folder / CONFIG} does not say how its tensors are stored; save the part again")
    if not isinstance(forms, dict):
        raise WeightsError(f"{folder / CONFIG} does not say which tensors are quantized; get the folder again")
    return config, _Storage(storage, tied, forms)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder as it stands, without loading any tensor. Raises WeightsError."""
    return read_json(standing(folder) / CONFIG)


def strict_load(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Copy `state` into `module`; every name and shape must fit, else WeightsError with a readable difference."""
    _check_fit(module, state, where)
    module.load_state_dict(state, strict=True)


def assemble(
    build: Callable[[], ModuleT],
    state: Mapping[str, Tensor],
    where: str,
    finish: Callable[[ModuleT], None] | None = None,
) -> ModuleT:
    """The module that `build` makes, with `state` as its weights, in eval mode.

    It is built without memory and takes the tensors over, in their type and without a copy, so that mapped ones stay
    mapped. Only tensors that the module wants in another memory order (channels last) are copied.

    Args:
        build: makes the module; all it computes at its start must come from the state, or be computed later.
        state: every parameter and persistent buffer.
        where: the place named in errors.
        finish: called with the module when it has its weights, to change what the state gives no numbers for.

    Raises:
        WeightsError: a name or a shape does not fit.
    """
    from opentar.core.blank import blank
    from opentar.core.bounds import bounded_by

    with blank(), bounded_by([tensor.numel() for tensor in state.values()], where):
        module = build()
    _check_fit(module, state, where)
    own = module.state_dict()
    ordered = {name: _in_order_of(own[name], tensor) for name, tensor in state.items()}
    module.load_state_dict(ordered, strict=True, assign=True)
    if finish is not None:
        finish(module)
    empty = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
    assert not empty, f"{type(module).__name__} computes {empty[0]} when it is built: it cannot be assembled"
    return module.eval()


def _in_order_of(own: Tensor, given: Tensor) -> Tensor:
    """`given`, or a copy of it where `own` orders its memory in another way."""
    if given.stride() == own.stride():
        return given
    import torch

    return torch.empty_strided(own.shape, own.stride(), dtype=given.dtype, device=given.device).copy_(given)


def _check_fit(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    shapes = [
        f"{name} {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    groups = (("missing", missing), ("not known here", unknown), ("of another shape", shapes))
    parts = [f"{len(names)} {kind}: {_some(names)}" for kind, names in groups if names]
    if parts:
        raise WeightsError(
            f"the weights of {where} do not fit {type(module).__name__}: {'; '.join(parts)}. "
            "Use the config they were saved with."
        )


def _inside(folder: Path, name: str) -> Path:
    if not plain_name(name):
        raise ConfigError(f"{shown(name)} is not a plain file name inside {shown(folder.name)}; rename the file")
    return folder.joinpath(*PurePosixPath(name).parts)


def _json_bytes(content: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a config must be plain JSON values: {error}; use to_dict()") from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
