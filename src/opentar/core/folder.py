"""Checkpoint folders: config.json + model.safetensors (or several, and their index) [+ extra files] + manifest.json.

A folder is complete or it is not there: everything is written into a hidden neighbour, flushed to the disk, the
manifest (size and sha256 of every file) last, and then the neighbour is renamed. No pickles, no remote code.
How tensors are stored (float32, bfloat16, int8) is `core/storage.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from opentar.core.errors import ConfigError, OutputError, WeightsError, shown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from opentar.core.storage import LoadDtype, State

    ModuleT = TypeVar("ModuleT", bound=nn.Module)

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"
_OUR_KEYS = ("storage", "tied_tensors")
_MANIFEST_FORMAT = 1
_PARTIAL, _PREVIOUS = ".partial", ".previous"
_HASHERS = min(4, os.cpu_count() or 1)


def save_part(
    folder: Path,
    config: Mapping[str, Any],
    state: State,
    storage: str = "float32",
    extra: Mapping[str, bytes] | None = None,
    shard_bytes: int | None = None,
) -> None:
    """Write one part of a model (or a checkpoint) as a complete folder; an older part of that name is replaced.

    Args:
        folder: where the part shall stand; its parent is made when it is missing.
        config: plain values; the keys "storage" and "tied_tensors" are ours and are added here.
        state: tensors of any dtype by name, or pairs of both; each is asked for once, in order, and let go when its
            file is written. Floating ones are stored as `storage` says, others exactly. Tensors that share one memory
            (tied weights) are stored once, if the state keeps them all alive.
        storage: "float32", "bfloat16" or "int8".
        extra: more files by name (tokenizer.json, ...).
        shard_bytes: most bytes of tensors in one file; None is 4 GB.

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
    with atomic_folder(folder) as stage:
        tied = write_tensors(stage, state, storage, SHARD_BYTES if shard_bytes is None else shard_bytes)
        ours = {"storage": storage} | ({"tied_tensors": tied} if tied else {})
        for name, content in {CONFIG: _json_bytes({**config, **ours}), **(extra or {})}.items():
            _inside(stage, name).parent.mkdir(parents=True, exist_ok=True)
            _inside(stage, name).write_bytes(content)


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
    verify(folder)
    config = read_config(folder)
    storage, tied = config.pop("storage", None), config.pop("tied_tensors", {})
    if not isinstance(storage, str) or not isinstance(tied, dict):
        raise WeightsError(f"{folder / CONFIG} does not say how its tensors are stored; save the part again")
    return config, read_tensors(folder, storage, tied, torch.float32 if dtype is None else dtype, exact=exact)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder as it stands, without loading any tensor. Raises WeightsError."""
    return _read_json(standing(folder) / CONFIG)


def standing(folder: Path) -> Path:
    """Where the content of `folder` stands: in `folder`, or in the older one that a save is just putting aside.

    A save that replaces a folder renames twice; between the two (for good, when it was killed there) only the older
    content stands, beside its place. Readers take it from there and rename nothing, which would be in the writer's
    way; the next save gives it its name back.

    Raises:
        WeightsError: there is neither.
    """
    folder = Path(folder)
    for place in (folder, _previous(folder)):
        if place.is_dir():
            return place
    # The new one may have come between the two looks.
    if folder.is_dir():
        return folder
    raise WeightsError(f"there is no folder {shown(folder)}; give a folder that OpenTar saved")


def strict_load(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Copy `state` into `module`; every name and shape must fit, else WeightsError with a readable difference."""
    _check_fit(module, state, where)
    module.load_state_dict(state, strict=True)


def assemble(build: Callable[[], ModuleT], state: Mapping[str, Tensor], where: str) -> ModuleT:
    """The module that `build` makes, with `state` as its weights, in eval mode.

    It is built without memory and takes the tensors over, in their type and without a copy, so that mapped ones stay
    mapped. Only tensors that the module wants in another memory order (channels last) are copied.

    Args:
        build: makes the module; all it computes at its start must come from the state, or be computed later.
        state: every parameter and persistent buffer.
        where: the place named in errors.

    Raises:
        WeightsError: a name or a shape does not fit.
    """
    import torch

    from opentar.core.bounds import bounded_by

    with torch.device("meta"), bounded_by([tensor.numel() for tensor in state.values()], where):
        module = build()
    _check_fit(module, state, where)
    own = module.state_dict()
    ordered = {name: _in_order_of(own[name], tensor) for name, tensor in state.items()}
    module.load_state_dict(ordered, strict=True, assign=True)
    empty = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
    assert not empty, f"{type(module).__name__} computes {empty[0]} when it is built: it cannot be assembled"
    return module.eval()


