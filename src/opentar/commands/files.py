"""Names of output pictures, and refusing a bad one before minutes are spent on the picture."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from opentar.commands.options import STDIN
from opentar.core.errors import OutputError, PromptError, shown

_MAX_STDIN_BYTES = 1_000_000


def picture_paths(out: str | None, count: int, stem: str, overwrite: bool) -> list[Path]:
    """Where `count` pictures go: `out` for one, out-0.png, out-1.png, ... for several.

    Without `out` the names start with `stem`, in the current folder, numbered past what is there already.

    Raises:
        OutputError: a name exists (without `overwrite`), is a folder, is no PNG, or cannot be written.
    """
    if out is None:
        attempt = 1
        while True:
            base = Path(f"{stem}.png" if attempt == 1 else f"{stem}-{attempt}.png")
            paths = _numbered(base, count)
            if not any(path.exists() for path in paths):
                return check_writable(paths, overwrite)
            attempt += 1
    return check_writable(_numbered(Path(out).expanduser(), count), overwrite)


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
    if text != STDIN:
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


def _numbered(base: Path, count: int) -> list[Path]:
    if count == 1:
        return [base]
    return [base.with_name(f"{base.stem}-{index}{base.suffix}") for index in range(count)]
