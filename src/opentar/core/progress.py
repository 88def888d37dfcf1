"""How long work tells whoever waits how far it is: one kind of callback for everything."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all) after each step."""
Count = Callable[[int, int], None]
"""The same where there is one thing to do: (steps done, steps in all)."""


def part_of(progress: Progress | None, name: str) -> Count | None:
    """The callback of one piece of the work, called `name`; None stays None."""
    return None if progress is None else lambda done, total: progress(name, done, total)
