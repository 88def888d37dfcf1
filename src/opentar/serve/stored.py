"""Responses that were given, for those who go on after them. In memory, bounded, each for its own key alone."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request

from opentar.language.prompt import Turn


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One response and the conversation that it ends; pictures are codes in it."""

    owner: bytes
    """Of the key that asked for it, see `owner_of`."""
    model: str
    """Hash of the model: the codes of another one mean other things."""
    turns: tuple[Turn, ...]
    """The whole conversation without instructions, the answer last."""
    body: bytes
    """The response as JSON."""

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        parts = [part for turn in self.turns for part in turn.parts]
        return len(self.body) + sum(8 * len(part if isinstance(part, str) else part.codes) for part in parts)


class ResponseStore:
    """Keeps the responses that were used last. Used from one event loop.

    Args:
        most: responses.
        most_bytes: of all together; one that alone is larger is not kept.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._kept: OrderedDict[str, Stored] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, name: str, stored: Stored) -> None:
        """Keep a response; those that were used longest ago go."""
        if stored.size > self._most_bytes:
            return
        self._kept[name] = stored
        self.bytes += stored.size
        while len(self._kept) > self._most or self.bytes > self._most_bytes:
            self.bytes -= self._kept.popitem(last=False)[1].size

    def get(self, name: str, owner: bytes) -> Stored | None:
        """A response; None where it is unknown, gone or somebody else's, which cannot be told apart."""
        found = self._kept.get(name)
        if found is None or found.owner != owner:
            return None
        self._kept.move_to_end(name)
        return found

    def drop(self, name: str, owner: bytes) -> bool:
        """Forget a response; False where there is none."""
        if self.get(name, owner) is None:
            return False
        self.bytes -= self._kept.pop(name).size
        return True


def owner_of(request: Request) -> bytes:
    """Whom the responses of a request belong to: whoever has the same key, also where any key is let in."""
    return hashlib.sha256(request.headers.get("authorization", "").encode()).digest()


def turns_before(turns: Sequence[Turn], instructions: str | None) -> list[Turn]:
    """A conversation with instructions before it."""
    return [Turn("system", (instructions,)), *turns] if instructions else list(turns)