def _in_order_of(own: Tensor, given: Tensor) -> Tensor:
    """`given`, or a copy of it where `own` orders its memory in another way."""
    if given.stride() == own.stride():
        return given
    import torch

    return torch.empty_strided(own.shape, own.stride(), dtype=given.dtype).copy_(given)


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


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty hidden neighbour of `folder`; when the block ends well it becomes `folder`, else it vanishes.

    The manifest covers every file below, so a model folder may hold parts written by `save_part`. A folder that
    already stands there is replaced only when it is empty or has a manifest of ours; files in it that the manifest
    does not name (a picture, notes, a model card) are somebody else's and stay, outside of the new manifest as well.

    Raises:
        OutputError: `folder` holds something else, a file of somebody else's has the name of a new one, or the disk
            refuses.
    """
    folder = Path(folder)
    # One fixed name: what a killed save left behind is swept away by the next one.
    stage = folder.with_name(f".{folder.name}{_PARTIAL}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _recover(folder)
        _check_replaceable(folder)
        _check_own(folder)
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
        yield stage
        _write_manifest(stage)
        _carry_over(folder, stage)
        _swap(stage, folder)
    except OSError as error:
        reason = error.strerror or "it failed"
        raise OutputError(f"cannot write {shown(folder)}: {reason}; choose another folder or free the disk") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def verify(folder: Path, *, deep: bool = True, parts: bool = True) -> None:
    """Compare every file with the manifest; WeightsError names the first that is missing, cut short or changed.

    Args:
        folder: a part or a whole model.
        deep: False leaves the files of parts inside to the manifests of these, which are compared here: whoever loads
            such a part verifies it then, and nothing is hashed twice.
        parts: False leaves those manifests out as well, so that a part may be saved again where it stands.
    """
    folder = standing(folder)
    files = _manifest(folder)
    if not deep:
        own = [PurePosixPath(name).parent for name in files if PurePosixPath(name).name == MANIFEST]
        files = {
            name: entry
            for name, entry in files.items()
            if (parts and PurePosixPath(name).name == MANIFEST)
            or not any(part in PurePosixPath(name).parents for part in own)
        }
    paths = {name: _inside(folder, name) for name in files}
    for name, path in paths.items():
        if not path.is_file():
            _damaged(path, "is missing")
        if path.stat().st_size != files[name]["bytes"]:
            _damaged(path, f"has {path.stat().st_size} bytes instead of {files[name]['bytes']}")
    for (name, path), found in zip(paths.items(), _hashes(paths.values()), strict=True):
        if found != files[name]["sha256"]:
            _damaged(path, "has changed since it was saved (wrong sha256)")


def folder_hash(folder: Path) -> str:
    """Twelve hex digits that name the content of a folder: the same files give the same hash everywhere."""
    files = _manifest(standing(folder))
    text = "\n".join(f"{name} {files[name]['sha256']}" for name in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def saved_files(folder: Path) -> list[str]:
    """Names of the files that were saved in a folder, the manifest among them, sorted. Raises WeightsError."""
    return sorted({MANIFEST, *_manifest(standing(folder))})


def _swap(stage: Path, folder: Path) -> None:
    """Put `stage` in the place of `folder`. Killed at any point, either the old or the new one can be found."""
    previous = _previous(folder)
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    try:
        stage.rename(folder)
    except OSError:
        _recover(folder)
        raise
    _sync(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _recover(folder: Path) -> None:
    """A kill between the two renames of `_swap` leaves only the previous folder: give it its name back.

    For writers only: a reader that did this between the renames of a living writer would make its second one fail.
    """
    if not folder.exists() and _previous(folder).is_dir():
        _previous(folder).rename(folder)


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}{_PREVIOUS}")


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{shown(folder)} is a file; a folder is written here, so choose another name")
    if any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise OutputError(f"{shown(folder)} holds files that are not OpenTar's; choose a new or an empty folder")


def _check_own(folder: Path) -> None:
    """Refuse a manifest.json of another program; one that is no JSON is ours, broken off while written."""
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(content, dict) or "files" not in content:
        raise OutputError(f"{shown(folder)} has a {MANIFEST} that is not OpenTar's; choose a new or an empty folder")


def _carry_over(folder: Path, stage: Path) -> None:
    """Give `stage` the files of `folder` that its manifest does not name."""
    for name in _strangers(folder):
        source, target = folder.joinpath(*name.parts), stage.joinpath(*name.parts)
        if target.exists():
            raise OutputError(
                f"{shown(folder)} holds {shown(str(name))}, which is not OpenTar's and would be lost; move it away"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target, follow_symlinks=False)
        except (OSError, NotImplementedError):
            shutil.copy2(source, target, follow_symlinks=False)


def _strangers(folder: Path) -> list[PurePosixPath]:
    """Files below `folder` that no manifest in it names; none where nobody can tell."""
    if not (folder / MANIFEST).is_file():
        return []
    try:
        known = set(saved_files(folder))
    except WeightsError:
        # Such a folder was never whole: it is the broken checkpoint that is being written again.
        return []
    # A part that was saved again by itself has files that the outer manifest does not know.
    for place in [PurePosixPath(name).parent for name in known if PurePosixPath(name).name == MANIFEST]:
        with suppress(WeightsError):
            known |= {(place / name).as_posix() for name in _manifest(folder.joinpath(*place.parts))}
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    names = [PurePosixPath(path.as_posix()) for path in paths]
    return [name for name in names if name.as_posix() not in known and not any(map(_is_leftover, name.parts[:-1]))]


def _is_leftover(name: str) -> bool:
    """Whether a killed save left a folder of that name."""
    return name.startswith(".") and name.endswith((_PARTIAL, _PREVIOUS))


def _write_manifest(stage: Path) -> None:
    paths = []
    for path in sorted(stage.rglob("*")):
        if path.is_file():
            paths.append(path)
            _sync(path)
        elif os.name != "nt":
            _sync(path)
    files = {
        path.relative_to(stage).as_posix(): {"bytes": path.stat().st_size, "sha256": found}
        for path, found in zip(paths, _hashes(paths), strict=True)
    }
    (stage / MANIFEST).write_bytes(_json_bytes({"format": _MANIFEST_FORMAT, "files": files}))
    _sync(stage / MANIFEST)
    _sync(stage)


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    if not path.is_file():
        raise WeightsError(
            f"{shown(folder)} has no {MANIFEST}, so it is not a finished OpenTar folder; give one that was saved whole"
        )
    files = _read_json(path).get("files")
    well_formed = isinstance(files, dict) and all(
        _plain_name(name)
        and isinstance(entry, dict)
        and isinstance(entry.get("bytes"), int)
        and isinstance(entry.get("sha256"), str)
        for name, entry in files.items()
    )
    if not isinstance(files, dict) or not well_formed:
        _damaged(path, "is not a list of files")
    return files


def _plain_name(name: str) -> bool:
    """False for names that leave the folder; manifests and names of extra files may come from strangers."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and not any(mark in name for mark in "\\:\0")


def _inside(folder: Path, name: str) -> Path:
    if not _plain_name(name):
        raise ConfigError(f"{shown(name)} is not a plain file name inside {shown(folder.name)}; rename the file")
    return folder.joinpath(*PurePosixPath(name).parts)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        _damaged(path, "is missing")
    except (OSError, ValueError, RecursionError):
        _damaged(path, "cannot be read as JSON")
    if not isinstance(content, dict):
        _damaged(path, "is not a mapping")
    return content


def _json_bytes(content: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a config must be plain JSON values: {error}; use to_dict()") from error


def _damaged(path: Path, what: str) -> NoReturn:
    raise WeightsError(f"{shown(path)} {what}; get this folder again, or use another one")


def _hashes(paths: Iterable[Path]) -> list[str]:
    """sha256 of each file. Hashing lets other threads run, so large files are hashed side by side."""
    with ThreadPoolExecutor(_HASHERS) as pool:
        return list(pool.map(_sha256, paths))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk; Windows cannot open folders and does not need it."""
    if path.is_dir() and os.name == "nt":
        return
    # Windows flushes only handles opened for writing.
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
