"""The engine: admits requests, runs all of them side by side, tells what happens, cancels within a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count

import torch
from torch import Tensor

from opentar.core.errors import ConfigError, ModelError, NoMemoryError, OpenTarError
from opentar.core.memory import is_out_of_memory
from opentar.engine.backends.protocol import Backend, PlacingBackend
from opentar.engine.beginnings import Beginnings
from opentar.engine.events import Done, Event, Failed
from opentar.engine.jobs import Job, check_passes, job_of, picture_end
from opentar.engine.request import Request, Sampling
from opentar.engine.running import Running, by_ids, running
from opentar.language.prompt import PromptBuilder
from opentar.nn.sampling import gumbel_sample

BATCH = 16
"""Requests that run side by side; more only cost memory."""
ADMITTED_IDS = 1024
"""Ids of prompts that are read in one step while others wait for their next id; one prompt at least."""


class Engine:
    """Runs requests on one language model, of any kind and length beside each other.

    A request gets the same ids alone and among others, as far as the backend computes the same logits: matrix products
    of one row and of several may round differently, and an id changes where the two likeliest are closer than that.

    Args:
        backend: runs the language model.
        builder: makes ids of conversations.
        batch: most requests side by side.
        keep: keep the pictures of prompts for further questions about them, which are then read apart from their
            questions; without it whole prompts are read together, which is faster where no picture comes twice.
    """

    def __init__(self, backend: Backend, builder: PromptBuilder, batch: int = BATCH, keep: bool = True) -> None:
        self.backend, self.builder, self.batch, self.keep = backend, builder, batch, keep
        self._tickets = count()
        self._waiting: deque[Job] = deque()
        self._running: list[Running] = []
        self._beginnings = Beginnings(backend)

    def submit(self, request: Request) -> int:
        """Admit a request; returns its ticket. Raises PromptError or ConfigError for one that cannot run."""
        ticket = next(self._tickets)
        self.add(job_of(ticket, request, self.builder, self.backend.config))
        return ticket

    def add(self, job: Job) -> None:
        """Admit a request whose ids are known already, under a ticket that no other has. Raises ConfigError where the
        backend draws one code a pass only and the request asks for several.
        """
        check_passes(job.request, self.backend)
        self._waiting.append(job)

    def cancel(self, ticket: int) -> None:
        """Let a request go before the next step; one that has ended is no matter."""
        self._waiting = deque(job for job in self._waiting if job.ticket != ticket)
        self._let_go([one for one in self._running if one.job.ticket == ticket])

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and not self._running

    def step(self) -> list[Event]:
        """Read the prompts that there is room for, then one id of every request; nothing where the engine is idle.

        What goes wrong with one request is told as `Failed` and leaves the others as they are; a backend that fails
        fails all that run, and those that wait go on. What was done before it failed is told all the same.
        """
        events: list[Event] = []
        try:
            events += self._admit()
            if self._running:
                self._advance(events)
        except OpenTarError as error:
            events += [Failed(one.job.ticket, error) for one in self._running]
            self._let_go(list(self._running))
        except BaseException:
            # Ctrl-C, or out of memory between two ids: slots may differ by one, so nobody goes on with them.
            self._let_go(list(self._running))
            raise
        return events

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

    def _admit(self) -> list[Event]:
        """Read prompts of requests that wait; tells of those that cannot be read."""
        fresh: list[Running] = []
        ids, others = 0, bool(self._running)
        while self._waiting and len(self._running) + len(fresh) < self.batch:
            ids += len(self._waiting[0].prefix)
            if others and fresh and ids > ADMITTED_IDS:
                break
            fresh.append(running(self._waiting.popleft(), self.backend))
        if not fresh:
            return []
        try:
            self._read(fresh)
            return []
        except (OpenTarError, MemoryError, RuntimeError) as error:
            if len(fresh) == 1:
                return [Failed(fresh[0].job.ticket, _told(error))]
        # One of them is at fault; the others are read by themselves.
        events: list[Event] = []
        for one in fresh:
            try:
                self._read([one])
            except (OpenTarError, MemoryError, RuntimeError) as error:
                events.append(Failed(one.job.ticket, _told(error)))
        return events

    def _read(self, fresh: Sequence[Running]) -> None:
        """Read the prompts of requests, which then run. After an error none of them holds a slot."""
        prompts = [(one, prompt) for one in fresh for prompt in one.prompts]
        cuts = [picture_end(prompt, self.backend.config) if self.keep else 0 for _, prompt in prompts]
        pairs = list(zip(prompts, cuts, strict=True))
        begun: list[int] = []
        try:
            begun = self._beginnings.forks([prompt[:cut] for (_, prompt), cut in pairs if cut])
            for (one, _), cut in pairs:
                one.slots += [begun.pop(0)] if cut else self.backend.open(1)
            rests = [prompt[cut:] for (_, prompt), cut in pairs]
            self.backend.extend([slot for one in fresh for slot in one.slots], rests)
        except BaseException:
            self.backend.close(begun)
            self._let_go(fresh)
            raise
        self._running += fresh

    def _advance(self, events: list[Event]) -> None:
        """One id of every request that runs; `events` takes what happens, so that an error loses none of it."""
        rows: dict[int, Tensor] = {}
        drawn: dict[int, list[int] | OpenTarError] = {}
        for ids, those in by_ids(self._running).items():
            logits_PV = self.backend.logits([slot for one in those for slot in one.slots], ids)
            own = logits_PV.split([one.asked for one in those])
            for one, logits in zip(those, own, strict=True):
                try:
                    found = one.rows(logits)
                except OpenTarError as error:
                    # There may be no slot left for a choice.
                    drawn[one.job.ticket] = error
                    continue
                if found is not None:
                    rows[one.job.ticket] = found
        drawn |= self._draw(rows)
        for one in list(self._running):
            what = drawn.get(one.job.ticket, [])
            if isinstance(what, OpenTarError):
                events.append(Failed(one.job.ticket, what))
                self._let_go([one])
                continue
            events += one.take(what)
            if one.ended:
                self._let_go([one])
        if self._running:
            self._write()

    def _write(self) -> None:
        """What follows in every request, in one pass."""
        slots = [slot for one in self._running for slot in one.slots]
        pieces = [ids for one in self._running for ids in one.following]
        if all(one.positions is None for one in self._running):
            self.backend.extend(slots, pieces)
            return
        positions: list[list[int] | None] = []
        for one in self._running:
            positions += [None] * len(one.slots) if one.positions is None else one.positions
        assert isinstance(self.backend, PlacingBackend), "such requests are not admitted"
        self.backend.put(slots, pieces, positions)

    def _draw(self, rows: dict[int, Tensor]) -> dict[int, list[int] | OpenTarError]:
        """What is drawn from the rows of each ticket; an error where a row holds no numbers."""
        alike: dict[tuple[Sampling, int], list[Running]] = {}
        for one in self._running:
            if one.job.ticket in rows:
                alike.setdefault((one.job.request.sampling, len(one.ids)), []).append(one)
        found: dict[int, list[int] | OpenTarError] = {}
        for those in alike.values():
            try:
                found |= self._drawn(those, rows)
            except ModelError:
                for one in those:
                    try:
                        found |= self._drawn([one], rows)
                    except ModelError as error:
                        found[one.job.ticket] = error
        return found

    def _drawn(self, those: Sequence[Running], rows: dict[int, Tensor]) -> dict[int, list[int]]:
        sampling = those[0].job.request.sampling
        drawn_M = gumbel_sample(
            torch.cat([rows[one.job.ticket] for one in those]),
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            [one.job.request.seed for one in those for _ in one.places],
            [place for one in those for place in one.places],
        )
        parts = drawn_M.split([len(one.places) for one in those])
        return {one.job.ticket: part.tolist() for one, part in zip(those, parts, strict=True)}

    def _let_go(self, those: Sequence[Running]) -> None:
        for one in those:
            self.backend.close(one.slots)
            one.slots = []
        self._running = [one for one in self._running if one not in those]


def _told(error: Exception) -> OpenTarError:
    """An error of reading a prompt as one for the user; raises what is none of his."""
    if isinstance(error, OpenTarError):
        return error
    if is_out_of_memory(error):
        return NoMemoryError("there is not enough memory for this request beside the others; ask for less at once")
    raise error
