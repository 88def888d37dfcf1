"""The engine: admits requests, runs those that are alike side by side, tells what happens, cancels within a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count

from opentar.core.errors import ConfigError, OpenTarError
from opentar.engine.backends.protocol import Backend
from opentar.engine.events import Done, Event, Failed
from opentar.engine.groups import Group, Job, alike, crowded, group_of, job_of
from opentar.engine.request import Request
from opentar.language.prompt import PromptBuilder

BATCH = 16
"""Requests that run side by side; more only cost memory."""


class Engine:
    """Runs requests on one language model.

    Args:
        backend: runs the language model.
        builder: makes ids of conversations.
        batch: most requests side by side.
    """

    def __init__(self, backend: Backend, builder: PromptBuilder, batch: int = BATCH) -> None:
        self.backend, self.builder, self.batch = backend, builder, batch
        self._tickets = count()
        self._waiting: deque[Job] = deque()
        self._group: Group | None = None

    def submit(self, request: Request) -> int:
        """Admit a request; returns its ticket. Raises PromptError or ConfigError for one that cannot run."""
        ticket = next(self._tickets)
        self._waiting.append(job_of(ticket, request, self.builder, self.backend.config.end))
        return ticket

    def cancel(self, ticket: int) -> None:
        """Let a request go before the next step; one that has ended is no matter."""
        self._waiting = deque(job for job in self._waiting if job.ticket != ticket)
        if self._group is not None:
            self._group.drop(ticket)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and (self._group is None or not self._group.jobs)

    def step(self) -> list[Event]:
        """One step of whatever runs; nothing where the engine is idle.

        What goes wrong in a step is told as `Failed` for each request that was in it; those that wait go on.
        """
        jobs: list[Job] = []
        try:
            if self._group is None or not self._group.jobs:
                jobs = self._next_jobs()
                if not jobs:
                    return []
                self._group = group_of(self.backend, jobs)
            jobs = list(self._group.jobs)
            return self._group.step()
        except OpenTarError as error:
            self._group = None
            return [Failed(job.ticket, error) for job in jobs]
        except BaseException:
            # Out of memory, or Ctrl-C: codes and cache may differ by a step, so nobody goes on with them.
            self._group = None
            raise

    def run(self, requests: Sequence[Request]) -> Iterator[Event]:
        """Submit requests and yield their events to the end; tickets count up in the order given.

        Whoever stops listening cancels what has not ended. Raises what `submit` raises, before anything runs, and
        ConfigError where the engine has other work: its events would come here too.
        """
        if not self.idle:
            raise ConfigError("the engine is at work; use submit and step, or an engine of your own")
        tickets: list[int] = []
        try:
            for request in requests:
                tickets.append(self.submit(request))
            while not self.idle:
                yield from self.step()
        finally:
            for ticket in tickets:
                self.cancel(ticket)

    def results(self, requests: Sequence[Request]) -> list[Done]:
        """What `run` ends with for each request, in the order given. Raises the error of one that fails."""
        ended: dict[int, Done] = {}
        for event in self.run(requests):
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Done):
                ended[event.ticket] = event
        return [ended[ticket] for ticket in sorted(ended)]

    def _next_jobs(self) -> list[Job]:
        """The first that waits, and the next ones like it."""
        chosen: list[Job] = []
        while self._waiting and len(chosen) < self.batch:
            if chosen and not self._fit(chosen[0], self._waiting[0]):
                break
            chosen.append(self._waiting.popleft())
        return chosen

    def _fit(self, first: Job, other: Job) -> bool:
        """Whether two can run side by side. An answer that the model's positions may cut runs alone: rows begin
        together, so it would cut its neighbours as well.
        """
        most = self.backend.config.max_length
        return alike(first.request) == alike(other.request) and not (crowded(first, most) or crowded(other, most))
