"""A backend opens, forks, closes and extends slots in random order: what one holds must not depend on the others."""

from __future__ import annotations

import random
from collections.abc import Iterator

from opentar.engine.backends.protocol import Backend


def random_steps(backend: Backend, steps: int = 60) -> Iterator[tuple[int, list[int]]]:
    """A slot that was extended just now, and all ids that it holds."""
    source, said = random.Random(3), dict[int, list[int]]()
    for _ in range(steps):
        act = source.random()
        if act < 0.25 or not said:
            for slot in backend.open(source.randint(1, 3)):
                said[slot] = []
        elif act < 0.35:
            slot = source.choice(list(said))
            said[backend.fork(slot)] = list(said[slot])
        elif act < 0.5:
            slot = source.choice(list(said))
            backend.close([slot])
            del said[slot]
        else:
            chosen = source.sample(list(said), source.randint(1, len(said)))
            added = [[source.randrange(2000) for _ in range(source.choice((1, 1, 1, 7, 40)))] for _ in chosen]
            backend.extend(chosen, added)
            for slot, piece in zip(chosen, added, strict=True):
                said[slot] += piece
            yield chosen[0], said[chosen[0]]
