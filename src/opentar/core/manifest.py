"""What a saved folder holds: manifest.json names every file with its size and sha256, and only named files are read.

A folder may hold parts, each with a manifest of its own. Inside a part its own manifest decides; the outer one knows
the part as it was when the whole was put together. This finds damage and mix-ups. Whoever rewrites files and manifests
alike is found only by a hash that was written down elsewhere (`opentar verify --hash`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NoReturn

from opentar.core import remembered
from opentar.core.errors import WeightsError, shown
from opentar.core.headers import check_header

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"
PARTIAL, PREVIOUS = ".partial", ".previous"
_HASHERS = min(4, os.cpu_count() or 1)
_INDEX = "model_index.json"
_READ = re.compile(
    r".*\.safetensors(\.index\.json)?|(config|model_index|scheduler_config|tokenizer|manifest)\.json|words\.txt"
    r"|negative_prompt_embeds\.pth|model\.gguf"
)
"""Names that some loader opens: beside the files of a part, one that no manifest names is refused."""

Files = dict[str, dict[str, Any]]
"""Name below the folder -> {"bytes": size, "sha256": digits}."""


class Contents(NamedTuple):
    """What stands in a folder and the parts inside it."""

    files: Files
    """Own files, and those of each part as the part's own manifest names them; manifests of parts among them."""
    changed: tuple[str, ...]
    """Parts whose manifest is not the one that the whole was put together with: they were saved again since."""


def standing(folder: Path) -> Path:
    """Where the content of `folder` stands: in `folder`, or in the older one that a save is just putting aside.

    A save that replaces a folder renames twice; between the two (for good, when it was killed there) only the older
    content stands, beside its place. Readers take it from there and rename nothing, which would be in the writer's
    way; the next save gives it its name back.

    Raises:
        WeightsError: there is neither.
    """
    folder = Path(folder)
    for place in (folder, previous(followed(folder))):
        if place.is_dir():
            return place
    # The new one may have come between the two looks.
    if folder.is_dir():
        return folder
    raise WeightsError(f"there is no folder {shown(folder)}; give a folder that OpenTar saved")


def followed(folder: Path) -> Path:
    """What a symbolic link points to, whether it is there or not, and the true name of `.`; other paths as they are.

    Raises OSError.
    """
    return Path(os.path.realpath(folder)) if folder.is_symlink() or folder.name in ("", "..") else folder


def previous(folder: Path) -> Path:
    """The place beside `folder` where a save puts its older content aside."""
    folder = folder if folder.name not in ("", "..") else followed(folder)
    return folder.with_name(f".{folder.name}{PREVIOUS}")


def contents(folder: Path) -> Contents:
    """Every file of a folder and of the parts inside it. Raises WeightsError for a missing or damaged manifest."""
    folder = standing(folder)
    outer = read_manifest(folder)
    files, changed = dict(outer), []
    for place in parts_of(outer):
        inner = folder.joinpath(*PurePosixPath(place).parts)
        inner = previous(inner) if previous(inner).is_dir() and not inner.is_dir() else inner
        entry = _entry(inner / MANIFEST)
        found = contents(inner)
        files = {name: one for name, one in files.items() if not name.startswith(f"{place}/")}
        files |= {f"{place}/{name}": one for name, one in found.files.items()}
        files[f"{place}/{MANIFEST}"] = entry
        if entry["sha256"] != outer[f"{place}/{MANIFEST}"]["sha256"]:
            changed.append(place)
        changed += [f"{place}/{one}" for one in found.changed]
    return Contents(files, tuple(changed))


