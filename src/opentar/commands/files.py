"""What comes from files and stdin, refused before minutes are spent when it cannot be."""

import codecs
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opentar.commands.options import HYPHEN
from opentar.core.errors import ConfigError, ImageError, OutputError, PromptError, shown

if TYPE_CHECKING:
    from PIL.Image import Image

_MAX_STDIN_BYTES = 1_000_000
_MAX_PROMPTS = 10_000
_MAX_PROMPTS_BYTES = 16 << 20


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


def prompts_argument(source: str) -> list[str]:
    """The prompts of a text file, or of stdin for `-`: one a line; blank lines and lines that begin with # are skipped.

    Raises:
        PromptError: the file cannot be read, is not UTF-8, holds no prompt or more than 10,000; or a line holds no
            word: the error names its number.
    """
    from opentar.asking import prompts

    name = "stdin" if source == HYPHEN else shown(source)
    try:
        if source != HYPHEN and not Path(source).is_file():
            raise PromptError(f"{name} is not a file of prompts; give a text file with one prompt per line, or -")
        with contextlib.nullcontext(sys.stdin.buffer) if source == HYPHEN else open(source, "rb") as file:
            raw = file.read(_MAX_PROMPTS_BYTES + 1)
    except OSError as error:
        raise PromptError(f"{name} cannot be read ({error.strerror}); check the name and its permissions") from error
    except ValueError as error:
        raise PromptError(f"{name} is not a file name; give a text file with one prompt per line") from error
    if len(raw) > _MAX_PROMPTS_BYTES:
        raise PromptError(f"the prompts in {name} are longer than {_MAX_PROMPTS_BYTES >> 20} MiB; split the file")
    found = []
    for number, line in enumerate(raw.removeprefix(codecs.BOM_UTF8).splitlines(), start=1):
        try:
            text = line.decode("utf-8").strip()
            if text and not text.startswith("#"):
                found += prompts(text)
        except UnicodeDecodeError as error:
            raise PromptError(f"line {number} of {name} is not UTF-8 text; save the file as UTF-8") from error
        except PromptError as error:
            raise PromptError(f"line {number} of {name}: {error}") from error
        if len(found) > _MAX_PROMPTS:
            raise PromptError(f"{name} holds more than {_MAX_PROMPTS} prompts; split the file")
    if not found:
        raise PromptError(f"{name} holds no prompt; write one per line")
    return found


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


def open_source(source: str | bytes, frame: int | None = None) -> "Image":
    """The picture that `picture_source` names or holds; `frame` and errors are those of `open_picture`."""
    from opentar.core.pictures import open_picture

    return open_picture(source, "the picture on stdin", frame)


def check_one_stdin(*arguments: str) -> None:
    """Raises ConfigError when more than one of the arguments is `-`."""
    times = arguments.count(HYPHEN)
    if times > 1:
        raise ConfigError(f"'-' is given {times} times, but stdin can be read only once; give files or texts")


def check_quotes(names: Sequence[str]) -> None:
    """Raises ImageError where the names are the pieces of one that has spaces and was given without quotes."""
    whole = " ".join(names)
    if len(names) > 1 and not os.path.exists(names[0]) and os.path.exists(whole):
        raise ImageError(f"there is no picture {shown(names[0])}; quote the name: {whole!r}")


def folder_argument(out: Path) -> Path:
    """`out` when a folder may stand there; nothing is made. Raises OutputError for a file, also in its path, or `-`."""
    if str(out) == HYPHEN or "\0" in str(out):
        raise OutputError(f"{shown(out)} is not the name of a folder; give one: several files are written")
    try:
        found = next((place for place in (out, *out.parents) if place.exists()), None)
        file = found if found is not None and not found.is_dir() else None
    except OSError as error:
        raise OutputError(f"{shown(out)} cannot be used ({error.strerror}); choose another folder") from error
    if file is not None:
        raise OutputError(f"{shown(file)} is a file; give a folder")
    return out


def new_file_argument(out: Path) -> Path:
    """`out` when a new file may stand there; nothing is made. Raises OutputError for a name that is taken, or `-`."""
    if str(out) == HYPHEN or "\0" in str(out) or not out.name:
        raise OutputError(f"{shown(out)} is not the name of a file; give one")
    folder_argument(out.parent)
    if out.exists() or out.is_symlink():
        raise OutputError(f"{shown(out)} exists; choose the name of a new file")
    return out
