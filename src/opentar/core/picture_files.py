"""Saving pictures: names are checked before the long work, claimed when it is done, and no finished picture is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from opentar.core.errors import OutputError, UnsavedError, shown
from opentar.core.picture_formats import encode_picture, picture_format

_MAX_NAMES = 100_000
_STEM_BYTES = 100
"""What is kept of a name that gets a number: it must fit into a file system that the first name did not fit into."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Where a picture is."""

    path: Path
    """The file."""
    reason: str
    """Why it is not where it was asked to go, as part of a sentence; empty when it is."""


def check_picture_path(path: str | Path, overwrite: bool = False) -> Path:
    """`path` when a picture may be written there, so that a caller can ask before the long work.

    Raises:
        OutputError: an ending that is no format, a folder, a missing folder, a name that is too long for the file
            system, or a file that is there already and `overwrite` is False.
    """
    target, name = Path(path), shown(path)
    if "\0" in str(path):
        raise OutputError(f"{name} is not a file name; use one like 'picture.png'")
    try:
        if target.is_dir():
            raise OutputError(f"{name} is a folder; name a file in it, like {shown(target / 'picture.png')}")
        picture_format(target)
        if not target.parent.is_dir():
            raise OutputError(f"the folder {shown(target.parent)} is not there; make it first or use another")
        if _is_there(target) and not overwrite:
            raise OutputError(f"{name} is there already and is kept; use another name or allow overwriting")
    except OSError as error:
        raise _unwritable(target, error) from error
    return target


def free_name(path: Path) -> Path:
    """The first of `path`, path-2, path-3, ... (before the ending) that no file has now."""
    return next(name for name in _names(path) if not _is_there(name))


def save_picture(
    image: Image.Image, path: str | Path, metadata: Mapping[str, str] | None = None, overwrite: bool = False
) -> None:
    """Write a picture in the format of its ending. It appears whole or not at all; an existing file stays.

    Args:
        image: any PIL picture that the format can hold.
        path: ends in .png, .jpg, .jpeg, .webp or .avif, in a folder that exists.
        metadata: keyword (1 to 79 Latin characters) -> any text, kept in the file; `read_metadata` gives it back.
        overwrite: replace an existing file.

    Raises:
        OutputError: see `check_picture_path`; or the disk refuses.
    """
    target = check_picture_path(path, overwrite)
    content = encode_picture(image, picture_format(target), metadata)
    try:
        with _partial(target.parent, content) as partial:
            if overwrite:
                partial.replace(target)
            else:
                _claim(partial, target)
    except FileExistsError as error:
        raise OutputError(f"{shown(path)} is there already and is kept; use another name") from error
    except OSError as error:
        raise _unwritable(target, error) from error


def keep_picture(
    image: Image.Image, path: str | Path, metadata: Mapping[str, str] | None = None, overwrite: bool = False
) -> Kept:
    """Write a finished picture where it was asked to go, and where that fails somewhere else rather than nowhere.

    In this order: `path`; the next free name beside it (out-2.png); the same names in the current folder; in the
    folder for temporary files. What the format cannot hold becomes a PNG.

    Raises:
        UnsavedError: none of these could be written.
    """
    target, reason = Path(path), ""
    try:
        content = encode_picture(image, picture_format(target), metadata)
    except OutputError as error:
        target, reason = target.with_suffix(".png"), str(error)
        content = encode_picture(image, "PNG", metadata)
    for folder in _folders(target.parent):
        try:
            with _partial(folder, content) as partial:
                if overwrite and folder == target.parent and not reason:
                    try:
                        partial.replace(target)
                        return Kept(path=target, reason="")
                    except OSError as error:
                        reason = _reason(error)
                for name in _names(folder / target.name):
                    try:
                        _claim(partial, name)
                        return Kept(path=name, reason=reason)
                    except OSError as error:
                        if error.errno not in (errno.EEXIST, errno.ENAMETOOLONG):
                            raise
                        reason = reason or _reason(error)
        except OSError as error:
            reason = reason or _reason(error)
    raise UnsavedError(
        f"{shown(path)} cannot be written ({reason}), nor can any file in the current folder or in the folder for "
        "temporary files; make room and repeat the command"
    )


def _folders(asked: Path) -> Iterator[Path]:
    yield asked
    if asked != Path():
        yield Path()
    with contextlib.suppress(OSError):
        yield Path(tempfile.gettempdir())


def _names(path: Path) -> Iterator[Path]:
    yield path
    stem = path.stem
    if len(os.fsencode(stem)) > _STEM_BYTES:
        stem = os.fsencode(stem)[:_STEM_BYTES].decode(errors="ignore")
    for number in range(2, _MAX_NAMES):
        yield path.with_name(f"{stem}-{number}{path.suffix}")


def _is_there(path: Path) -> bool:
    """Whether something has this name, a link that leads nowhere included; OSError where no file can have it."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


@contextlib.contextmanager
def _partial(folder: Path, content: bytes) -> Iterator[Path]:
    """A whole file in `folder` that has no name of its own yet. Its length does not depend on the name it will get."""
    path = folder / f".opentar-{secrets.token_hex(4)}.partial"
    try:
        _write_new(path, content)
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _write_new(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _claim(partial: Path, target: Path) -> None:
    """Give `partial` its name unless somebody took it meanwhile; rename alone would overwrite on POSIX."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError:
        # Some file systems have no hard links: then the exclusive creation is what protects the neighbour's file.
        content = partial.read_bytes()
        try:
            _write_new(target, content)
        except FileExistsError:
            raise
        except BaseException:
            target.unlink(missing_ok=True)
            raise


def _reason(error: OSError) -> str:
    return "it is there already" if isinstance(error, FileExistsError) else (error.strerror or "it failed")


def _unwritable(target: Path, error: OSError) -> OutputError:
    reason = error.strerror or "it failed"
    return OutputError(f"cannot write {shown(target)}: {reason}; choose a folder that you may write to, with room left")
