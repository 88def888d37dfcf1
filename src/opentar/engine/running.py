"""A request that runs: the slots it holds and what becomes of their logits. Drawing, saying, choosing.

A drawing is exactly `scale.length` choices among the ids of codes; no other id exists while it is drawn, so a short,
long or mixed grid cannot come out and nothing is ever repaired. Text can hold nothing but text. Random numbers are
fixed by seed and place: the same seed gives the same answer alone, beside others, and on every device whose logits
agree. The folder's own generation settings (repetition penalty and the like) play no part.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from opentar.engine.backends.protocol import Backend
from opentar.engine.events import CodeDrawn, Done, Event, TokenSaid
from opentar.engine.jobs import Job
from opentar.engine.request import Choice, Codes, Text
from opentar.nn.sampling import guide, only_likely
from opentar.tokens_to_image.passes import ONE, Entry, Sheet

if TYPE_CHECKING:
    from opentar.language.model import LanguageConfig


class Running(abc.ABC):
    """One request in the middle.

    Each step its slots are asked for logits over `ids`, `rows` makes of them what is drawn from, and `take` says what
    was drawn. What `following` names goes into the slots; one that is `ended` is let go.
    """

    ids: range
    """What can come next."""

    def __init__(self, job: Job, backend: Backend) -> None:
        self.job, self.backend = job, backend
        self.slots: list[int] = []
        self.following: list[list[int]] = []
        """The next ids of each slot."""
        self.positions: list[list[int]] | None = None
        """Where they go; None appends one to each slot."""
        self.place = 0
        """Ids drawn so far."""
        self.ended = False

    @property
    def prompts(self) -> list[list[int]]:
        """What is read first, a slot each."""
        return [self.job.prefix]

    @property
    def asked(self) -> int:
        """Rows of logits that the slots have together."""
        return len(self.slots) if self.positions is None else sum(map(len, self.positions))

    @property
    def places(self) -> list[int]:
        """The place of each of `rows` in the answer: it fixes the noise."""
        return [self.place]

    @abc.abstractmethod
    def rows(self, logits_PV: Tensor) -> Tensor | None:
        """The logits (M, V) that ids are drawn from, one of each; None where nothing is drawn."""

    @abc.abstractmethod
    def take(self, drawn: Sequence[int]) -> list[Event]:
        """What happens with the entries of `ids` that were drawn, one of each row."""


class _Drawing(Running):
    """A sheet of codes that fills up, of which a pass draws one, or several (`passes.py` of the de-tokenizers)."""

    def __init__(self, job: Job, backend: Backend, grammar: Codes) -> None:
        super().__init__(job, backend)
        self._vocab, self._length = backend.config.vocab, grammar.scale.length
        self._passes = grammar.passes
        self._draft, self._keep = grammar.draft, grammar.keep
        self.ids = range(self._vocab.first_code, self._vocab.size)
        self._sheet: Sheet | None = None
        self._entries: list[Entry] = []
        self._asked: list[tuple[int, int]] = [(0, 0)]

    @property
    def prompts(self) -> list[list[int]]:
        return [self.job.prefix] if self.job.other is None else [self.job.prefix, self.job.other]

    @property
    def places(self) -> list[int]:
        return [place for _, place in self._asked]

    def rows(self, logits_PV: Tensor) -> Tensor:
        sides = [part[[row for row, _ in self._asked]] for part in logits_PV.chunk(len(self.slots))]
        rows_PV = sides[0] if len(sides) == 1 else guide(sides[0], sides[1], self.job.request.sampling.guidance)
        if not self._draft:
            return rows_PV
        pairs = zip(rows_PV, self.places, strict=True)
        return torch.stack([only_likely(row_V, self._draft[place], self._keep) for row_V, place in pairs])

    def take(self, drawn: Sequence[int]) -> list[Event]:
        if self._sheet is None:
            self._sheet, fresh = Sheet(self._passes, self._length, drawn[0]), [0]
        else:
            self._sheet.accept(self._entries, dict(zip(self.places, drawn, strict=True)))
            fresh = [entry.place + 1 for entry in self._entries if entry.wanted]
        events: list[Event] = []
        for place in fresh:
            code = self._sheet.codes[place]
            if code is not None:
                self.place += 1
                events.append(CodeDrawn(self.job.ticket, code, self.place, self._length, place))
        self.ended = self.place == self._length
        if self.ended:
            events.append(Done(self.job.ticket, tuple(code for code in self._sheet.codes if code is not None)))
        else:
            self._plan(self._sheet)
        return events

    def _plan(self, sheet: Sheet) -> None:
        """What the next pass computes, and what is drawn from it."""
        entries = self._entries = sheet.entries()
        self._asked = []
        for row, entry in enumerate(entries):
            if entry.wanted:
                self._asked.append((row, entry.place + 1))
                if row + 1 == len(entries) or entries[row + 1].line != entry.line:
                    self._asked += [(row, place) for place in sheet.ahead(entry)]
        ids = [self._vocab.code_token(entry.code) for entry in entries]
        self.following = [ids] * len(self.slots)
        if self._passes != ONE:
            self.positions = [[len(prompt) + entry.place for entry in entries] for prompt in self.prompts]


class _Saying(Running):
    def __init__(self, job: Job, backend: Backend, grammar: Text) -> None:
        super().__init__(job, backend)
        self._banned = ~may_say(backend.config)
        self.ids = range(len(self._banned))
        self._most = most_said(job, backend.config.max_length)
        self._logs, self._row_V = grammar.logs, torch.empty(0)
        self._said: list[int] = []

    def rows(self, logits_PV: Tensor) -> Tensor:
        self._banned = self._banned.to(logits_PV.device)
        rows_PV = logits_PV.masked_fill(self._banned, float("-inf"))
        if self._logs is not None:
            self._row_V = rows_PV[0]
        return rows_PV

    def take(self, drawn: Sequence[int]) -> list[Event]:
        events: list[Event] = []
        (token,) = drawn
        stop = token == self.backend.config.end
        if not stop:
            self._said.append(token)
            events.append(self._event(token))
        self.place = len(self._said)
        self.ended = stop or self.place == self._most
        if self.ended:
            events.append(Done(self.job.ticket, tuple(self._said)))
        self.following = [[token]]
        return events

    def _event(self, drawn: int) -> TokenSaid:
        if self._logs is None:
            return TokenSaid(self.job.ticket, drawn)
        logs_V = self._row_V.double().log_softmax(-1)
        best = logs_V.topk(min(self._logs, len(logs_V)))
        likeliest = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return TokenSaid(self.job.ticket, drawn, float(logs_V[drawn]), likeliest)


class _Choosing(Running):
    """Adds up the logarithms of the probabilities of each choice; a slot for each that has ids to come."""

    def __init__(self, job: Job, backend: Backend) -> None:
        super().__init__(job, backend)
        self._banned = ~may_say(backend.config)
        self.ids = range(len(self._banned))
        self._logs = [0.0] * len(job.choices)
        self._open: list[int] = []

    def rows(self, logits_PV: Tensor) -> None:
        logits_SV = logits_PV.masked_fill(self._banned.to(logits_PV.device), float("-inf"))
        logs_SV = logits_SV.double().log_softmax(-1)
        choices, place = self.job.choices, self.place
        if place == 0:
            self._open = list(range(len(choices)))
        for choice in self._open:
            # All choices start from the one slot of the prompt.
            slot = self._open.index(choice) if place else 0
            self._logs[choice] += float(logs_SV[slot, choices[choice][place]])
        going = [choice for choice in self._open if len(choices[choice]) > place + 1]
        if place == 0:
            for _ in going[1:]:
                # One by one: where no slot is left, those that were made can be given back.
                self.slots.append(self.backend.fork(self.slots[0]))
        else:
            kept = [self.slots[self._open.index(choice)] for choice in going]
            self.backend.close([slot for slot in self.slots if slot not in kept])
            self.slots = kept
        self._open = going

    def take(self, drawn: Sequence[int]) -> list[Event]:
        self.following = [[self.job.choices[choice][self.place]] for choice in self._open]
        self.place += 1
        self.ended = not self._open
        if not self.ended:
            return []
        shares = torch.tensor(self._logs, dtype=torch.float64).softmax(-1)
        return [Done(self.job.ticket, probabilities=tuple(shares.tolist()))]


def most_said(job: Job, positions: int) -> int:
    """Most ids of the text that a job may answer with, in a model of so many positions."""
    assert isinstance(job.request.grammar, Text), job.request
    return min(job.request.grammar.max_new_tokens, positions - len(job.prefix))


def running(job: Job, backend: Backend) -> Running:
    """The request of a job, ready to run."""
    grammar = job.request.grammar
    if isinstance(grammar, Codes):
        return _Drawing(job, backend, grammar)
    if isinstance(grammar, Choice):
        return _Choosing(job, backend)
    return _Saying(job, backend, grammar)


def may_say(config: LanguageConfig) -> Tensor:
    """bool (text_size,): the ids that text may be made of, and the end of a turn; no other control id."""
    allowed = torch.arange(config.text_size) < config.pieces
    allowed[config.end] = True
    return allowed


def by_ids(those: Sequence[Running]) -> dict[range, list[Running]]:
    """The requests by what can come next in them."""
    found: dict[range, list[Running]] = {}
    for one in those:
        found.setdefault(one.ids, []).append(one)
    return found
