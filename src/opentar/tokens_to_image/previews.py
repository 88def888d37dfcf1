"""Looks at a picture while it is painted: at most one a second, and never much of the painting's own time."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor

from opentar.core.errors import ConfigError
from opentar.tokens_to_image.detokenizer import Callback, Preview

_SHARE = 4
"""Painting takes at least this many times as long as looking."""


def with_previews(show: Callable[[Tensor], object], callback: Callback | None = None, seconds: float = 1.0) -> Callback:
    """A callback for a de-tokenizer's `decode` that gives `show` the picture as it stands, now and then.

    The first look comes `seconds` after the painting began. One whose last took t seconds comes no sooner than 4 t
    later, so that a slow decoder (SANA's takes seconds) costs a fifth of the time at most. The finished picture is not
    shown: `decode` returns it.

    Args:
        show: gets pixels float32 (B, 3, H, W) in [0, 1]; what it raises stops the painting.
        callback: called after every step beside it.
        seconds: least time between two looks, 0 or more.

    Raises:
        ConfigError: `seconds` below 0 or not a number.
    """
    if not seconds >= 0:
        raise ConfigError(f"seconds between previews is {seconds}; give 0 or more")
    next_look = time.monotonic() + seconds

    def step(done: int, total: int, preview: Preview) -> None:
        nonlocal next_look
        if callback is not None:
            callback(done, total, preview)
        began = time.monotonic()
        if done < total and began >= next_look:
            show(preview())
            ended = time.monotonic()
            next_look = ended + max(seconds - (ended - began), _SHARE * (ended - began))

    return step
