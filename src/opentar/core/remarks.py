"""Warnings that point at the line of whoever called, however many of our own calls lie between."""

from __future__ import annotations

import sys
import warnings

_OURS = ("opentar", "torch")
"""Packages whose frames are passed over; torch's is the wrapper that switches gradients off."""


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn with the nearest line outside of this package as its place."""
    depth, frame = 1, sys._getframe(0)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _OURS:
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, category, stacklevel=depth)
