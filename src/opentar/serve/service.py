"""The service: owns models, takes requests on, tells what becomes of them. It knows no HTTP.

```python
service = Service(Shelf({"nano": "nano"}), Limits())
service.start()
async with service.admit("nano") as admission:          # a place in the queue; the model is loaded
    await admission.submit([work])
    async for event in admission:
        ...
await service.close()
```

Threads: one steps the engines (`worker.py`), one paints (`painter.py`), one encodes pictures, one loads models; prompts
are built beside them. Coroutines only wait, so the event loop is free.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TypeVar

from opentar.core.errors import OpenTarError
from opentar.core.memory import is_out_of_memory
from opentar.serve.admission import Admission
from opentar.serve.limits import Limits
from opentar.serve.metrics import Metrics
from opentar.serve.models import Entry, ServedModel, Shelf
from opentar.serve.painter import Painter
from opentar.serve.pictures import KnownCodes
from opentar.serve.refused import BusyError, LeavingError, UnsupportedError
from opentar.serve.worker import Worker

Result = TypeVar("Result")

_LONGEST_WAIT = 60
"""Seconds; more than two minutes are ignored by OpenAI's clients."""
_FAILURES = 3
"""So many faults without anything done between them, and the service says that it is not ready."""


class Service:
    """Runs requests on the models of a shelf.

    Args:
        shelf: the models.
        limits: what is taken on at most.
    """

    def __init__(self, shelf: Shelf, limits: Limits | None = None) -> None:
        self.shelf, self.limits = shelf, limits or Limits()
        self.metrics = Metrics()
        self.known = KnownCodes(self.limits.kept_pictures)
        self.tickets = count()
        self.painter = Painter(self._failed)
        self.worker = Worker(self.painter, self._failed)
        # Apart from the loop's own threads, which those who wait for a model would all take.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="opentar-reader")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="opentar-loader")
        self._places = 0
        self._took: deque[float] = deque([1.0], maxlen=32)
        self._open: set[Admission] = set()
        self._failures = 0
        self._started = self._warm = self._leaving = False
        metrics, known = self.metrics, self.known
        metrics.watch("opentar_active", "Answers that run or wait.", lambda: self._places)
        metrics.watch("opentar_painting_queue", "Pictures that wait to be painted.", lambda: self.painter.waiting)
        metrics.watch("opentar_code_cache_hits", "Pictures whose codes were known.", lambda: known.hits)
        metrics.watch("opentar_code_cache_misses", "Pictures that were encoded.", lambda: known.misses)

    def start(self) -> None:
        """Start the threads."""
        self._started = True
        self.painter.start()
        self.worker.start()

    async def warm_up(self) -> None:
        """Load the default model; after it the service is ready. Raises what loading raises."""
        entry = self.shelf.entry(None)
        await self.load(entry)
        self.shelf.give_back(entry)
        self._warm = True

    def why_not_ready(self) -> str | None:
        """Why no request should be sent here now; None where all is well."""
        if not self._started or not self._warm:
            return "the model is being loaded"
        if self._leaving:
            return "the server is about to end"
        if not (self.worker.alive and self.painter.alive):
            return "a thread of the server has ended"
        if self._failures >= _FAILURES:
            return f"the last {self._failures} steps failed"
        return None

    def admit(self, model: str | None = None, count: int = 1) -> Admission:
        """A place in the queue for a request of `count` answers, to be entered as a context.

        Raises:
            UnknownModelError: no such model.
            UnsupportedError: more answers than there is ever room for.
            BusyError, LeavingError: there is no room, or the service ends.
        """
        entry = self.shelf.entry(model)
        if self._leaving or not self._started:
            raise LeavingError("the server is about to end; try again", 5)
        room = self.limits.batch + self.limits.queue
        if count > room:
            raise UnsupportedError(f"{count} answers were asked for; one request may have {room} here", "n")
        self.check_room(count)
        self._places += count
        admission = Admission(self, entry, count)
        self._open.add(admission)
        return admission

    def check_room(self, count: int = 1) -> None:
        """Raise BusyError where so many further answers have no place now."""
        room = self.limits.batch + self.limits.queue
        if self._places + count > room:
            seconds = self.wait_seconds()
            raise BusyError(f"{self._places} answers wait or run, of {room}; try again in {seconds} seconds", seconds)

    def leave(self, admission: Admission) -> None:
        """An admission has ended; called by itself."""
        self._open.discard(admission)
        self._places -= admission.count
        if admission.finished:
            self._failures = 0
            self._took.append(time.monotonic() - admission.began)

    def wait_seconds(self) -> int:
        """About how long it takes until there is room, from the last requests."""
        each = sum(self._took) / len(self._took)
        return max(1, min(_LONGEST_WAIT, round(each * self.limits.queue / self.limits.batch)))

    def load(self, entry: Entry) -> asyncio.Future[ServedModel]:
        """A model of the shelf, to be given back; see `Shelf.take`."""
        return asyncio.wrap_future(self._loader.submit(self.shelf.take, entry))

    def load_painter(self, model: ServedModel, name: str) -> asyncio.Future[None]:
        """Load a de-tokenizer of a model that was taken."""
        return asyncio.wrap_future(self._loader.submit(model.load_painter, name))

    async def read(self, work: Callable[[], Result]) -> Result:
        """Run `work` on the thread that encodes pictures."""
        return await asyncio.wrap_future(self._reader.submit(work))

    @property
    def active(self) -> int:
        """Answers that run or wait."""
        return self._places

    def stop_admitting(self) -> None:
        """Take nothing on any more; what runs goes on."""
        self._leaving = True

    async def drain(self, seconds: float) -> bool:
        """Take nothing on any more and wait until all has ended; False where that takes longer than `seconds`."""
        self.stop_admitting()
        until = time.monotonic() + seconds
        while self._places and time.monotonic() < until:
            await asyncio.sleep(0.02)
        return not self._places

    def end_all(self) -> None:
        """What still runs ends with a LeavingError."""
        for admission in list(self._open):
            admission.fail(LeavingError("the server ends; send the request again", 5))

    async def close(self) -> None:
        """Stop the threads; what still runs ends with a LeavingError."""
        self.stop_admitting()
        self.end_all()
        for admission in list(self._open):
            # Also where whoever waits does not look any more.
            admission.let_go()
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self.worker.stop()
        self.painter.stop()
        for pool in (self._reader, self._loader):
            pool.shutdown(cancel_futures=True)

    def _failed(self, error: BaseException) -> None:
        """An engine or a de-tokenizer failed; called from their threads."""
        self._failures += 1
        kind = "memory" if is_out_of_memory(error) else "known" if isinstance(error, OpenTarError) else "bug"
        self.metrics.failures.labels(kind).inc()
