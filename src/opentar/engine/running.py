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
from opentar.nn.sampling import guide

if TYPE_CHECKING:
    from opentar.language.model import LanguageConfig


class Running(abc.ABC):
    """One request in the middle.

    Each step its slots are asked for logits over `ids`, `row` makes of them what is drawn from, and `take` says what
    was drawn. What `following` names is appended to the slots; one that is `ended` is let go.
    """

    ids: range
    """What can come next."""

    def __init__(self, job: Job, backend: Backend) -> None:
        self.job, self.backend = job, backend
        self.slots: list[int] = []
        self.following: list[int] = []
        """The next id of each slot."""
        self.place = 0
        """Ids drawn so far."""
        self.ended = False

    @property
    def prompts(self) -> list[list[int]]:
        """What is read first, a slot each."""
        return [self.job.prefix]

    @abc.abstractmethod
    def row(self, logits_SV: Tensor) -> Tensor | None:
        """The logits (V,) that the next id is drawn from; None where nothing is drawn."""

    @abc.abstractmethod
    def take(self, drawn: int) -> list[Event]:
        """What happens with the entry of `ids` that was drawn; 0 where nothing is."""


class _Drawing(Running):
    def __init__(self, job: Job, backend: Backend, grammar: Codes) -> None:
        super().__init__(job, backend)
        self._vocab, self._length = backend.config.vocab, grammar.scale.length
        self.ids = range(self._vocab.first_code, self._vocab.size)
        self._codes: list[int] = []

    @property
    def prompts(self) -> list[list[int]]:
        return [self.job.prefix] if self.job.other is None else [self.job.prefix, self.job.other]

    def row(self, logits_SV: Tensor) -> Tensor:
        one = logits_SV[0]
        return one if len(logits_SV) == 1 else guide(one, logits_SV[1], self.job.request.sampling.guidance)

    def take(self, drawn: int) -> list[Event]:
        self._codes.append(drawn)
        self.place = len(self._codes)
        events: list[Event] = [CodeDrawn(self.job.ticket, drawn, self.place, self._length)]
        self.ended = self.place == self._length
        if self.ended:
            events.append(Done(self.job.ticket, tuple(self._codes)))
        self.following = [self._vocab.code_token(drawn)] * len(self.slots)
        return events


class _Saying(Running):
    def __init__(self, job: Job, backend: Backend, grammar: Text) -> None:
        super().__init__(job, backend)
        self._banned = ~may_say(backend.config)
        self.ids = range(len(self._banned))
        self._most = most_said(job, backend.config.max_length)
        self._logs, self._row_V = grammar.logs, torch.empty(0)
        self._said: list[int] = []

    def row(self, logits_SV: Tensor) -> Tensor:
        self._banned = self._banned.to(logits_SV.device)
        row_V = logits_SV[0].masked_fill(self._banned, float("-inf"))
        if self._logs is not None:
            self._row_V = row_V
        return row_V

    def take(self, drawn: int) -> list[Event]:
        events: list[Event] = []
        stop = drawn == self.backend.config.end
        if not stop:
            self._said.append(drawn)
            events.append(self._event(drawn))
        self.place = len(self._said)
        self.ended = stop or self.place == self._most
        if self.ended:
            events.append(Done(self.job.ticket, tuple(self._said)))
        self.following = [drawn]
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

    def row(self, logits_SV: Tensor) -> None:
        logits_SV = logits_SV.masked_fill(self._banned.to(logits_SV.device), float("-inf"))
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

    def take(self, drawn: int) -> list[Event]:
        self.following = [self.job.choices[choice][self.place] for choice in self._open]
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
