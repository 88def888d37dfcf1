"""Requests that run side by side, and the three ways in which they do: drawing codes, saying text, weighing choices.

A drawing is exactly `scale.length` choices among the ids of codes; no other id exists while it is drawn, so a short,
long or mixed grid cannot come out and nothing is ever repaired. Text can hold nothing but text. Random numbers come
from one seeded CPU generator per request: the same seed gives the same answer alone, in a batch, and on every device
whose logits agree. The folder's own generation settings (repetition penalty and the like) play no part.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from opentar.core.errors import PromptError
from opentar.engine.backends.protocol import Backend
from opentar.engine.events import CodeDrawn, Done, Event, TokenSaid
from opentar.engine.request import Codes, Request, Sampling, Text, unprompted
from opentar.language.prompt import PromptBuilder
from opentar.nn.sampling import generators, guide, sample


class Job(NamedTuple):
    """A request that was admitted."""

    ticket: int
    request: Request
    prefix: list[int]
    """Ids of the conversation, the assistant's turn opened."""
    other: list[int] | None = None
    """The same without the prompt, where the drawing is guided."""
    choices: tuple[list[int], ...] = ()
    """Ids of each choice, the end of the turn included."""


def job_of(ticket: int, request: Request, builder: PromptBuilder, end: int) -> Job:
    """The ids of a request. Raises PromptError where they do not fit the model."""
    grammar = request.grammar
    if isinstance(grammar, Codes):
        prefix = builder.prefix(request.turns, grammar.scale)
        guided = request.sampling.guidance != 1
        return Job(
            ticket, request, prefix, builder.prefix(unprompted(request.turns), grammar.scale) if guided else None
        )
    prefix = builder.prefix(request.turns)
    if isinstance(grammar, Text):
        return Job(ticket, request, prefix)
    choices = tuple([*builder.answer(text), end] for text in grammar.texts)
    longest = len(prefix) + max(map(len, choices), default=0)
    if longest > builder.limit:
        raise PromptError(f"prompt and choices need {longest} tokens, the model has {builder.limit}; shorten them")
    return Job(ticket, request, prefix, choices=choices)


def alike(request: Request) -> tuple[object, ...]:
    """What requests that run side by side have in common."""
    grammar = request.grammar
    if isinstance(grammar, Codes):
        return Codes, grammar.scale, request.sampling
    if isinstance(grammar, Text):
        return Text, grammar.max_new_tokens, request.sampling
    return (type(grammar),)


def crowded(job: Job, most: int) -> bool:
    """Whether the answer of a job may run into the end of a model that has `most` positions."""
    grammar = job.request.grammar
    return isinstance(grammar, Text) and len(job.prefix) + grammar.max_new_tokens > most


def group_of(backend: Backend, jobs: Sequence[Job]) -> Group:
    """The running group of jobs that are alike; their prompts are read here."""
    grammar = jobs[0].request.grammar
    if isinstance(grammar, Codes):
        return _Drawing(backend, jobs, grammar)
    if isinstance(grammar, Text):
        return _Saying(backend, jobs, grammar)
    return _Weighing(backend, jobs)


class Group(abc.ABC):
    """Jobs that run side by side, one step at a time."""

    def __init__(self, backend: Backend, jobs: Sequence[Job]) -> None:
        self.backend, self.jobs = backend, list(jobs)

    @property
    def sampling(self) -> Sampling:
        """Of all of them."""
        return self.jobs[0].request.sampling

    @property
    def tickets(self) -> list[int]:
        """Of the jobs that still run."""
        return [job.ticket for job in self.jobs]

    @abc.abstractmethod
    def step(self) -> list[Event]:
        """One step of every job; a group without jobs has ended."""

    def drop(self, ticket: int) -> None:
        """Let a job go."""
        places = [place for place, job in enumerate(self.jobs) if job.ticket != ticket]
        if len(places) < len(self.jobs):
            self.jobs = [self.jobs[place] for place in places]
            if self.jobs:
                self._kept(places)

    def _kept(self, places: Sequence[int]) -> None:  # noqa: B027  (a single step has nothing to keep)
        """Only the jobs at these places go on."""