def verify(folder: Path, *, deep: bool = True, parts: bool = True, remember: bool = False) -> None:
    """Compare every file with the manifest; WeightsError names the first that is missing, cut short or changed.

    Files that lie outside of the folder by a symbolic link are refused, and so are files that a loader would read
    though no manifest names them. Files of others (notes, pictures) are let be.

    Args:
        folder: a part or a whole model.
        deep: False leaves the files of parts inside to the manifests of these, which are compared here: whoever loads
            such a part verifies it then, and nothing is hashed twice.
        parts: False lets parts inside be other ones than the whole was put together with; see `contents`.
        remember: large files that were hashed before and have not been touched since are not hashed again
            (core/remembered.py); their sizes and headers are compared all the same.
    """
    folder = standing(folder)
    outer = read_manifest(folder)
    found = contents(folder)
    if parts and found.changed:
        _damaged(folder / found.changed[0] / MANIFEST, "has changed since it was saved (wrong sha256)")
    inner = parts_of(outer)
    files = found.files
    if not deep:
        files = {name: one for name, one in files.items() if not any(name.startswith(f"{part}/") for part in inner)}
    _check_unlisted(folder, files, inner, deep=deep)
    _check_links(folder, [*files, *(f"{part}/{MANIFEST}" for part in inner)])
    _compare(folder, files, remember=remember)


def read_listed(folder: Path, name: str) -> bytes | None:
    """The verified bytes of a small file of a part, or None where the part has none.

    Raises:
        WeightsError: the file is damaged, or it is there and the manifest does not name it.
    """
    folder = standing(folder)
    files = read_manifest(folder)
    if name not in files:
        if (folder / name).exists():
            _unlisted(folder / name)
        return None
    _check_links(folder, [name])
    _compare(folder, {name: files[name]}, remember=False)
    return (folder / name).read_bytes()


def folder_hash(folder: Path) -> str:
    """Twelve hex digits that name the content of a folder: the same files give the same hash everywhere.

    A part inside that was saved again by itself gives another hash.
    """
    files = contents(folder).files
    text = "\n".join(f"{name} {files[name]['sha256']}" for name in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def changed_parts(folder: Path) -> tuple[str, ...]:
    """Parts that were saved again, or came from elsewhere, since the whole was put together. Raises WeightsError."""
    return contents(folder).changed


def saved_files(folder: Path) -> list[str]:
    """Names of the files of a folder and of the parts inside it, manifests among them, sorted. Raises WeightsError."""
    return sorted({MANIFEST, *contents(folder).files})


def read_manifest(folder: Path) -> Files:
    """The files that the manifest of `folder` names. Raises WeightsError where it is missing or damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        raise WeightsError(
            f"{shown(folder)} has no {MANIFEST}, so it is not a finished OpenTar folder; give one that was saved whole"
        )
    files = read_json(path).get("files")
    well_formed = isinstance(files, dict) and all(
        plain_name(name)
        and isinstance(entry, dict)
        and isinstance(entry.get("bytes"), int)
        and isinstance(entry.get("sha256"), str)
        for name, entry in files.items()
    )
    if not isinstance(files, dict) or not well_formed:
        _damaged(path, "is not a list of files")
    return files


def manifest_of(folder: Path) -> Files:
    """What a manifest of an unfinished folder has to name: what the parts inside name themselves, and all else."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in paths]
    for place in parts_of(names):
        own = {f"{place}/{name}" for name in saved_files(folder.joinpath(*PurePosixPath(place).parts))}
        names = [name for name in names if name in own or not name.startswith(f"{place}/")]
    found = _hashes(folder / name for name in names)
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": one} for name, one in zip(names, found, strict=True)
    }


