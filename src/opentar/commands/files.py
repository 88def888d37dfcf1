"""What comes from files and stdin and where results go, refused before minutes are spent when it cannot be."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opentar.commands.options import HYPHEN
from opentar.core import environment
from opentar.core.errors import ConfigError, ImageError, OutputError, PromptError, shown

if TYPE_CHECKING:
    from PIL.Image import Image

_MAX_STDIN_BYTES = 1_000_000


def picture_paths(out: str | None, count: int, stem: str, overwrite: bool) -> list[Path]:
    """Where `count` pictures go: `out` for one, out-0.png, out-1.png, ... for several.

    Without `out` the names start with `stem`, in the current folder, numbered past what is there already.

    Raises:
        OutputError: a name exists (without `overwrite`), is a folder, is no PNG, or cannot be written.
    """
    if out == HYPHEN:
        raise OutputError("'-' is no picture file, and pictures do not go to stdout; name a file like 'picture.png'")
    if out is None:
        attempt = 1
        while True:
            base = Path(f"{stem}.png" if attempt == 1 else f"{stem}-{attempt}.png")
            paths = _numbered(base, count)
            if not any(path.exists() for path in paths):
                return check_writable(paths, overwrite)
            attempt += 1
    return check_writable(_numbered(environment.expanded(out), count), overwrite)


def check_writable(paths: Sequence[Path], overwrite: bool) -> list[Path]:
    """Refuse what cannot become a picture file; returns `paths`. Raises OutputError as `picture_paths` does."""
    from opentar.core.pictures import check_picture_path

    for path in paths:
        check_picture_path(path, overwrite)
    for parent in {path.parent for path in paths}:
        try:
            # Asking for permissions is not enough: a full disk or root's view of a read-only place say yes.
            with tempfile.TemporaryFile(dir=parent) as probe:
                probe.write(b"x")
        except OSError as error:
            raise OutputError(
                f"cannot write into {shown(parent)}: {error.strerror}; choose a folder that you may write to"
            ) from error
    return list(paths)


def text_argument(text: str, what: str) -> str:
    """`text` as given, or all of stdin for `-`.

    Raises:
        PromptError: stdin or the argument is not UTF-8 text, or stdin is longer than 1 MB.
    """
    if text != HYPHEN:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            # Python hides bytes of the command line that are no UTF-8 as lone surrogates.
            raise PromptError(f"the {what} is not UTF-8 text; write it in UTF-8") from error
        return text
    raw = sys.stdin.buffer.read(_MAX_STDIN_BYTES + 1)
    if len(raw) > _MAX_STDIN_BYTES:
        raise PromptError(f"the {what} on stdin is longer than {_MAX_STDIN_BYTES} bytes; shorten it")
    try:
        return raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise PromptError(f"the {what} on stdin is not UTF-8 text; send UTF-8") from error


def picture_source(name: str) -> str | bytes:
    """The name of a picture as given, or all bytes of stdin for `-`.

    Raises:
        ImageError: stdin holds more than a picture file may.
    """
    if name != HYPHEN:
        return name
    from opentar.core.pictures import MAX_FILE_BYTES

    raw = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise ImageError(f"the picture on stdin is larger than {MAX_FILE_BYTES >> 20} MiB; give a smaller picture")
    return raw


def open_source(source: str | bytes) -> "Image":
    """The picture that `picture_source` names or holds. Raises ImageError as `open_picture` does."""
    from opentar.core.pictures import open_picture

    return open_picture(source, "the picture on stdin")


def check_one_stdin(*arguments: str) -> None:
    """Raises ConfigError when more than one of the arguments is `-`."""
    times = arguments.count(HYPHEN)
    if times > 1:
        raise ConfigError(f"'-' is given {times} times, but stdin can be read only once; give files or texts instead")


def folder_argument(out: Path) -> Path:
    """`out` when a folder may stand there; nothing is made. Raises OutputError for a file, also in its path, or `-`."""
    if str(out) == HYPHEN or "\0" in str(out):
        raise OutputError(f"{shown(out)} is no name for a folder; results of this command fill a folder: name one")
    try:
        found = next((place for place in (out, *out.parents) if place.exists()), None)
        file = found if found is not None and not found.is_dir() else None
    except OSError as error:
        raise OutputError(f"{shown(out)} cannot be used ({error.strerror}); choose another folder") from error
    if file is not None:
        raise OutputError(f"{shown(file)} is a file; give a folder")
    return out


def _numbered(base: Path, count: int) -> list[Path]:
    if count == 1:
        return [base]
    return [base.with_name(f"{base.stem}-{index}{base.suffix}") for index in range(count)]