class _Drawing(Group):
    def __init__(self, backend: Backend, jobs: Sequence[Job], grammar: Codes) -> None:
        super().__init__(backend, jobs)
        self._length, self._sources = grammar.scale.length, generators([job.request.seed for job in jobs], len(jobs))
        self._guided = self.sampling.guidance != 1
        others = [job.other for job in jobs if job.other is not None]
        self._rows = backend.prefill([*(job.prefix for job in jobs), *others])
        self._codes_BN = torch.empty(len(jobs), 0, dtype=torch.int64)

    def step(self) -> list[Event]:
        vocab, sampling, count = self.backend.config.vocab, self.sampling, len(self.jobs)
        logits = self._rows.logits(range(vocab.first_code, vocab.size)).float()
        if self._guided:
            logits = guide(logits[:count], logits[count:], sampling.guidance)
        codes_B = sample(logits, sampling.temperature, sampling.top_k, sampling.top_p, self._sources).cpu()
        self._codes_BN = torch.cat([self._codes_BN, codes_B[:, None]], 1)
        done = self._codes_BN.shape[1]
        events: list[Event] = [
            CodeDrawn(job.ticket, code, done, self._length)
            for job, code in zip(self.jobs, codes_B.tolist(), strict=True)
        ]
        if done == self._length:
            events += [
                Done(job.ticket, tuple(codes)) for job, codes in zip(self.jobs, self._codes_BN.tolist(), strict=True)
            ]
            self.jobs = []
            return events
        tokens = vocab.code_token(codes_B)
        self._rows.step(torch.cat([tokens, tokens]) if self._guided else tokens)
        return events

    def _kept(self, places: Sequence[int]) -> None:
        count = len(self._sources)
        self._rows.keep([*places, *(place + count for place in places)] if self._guided else places)
        self._codes_BN, self._sources = self._codes_BN[list(places)], [self._sources[place] for place in places]


class _Saying(Group):
    def __init__(self, backend: Backend, jobs: Sequence[Job], grammar: Text) -> None:
        super().__init__(backend, jobs)
        config = backend.config
        room = config.max_length - max(len(job.prefix) for job in jobs)
        if room < 1:
            raise PromptError(f"the prompt fills all {config.max_length} positions; shorten it")
        self._most, self._banned = min(grammar.max_new_tokens, room), ~may_say(backend)
        self._sources = generators([job.request.seed for job in jobs], len(jobs))
        self._rows = backend.prefill([job.prefix for job in jobs])
        self._said: list[list[int]] = [[] for _ in jobs]
        self._ended = [False] * len(jobs)

    def step(self) -> list[Event]:
        sampling, end, events = self.sampling, self.backend.config.end, list[Event]()
        logits = self._rows.logits(range(len(self._banned))).float()
        logits = logits.masked_fill(self._banned.to(logits.device), float("-inf"))
        tokens_B = sample(logits, sampling.temperature, sampling.top_k, sampling.top_p, self._sources)
        for place, (job, token) in enumerate(zip(self.jobs, tokens_B.tolist(), strict=True)):
            if self._ended[place]:
                continue
            if token != end:
                self._said[place].append(token)
                events.append(TokenSaid(job.ticket, token))
            if token == end or len(self._said[place]) == self._most:
                self._ended[place] = True
                events.append(Done(job.ticket, tuple(self._said[place])))
        if all(self._ended):
            self.jobs = []
            return events
        # A row that has ended goes on unheard: taking it out would change how the others are rounded.
        self._rows.step(tokens_B)
        return events

    def _kept(self, places: Sequence[int]) -> None:
        self._rows.keep(places)
        self._sources = [self._sources[place] for place in places]
        self._said, self._ended = [self._said[place] for place in places], [self._ended[place] for place in places]


class _Weighing(Group):
    def step(self) -> list[Event]:
        prompts = [job.prefix for job in self.jobs for _ in job.choices]
        answers = [choice for job in self.jobs for choice in job.choices]
        logs = self.backend.log_probabilities(prompts, answers, may_say(self.backend))
        shares = [part.softmax(-1) for part in logs.split([len(job.choices) for job in self.jobs])]
        events: list[Event] = [
            Done(job.ticket, probabilities=tuple(share.tolist())) for job, share in zip(self.jobs, shares, strict=True)
        ]
        self.jobs = []
        return events


def may_say(backend: Backend) -> Tensor:
    """bool (text_size,): the ids that text may be made of, and the end of a turn; no other control id."""
    config = backend.config
    allowed = torch.arange(config.text_size) < config.pieces
    allowed[config.end] = True
    return allowed
