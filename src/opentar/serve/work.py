"""What a service is asked for: answers of an engine, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass

from opentar.checkpoints.settings import DrawSettings
from opentar.drawing import Drawing
from opentar.engine.request import Request


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A picture: codes, then pixels."""

    drawing: Drawing
    """What the engine is asked for, and the prompt that the metadata name."""
    settings: DrawSettings
    """How it is painted."""
    previews: int = 0
    """How often the picture is shown before it is finished, at most."""
    sketches: int = 0
    """How many of these looks come while its codes are drawn; the others come evenly over the painting."""

    @property
    def request(self) -> Request:
        """What the engine is asked for."""
        return self.drawing.request


@dataclass(frozen=True, kw_only=True)
class Say:
    """A text."""

    request: Request
    """Its grammar is Text."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""


@dataclass(frozen=True, kw_only=True)
class Choose:
    """How likely each of a few texts is."""

    request: Request
    """Its grammar is Choice."""


Work = Draw | Say | Choose
"""One answer."""