def plain_name(name: str) -> bool:
    """False for names that leave the folder; manifests and names of extra files may come from strangers."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and not any(mark in name for mark in "\\:\0")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON mapping. Raises WeightsError."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        _damaged(path, "is missing")
    except (OSError, ValueError, RecursionError):
        _damaged(path, "cannot be read as JSON")
    if not isinstance(content, dict):
        _damaged(path, "is not a mapping")
    return content


def is_read(name: str) -> bool:
    """Whether some loader opens files called `name`, on file systems that know no capitals too."""
    return _READ.fullmatch(name.lower()) is not None


def parts_of(names: Iterable[str]) -> list[str]:
    """The outermost folders among `names` that have manifests of their own."""
    places = sorted(
        PurePosixPath(name).parent.as_posix() for name in names if PurePosixPath(name).name == MANIFEST and "/" in name
    )
    return [place for place in places if not any(place.startswith(f"{other}/") for other in places)]


def _entry(path: Path) -> dict[str, Any]:
    if not path.is_file():
        _damaged(path, "is missing")
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _check_unlisted(folder: Path, files: Mapping[str, Any], inner: list[str], *, deep: bool) -> None:
    """Refuse files that a loader would open though no manifest names them."""
    if deep:
        for place in inner:
            part = standing(folder.joinpath(*PurePosixPath(place).parts))
            _check_unlisted(part, contents(part).files, parts_of(read_manifest(part)), deep=True)
    for path in _beside(folder, files, inner):
        # Of a folder of parts only these are read; the second says that it is a SANA folder.
        loaded = path.name.lower() in (CONFIG, _INDEX) if inner else is_read(path.name)
        name = path.relative_to(folder).as_posix()
        if loaded and name not in files and name != MANIFEST:
            _unlisted(path)


def _beside(folder: Path, files: Iterable[str], inner: list[str]) -> Iterator[Path]:
    """What lies in `folder` and in those folders below that hold files of its own."""
    own = [name for name in files if not any(name.startswith(f"{part}/") for part in inner)]
    for place in sorted({PurePosixPath(name).parent for name in own} | {PurePosixPath()}):
        here = folder.joinpath(*place.parts)
        if here.is_dir():
            yield from sorted(here.iterdir())


def _check_links(folder: Path, names: Iterable[str]) -> None:
    """Refuse symbolic links, to files and to folders, that lead outside."""
    allowed = _roots(folder)
    for name in names:
        path = folder.joinpath(*PurePosixPath(name).parts)
        if not any(path.resolve().is_relative_to(root) for root in allowed):
            raise WeightsError(
                f"{shown(path)} is or lies behind a link that leads outside of its folder; put the file itself there"
            )


def _compare(folder: Path, files: Files, *, remember: bool) -> None:
    """Sizes, then headers of weights, then hashes. Raises WeightsError."""
    paths = {name: folder.joinpath(*PurePosixPath(name).parts) for name in files}
    for name, path in paths.items():
        if not path.is_file():
            _damaged(path, "is missing")
        if path.stat().st_size != files[name]["bytes"]:
            _damaged(path, f"has {path.stat().st_size} bytes instead of {files[name]['bytes']}")
    for name, path in paths.items():
        if name.endswith(".safetensors"):
            check_header(path)
    memory = remembered.Memory() if remember else None
    unknown = [name for name in files if memory is None or not memory.knows(paths[name], files[name]["sha256"])]
    before = {name: remembered.state_of(paths[name]) for name in unknown}
    for name, found in zip(unknown, _hashes(paths[name] for name in unknown), strict=True):
        if found != files[name]["sha256"]:
            _damaged(paths[name], "has changed since it was saved (wrong sha256)")
    if memory is not None:
        memory.add({paths[name]: (before[name], files[name]["sha256"]) for name in unknown})


def _roots(folder: Path) -> tuple[Path, ...]:
    """Where links of a folder may lead: into the folder, the whole that it is a part of, or the hub's own store."""
    root = folder.resolve()
    while (root.parent / MANIFEST).is_file():
        root = root.parent
    # huggingface_hub's cache: models--OWNER--NAME/snapshots/COMMIT/file is a link into models--OWNER--NAME/blobs.
    for above in (root, *root.parents):
        if above.parent.name == "snapshots":
            return root, above.parent.parent / "blobs"
    return (root,)


def _damaged(path: Path, what: str) -> NoReturn:
    raise WeightsError(f"{shown(path)} {what}; get this folder again, or use another one")


def _unlisted(path: Path) -> NoReturn:
    raise WeightsError(
        f"{shown(path)} would be read, but {MANIFEST} does not name it; move it away, or get this folder again"
    )


def _hashes(paths: Iterable[Path]) -> list[str]:
    """sha256 of each file. Hashing lets other threads run, so large files are hashed side by side."""
    with ThreadPoolExecutor(_HASHERS) as pool:
        return list(pool.map(_sha256, paths))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
