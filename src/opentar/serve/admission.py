"""One request that was taken on: its place in the queue, its answers, its deadline."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from opentar.core.errors import OpenTarError
from opentar.engine.jobs import Job, job_of
from opentar.serve.events import Chosen, Code, Ended, Event, Picture, Preview, Token
from opentar.serve.models import Entry, ServedModel
from opentar.serve.painter import told
from opentar.serve.refused import LateError, LimitError
from opentar.serve.units import Unit
from opentar.serve.work import Draw, Say, Work

if TYPE_CHECKING:
    from opentar.serve.service import Service
    from opentar.vocab import Scale

Result = TypeVar("Result")


class Admission:
    """A place in the queue, made by `Service.admit`. Leaving it, however that happens, lets go of all that still runs.

    Iterating gives the events of all answers as they happen and ends with the last of them. The error of an answer is
    raised, and then the others are let go too.
    """

    def __init__(self, service: Service, entry: Entry, count: int) -> None:
        self._service, self._entry, self.count = service, entry, count
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | OpenTarError] = asyncio.Queue()
        self._units: list[Unit] = []
        self._waiting: deque[Unit] = deque()
        self._left = 0
        self._model: ServedModel | None = None
        self._closed = False
        self._heard: set[str] = set()
        self.began = time.monotonic()
        self.deadline = self._loop.time() + service.limits.seconds
        self.finished = False
        """Whether all answers have ended well."""

    @property
    def model(self) -> ServedModel:
        """The model, inside of the context."""
        assert self._model is not None, "enter the admission first"
        return self._model

    async def __aenter__(self) -> Self:
        """Load the model where it is not. Raises LateError, BusyError, and what loading raises."""
        try:
            await self._enter()
        except BaseException:
            self.close()
            raise
        return self

    async def _enter(self) -> None:
        self._model = self._service.shelf.take_loaded(self._entry)
        if self._model is not None:
            return
        # A thread cannot be stopped: where nobody waits any longer, the model is given back when it is there.
        taking = self._service.load(self._entry)
        try:
            async with asyncio.timeout_at(self.deadline):
                self._model = await asyncio.shield(taking)
        except BaseException as error:
            taking.add_done_callback(self._give_back)
            if isinstance(error, TimeoutError):
                raise self._late() from error
            raise

    def _give_back(self, taking: asyncio.Future[ServedModel]) -> None:
        if not taking.cancelled() and taking.exception() is None:
            self._service.shelf.give_back(self._entry)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the place."""
        self.close()

    async def side(self, detok: str) -> int:
        """Side of the pictures of a de-tokenizer, which is loaded where it is not.

        Raises LateError, ModelError, WeightsError.
        """
        if detok not in self.model.sides:
            await self._in_time(self._service.load_painter(self.model, detok))
        return self.model.sides[detok]

    async def codes(self, content: bytes, scale: Scale | None, name: str) -> tuple[int, ...]:
        """Codes of the file of a picture, known or encoded now; see `KnownCodes.codes`.

        Raises ImageError for what cannot be read, LateError.
        """
        known, model = self._service.known, self.model
        return await self._in_time(self._service.read(lambda: known.codes(model, content, scale, name)))

    def remember(self, content: bytes, codes: tuple[int, ...]) -> None:
        """The file of a picture that is given out, and what it was made of: it may be sent back."""
        self._service.known.drawn(self.model.tar.parts.hash, content, codes)

    async def submit(self, works: Sequence[Work], in_turn: bool = False) -> None:
        """Begin the answers. Raises PromptError or ConfigError for one that cannot run, LateError.

        `in_turn`: more than were admitted may be given; each of them begins when another one ends.
        """
        if not (len(works) == self.count or (in_turn and len(works) > self.count)):
            raise LimitError(f"{len(works)} answers were asked for and {self.count} admitted")
        model, tickets = self.model, self._service.tickets

        def built() -> list[Unit]:
            config = model.engine.backend.config
            return [
                Unit(index, work, job_of(next(tickets), work.request, model.builder, config), model, self._post)
                for index, work in enumerate(works)
            ]

        units = await self._in_time(asyncio.to_thread(built))
        self._units, self._left = units, len(units)
        self._waiting = deque(units[self.count :])
        for unit in units[: self.count]:
            self._service.worker.add(unit)

    def paint(self, works: Sequence[Draw], codes: Sequence[tuple[int, ...]]) -> None:
        """Begin pictures whose codes are known already: no engine takes part, they wait for the painter alone.

        Their prompts do not matter. Raises LimitError where there are more or fewer than were admitted.
        """
        if not len(works) == len(codes) == self.count:
            raise LimitError(f"{len(works)} pictures were asked for and {self.count} admitted")
        model, tickets = self.model, self._service.tickets
        for index, (work, row) in enumerate(zip(works, codes, strict=True)):
            unit = Unit(index, work, Job(next(tickets), work.request, []), model, self._post)
            unit.codes = row
            self._units.append(unit)
        self._left = len(self._units)
        for unit in self._units:
            self._service.painter.add(unit)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        """The next event. Raises the error of an answer that failed, LateError."""
        if not self._left:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout_at(self.deadline):
                event = await self._events.get()
        except TimeoutError as error:
            raise self._late() from error
        if isinstance(event, OpenTarError):
            raise event
        self._count(event)
        if isinstance(event, Ended):
            self._left -= 1
            self.finished = not self._left
            if self._waiting:
                self._service.worker.add(self._waiting.popleft())
        return event

    def fail(self, error: OpenTarError) -> None:
        """End with an error, which the next event raises."""
        self._events.put_nowait(error)

    def let_go(self) -> None:
        """Stop the answers that have not ended, before the next step of an engine or the painter."""
        if not self.finished:
            for unit in self._units:
                self._service.worker.cancel(unit)

    def close(self) -> None:
        """Let go of all that still runs, and of the place; a second time changes nothing."""
        if self._closed:
            return
        self._closed = True
        self.let_go()
        if self._model is not None:
            self._service.shelf.give_back(self._entry)
        metrics = self._service.metrics
        kinds = {Draw: "draw", Say: "say"}
        for unit in self._units:
            how = "done" if self.finished else "cut"
            metrics.ended.labels(self._entry.name, kinds.get(type(unit.work), "choose"), how).inc()
        metrics.seconds.labels(self._entry.name).observe(time.monotonic() - self.began)
        self._service.leave(self)

    async def _in_time(self, work: Awaitable[Result]) -> Result:
        try:
            async with asyncio.timeout_at(self.deadline):
                return await work
        except TimeoutError as error:
            raise self._late() from error
        except (MemoryError, RuntimeError) as error:
            raise told(error) from error

    def _late(self) -> LateError:
        return LateError(f"the request took longer than {self._service.limits.seconds:g} seconds")

    def _post(self, _: Unit, what: Event | OpenTarError) -> None:
        """Called from the threads of the engines and the painter."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, what)
        except RuntimeError:
            # The loop has ended, and with it whoever waited.
            for unit in self._units:
                unit.gone = True

    def _count(self, event: Event) -> None:
        metrics, name = self._service.metrics, self._entry.name
        match event:
            case Token(token=int()):
                metrics.tokens.labels(name, "said").inc()
                self._first("token")
            case Code():
                metrics.tokens.labels(name, "drawn").inc()
                self._first("code")
            case Preview():
                self._first("preview")
            case Picture():
                self._first("picture")
            case Chosen():
                self._first("choice")
            case Ended():
                metrics.tokens.labels(name, "read").inc(event.prompt_tokens)
                if event.reason == "length":
                    metrics.cut_texts.labels(name).inc()

    def _first(self, what: str) -> None:
        if what not in self._heard:
            self._heard.add(what)
            self._service.metrics.first.labels(what).observe(time.monotonic() - self.began)
