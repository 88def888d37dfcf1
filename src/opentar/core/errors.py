"""Errors a user can cause. Each is one line: what was given, what is allowed, what to do next.

Bugs of our own are `assert` or ordinary Python exceptions and keep their traceback; only the classes below are
turned into a bare line by the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN_CHARACTERS = 120


class OpenTarError(Exception):
    """Base of every error that the user can mend; its text is always a single line."""

    def __init__(self, message: object) -> None:
        super().__init__(" ".join(str(message).split()))


class ConfigError(OpenTarError):
    """A setting is unknown, of the wrong type or out of range."""


class ImageError(OpenTarError):
    """A picture that was given cannot be read or is not accepted."""


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


class DataError(OpenTarError):
    """Training or evaluation data is missing, damaged or inconsistent."""


def shown(value: object) -> str:
    """A value given by the user as it may stand in an error line: quoted, shortened, control characters escaped."""
    text = str(value)
    # Cut in the middle: the end of a path is the name that the user needs.
    head, tail = text[: _SHOWN_CHARACTERS // 3], text[-2 * _SHOWN_CHARACTERS // 3 :]
    short = text if len(text) <= _SHOWN_CHARACTERS else f"{head}...{tail}"
    # ascii() would hide Chinese; repr() keeps it and escapes newlines, ESC and NUL, so a name cannot forge a log line.
    return repr(short)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest allowed name, or an empty string when none is close."""
    found = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {found[0]!r}?" if found else ""
