"""Errors a user can cause. Each is one line: what was given, what is allowed, what to do next.

Bugs of our own are `assert` or ordinary Python exceptions and keep their traceback; only the classes below are
turned into a bare line by the command line.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_SHOWN_CHARACTERS = 120
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_NOT_SHOWN = ("Cc", "Cs", "Zl", "Zp")
"""Categories of Unicode: control characters, halves of pairs, and what ends a line or a paragraph."""
_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Marks that turn the direction of writing: a name with one reads as another name."""


class OpenTarError(Exception):
    """Base of every error that the user can mend; its text is always a single line."""

    def __init__(self, message: object) -> None:
        super().__init__(" ".join(str(message).split()))


class ConfigError(OpenTarError):
    """A setting is unknown, of the wrong type or out of range."""


class ImageError(OpenTarError):
    """A picture that was given cannot be read or is not accepted."""


class ImageSizeError(ImageError):
    """A picture has more pixels or bytes than are read."""


class ImageKindError(ImageError):
    """What was given is no picture of a kind that is read."""


class PromptError(OpenTarError):
    """A text that was given cannot be used."""


class WeightsError(OpenTarError):
    """A weights folder is damaged, incomplete or made for another model."""


class OutputError(OpenTarError):
    """A result cannot be written where it was asked for."""


class UnsavedError(OutputError):
    """A finished result could not be written at all, or not to stdout: no fault of the command's arguments."""


class ModelError(OpenTarError):
    """The named model is unknown, or it cannot do what was asked."""


class NoMemoryError(ModelError):
    """There is not enough memory for what was asked beside all else; nothing else is wrong with it."""


class DataError(OpenTarError):
    """Training or evaluation data is missing, damaged or inconsistent."""


def shown(value: object) -> str:
    """A value given by the user as it may stand in an error line: quoted, shortened, control characters escaped."""
    text = str(value)
    # Cut in the middle: the end of a path is the name that the user needs.
    head, tail = text[: _SHOWN_CHARACTERS // 3], text[-2 * _SHOWN_CHARACTERS // 3 :]
    short = text if len(text) <= _SHOWN_CHARACTERS else f"{head}...{tail}"
    # The address of an object means nothing to a user and differs each time.
    short = _ADDRESS.sub("", short)
    # ascii() would hide Chinese; repr() keeps it and escapes newlines, ESC and NUL, so a name cannot forge a log line.
    return repr(short)


def printable(text: str) -> str:
    """`text` as a terminal may be given it: control characters and marks that turn the direction of writing escaped.

    Names, licences and answers of models, file names and texts of hubs come from others: an ESC in them would move the
    cursor or change the title of the window. Line ends and tabs stay.
    """
    return "".join(character if _is_plain(character) else _escaped(character) for character in text)


def printable_line(text: str) -> str:
    """As `printable`, in one line: a name with a line end in it cannot pass for a line of ours."""
    return printable(text).replace("\n", "\\n")


def _is_plain(character: str) -> bool:
    return character in "\n\t" or (unicodedata.category(character) not in _NOT_SHOWN and character not in _DIRECTIONS)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def nearest(name: str, allowed: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest allowed name, or an empty string when none is close."""
    # Only where something is wrong: the package should be there at once.
    import difflib

    found = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {found[0]!r}?" if found else ""
