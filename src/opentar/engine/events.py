"""What an engine tells while requests run; `ticket` is the number that `Engine.submit` gave."""

from __future__ import annotations

from dataclasses import dataclass

from opentar.core.errors import OpenTarError


@dataclass(frozen=True)
class CodeDrawn:
    """One more code of a drawing."""

    ticket: int
    code: int
    step: int
    """Codes drawn so far, this one included."""
    total: int
    """Codes of the whole grid."""
    place: int
    """Which code of the grid it is, in reading order from 0; with several codes a pass they come in another order."""


@dataclass(frozen=True)
class TokenSaid:
    """One more id of a text."""

    ticket: int
    token: int
    log: float | None = None
    """Natural logarithm of its probability before temperature and top_p; None where the request did not ask."""
    likeliest: tuple[tuple[int, float], ...] = ()
    """As many of the likeliest ids as the request asked for, with their logarithms, likeliest first."""


@dataclass(frozen=True)
class Done:
    """The request has ended well."""

    ticket: int
    ids: tuple[int, ...] = ()
    """Codes of a drawing, ids of a text."""
    probabilities: tuple[float, ...] = ()
    """Of each choice; they sum to 1."""


@dataclass(frozen=True)
class Failed:
    """The request has failed; others run on."""

    ticket: int
    error: OpenTarError


Event = CodeDrawn | TokenSaid | Done | Failed
"""Anything that an engine tells."""
