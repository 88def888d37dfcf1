"""Text as it grows id by id: nothing is given out that a later id could still change."""

from __future__ import annotations

from collections.abc import Sequence

from opentar.language.tokenizer import TextTokenizer

_LONGEST_CHARACTER = 8
"""Ids that are held for one character at most; bytes that are no UTF-8 would be held for ever."""


class Speech:
    """Turns ids into text without white space at its ends, and cuts it before a stop text.

    Args:
        tokenizer: of the model.
        stop: texts that end the answer and do not belong to it.
    """

    def __init__(self, tokenizer: TextTokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._ids: list[int] = []
        self._held = ""
        self._begun = False
        self.stopped = False
        """Whether a stop text was met."""

    def push(self, token: int) -> str:
        """The text that is certain with one more id; maybe none."""
        self._ids.append(token)
        piece = self._tokenizer.decode(self._ids)
        if piece.endswith("\N{REPLACEMENT CHARACTER}") and len(self._ids) < _LONGEST_CHARACTER:
            return ""
        self._ids = []
        return self._certain(piece)

    def finish(self) -> str:
        """What is left when the text has ended."""
        piece = self._tokenizer.decode(self._ids) if self._ids else ""
        self._ids = []
        rest = self._certain(piece)
        if not self.stopped:
            rest += self._held.rstrip()
        self._held = ""
        return rest

    def _certain(self, piece: str) -> str:
        if self.stopped:
            return ""
        self._held += piece
        met = [place for text in self._stop if (place := self._held.find(text)) >= 0]
        if met:
            self.stopped = True
            self._held, given = "", self._held[: min(met)].rstrip()
            return self._begin(given)
        self._held = self._begin(self._held)
        # What may be the beginning of a stop text waits, and so does white space before it or at the end.
        keep = 0
        for text in self._stop:
            longest = min(len(text) - 1, len(self._held))
            keep = max([keep, *(n for n in range(1, longest + 1) if self._held.endswith(text[:n]))])
        cut = len(self._held[: len(self._held) - keep].rstrip())
        given, self._held = self._held[:cut], self._held[cut:]
        self._begun = self._begun or bool(given)
        return given

    def _begin(self, text: str) -> str:
        return text if self._begun else text.lstrip()
