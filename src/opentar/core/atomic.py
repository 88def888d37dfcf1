"""A folder is complete or it is not there: written into a hidden neighbour, flushed to the disk, then renamed.

The manifest comes last. What lies in an older folder and is not OpenTar's stays.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from opentar.core.errors import OutputError, WeightsError, shown
from opentar.core.manifest import (
    MANIFEST,
    PARTIAL,
    PREVIOUS,
    followed,
    is_read,
    manifest_of,
    parts_of,
    previous,
    read_manifest,
)

_MANIFEST_FORMAT = 1


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty hidden neighbour of `folder`; when the block ends well it becomes `folder`, else it vanishes.

    The manifest covers every file below, so a model folder may hold parts written by `save_part`. A folder that
    already stands there is replaced only when it is empty or has a manifest of ours; files in it that the manifest
    does not name (a picture, notes, a model card) are somebody else's and stay, outside of the new manifest as well.
    Where the manifest cannot be read, all stays but the files of this format. A symbolic link stays a link: what it
    points to is written.

    Raises:
        OutputError: `folder` holds something else, a file of somebody else's has the name of a new one, or the disk
            refuses.
    """
    folder = Path(folder)
    unfinished = None
    try:
        place = followed(folder)
        if place.exists() and os.path.samefile(place, os.curdir):
            # It is replaced by a rename, which would leave this process in a folder that is gone.
            raise OutputError("the current folder cannot be written as a whole; name a new folder in it")
        # One fixed name: what a killed save left behind is swept away by the next one.
        unfinished = place.with_name(f".{place.name}{PARTIAL}")
        place.parent.mkdir(parents=True, exist_ok=True)
        _recover(place)
        _check_replaceable(place)
        _check_own(place)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        yield unfinished
        _write_manifest(unfinished)
        _carry_over(place, unfinished)
        _swap(unfinished, place)
    except OSError as error:
        reason = error.strerror or "it failed"
        raise OutputError(f"cannot write {shown(folder)}: {reason}; choose another folder or free the disk") from error
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield the name of a hidden neighbour to write; when the block ends well it becomes `path`, else it vanishes.

    Raises:
        OutputError: something has that name already, or the disk refuses.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}{PARTIAL}") if path.name else path
    if not path.name or path.exists() or path.is_symlink():
        raise OutputError(f"{shown(path)} exists; choose the name of a new file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        _sync(unfinished)
        unfinished.replace(path)
        _sync(path.parent)
    except OSError as error:
        reason = error.strerror or "it failed"
        raise OutputError(f"cannot write {shown(path)}: {reason}; choose another place or free the disk") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _swap(unfinished: Path, folder: Path) -> None:
    """Put `unfinished` in the place of `folder`. Killed at any point, either the old or the new one can be found."""
    older = previous(folder)
    if folder.exists():
        shutil.rmtree(older, ignore_errors=True)
        folder.rename(older)
    try:
        unfinished.rename(folder)
    except OSError:
        _recover(folder)
        raise
    _sync(folder.parent)
    shutil.rmtree(older, ignore_errors=True)


def _recover(folder: Path) -> None:
    """A kill between the two renames of `_swap` leaves only the previous folder: give it its name back.

    For writers only: a reader that did this between the renames of a living writer would make its second one fail.
    """
    if not folder.exists() and previous(folder).is_dir():
        previous(folder).rename(folder)


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        if folder.is_symlink():
            raise OutputError(f"{shown(folder)} is a link that leads in a circle; remove it or choose another name")
        return
    if not folder.is_dir():
        raise OutputError(f"{shown(folder)} is a file; a folder is written here, so choose another name")
    if any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise OutputError(f"{shown(folder)} holds files that are not OpenTar's; choose a new or an empty folder")


def _check_own(folder: Path) -> None:
    """Refuse a manifest.json of another program; one that is no JSON is ours, damaged."""
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(content, dict) or "files" not in content:
        raise OutputError(f"{shown(folder)} has a {MANIFEST} that is not OpenTar's; choose a new or an empty folder")


def _carry_over(folder: Path, unfinished: Path) -> None:
    """Give `unfinished` the files of `folder` that are not OpenTar's."""
    if not (folder / MANIFEST).is_file():
        return
    known, told = _known(folder)
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    for name in (PurePosixPath(path.as_posix()) for path in paths):
        if name.as_posix() in known or any(map(_is_leftover, name.parts[:-1])):
            continue
        source, target = folder.joinpath(*name.parts), unfinished.joinpath(*name.parts)
        place = next(place for place in name.parents if place in told)
        # Where no manifest tells whose a file is, its name does: old weights would be read with the new ones.
        if not told[place] and (is_read(name.name) or target.exists()):
            continue
        if target.exists():
            raise OutputError(
                f"{shown(folder)} holds {shown(str(name))}, which is not OpenTar's and would be lost; move it away"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target, follow_symlinks=False)
        except (OSError, NotImplementedError):
            shutil.copy2(source, target, follow_symlinks=False)


def _known(folder: Path) -> tuple[set[str], dict[PurePosixPath, bool]]:
    """Names below `folder` that are OpenTar's, and each place with a manifest: whether that can be read."""
    known: set[str] = set()
    told: dict[PurePosixPath, bool] = {}
    places = [PurePosixPath()]
    while places:
        place = places.pop()
        here = folder.joinpath(*place.parts)
        try:
            files = list(read_manifest(here))
            told[place] = True
        except WeightsError:
            # Parts inside may still tell what is theirs.
            files = [path.relative_to(here).as_posix() for path in here.rglob(MANIFEST)]
            told[place] = False
        inner = parts_of(files)
        # Inside a part its own manifest decides: what the outer one names beyond it was never read.
        own = [name for name in files if not any(name.startswith(f"{part}/") for part in inner)]
        known |= {(place / name).as_posix() for name in (MANIFEST, *own)}
        places += [place / part for part in inner]
    return known, told


def _is_leftover(name: str) -> bool:
    """Whether a killed save left a folder of that name."""
    return name.startswith(".") and name.endswith((PARTIAL, PREVIOUS))


def _write_manifest(unfinished: Path) -> None:
    for path in sorted(unfinished.rglob("*")):
        if path.is_file() or os.name != "nt":
            _sync(path)
    content = {"format": _MANIFEST_FORMAT, "files": manifest_of(unfinished)}
    (unfinished / MANIFEST).write_bytes((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    _sync(unfinished / MANIFEST)
    _sync(unfinished)


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
