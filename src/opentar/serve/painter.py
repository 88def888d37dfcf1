"""The painting queue: codes become pictures one after the other, beside the engines.

One picture at a time: in a batch, rounding could give it other pixels than alone.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from opentar.core.errors import NoMemoryError, OpenTarError
from opentar.core.memory import is_out_of_memory
from opentar.drawing import Steps, facts, paint, pictures_of
from opentar.serve.events import Picture
from opentar.serve.refused import InternalError
from opentar.serve.sketching import sketch
from opentar.serve.units import Unit
from opentar.serve.work import Draw

if TYPE_CHECKING:
    from torch import Tensor

    from opentar.tokens_to_image.detokenizer import Callback

_LOG = logging.getLogger(__name__)


class _Left(Exception):
    """Nobody waits for the picture any longer."""


class _Watched(Steps):
    """Shows a picture a few times while it is painted, and stops when nobody waits."""

    def __init__(self, unit: Unit, previews: int) -> None:
        super().__init__(None)
        # Looks at its codes count too.
        self._unit, self._wanted, self._shown = unit, previews - unit.looks, 0

    def watch(self) -> Callback:
        """What the de-tokenizer calls after every step."""
        return self._step

    def _step(self, done: int, total: int, preview: Callable[[], Tensor]) -> None:
        if self._unit.gone:
            raise _Left
        # The finished picture is no preview, so they stand at equal shares of the way before it.
        due = done * (self._wanted + 1) // total
        if done < total and self._shown < self._wanted and due > self._shown:
            self._unit.preview(pictures_of(preview())[0])
            self._shown = due


class Painter:
    """A thread that paints. `failed` is told of every error that is no fault of the request."""

    def __init__(self, failed: Callable[[BaseException], object]) -> None:
        self._failed = failed
        self._waiting: deque[Unit] = deque()
        self._sketches: deque[Unit] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="opentar-painter", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the picture that is being painted; those that wait stay undone."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether it works."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Pictures in the queue."""
        return len(self._waiting)

    def add(self, unit: Unit) -> None:
        """Paint the codes of a unit, in its turn."""
        with self._changed:
            self._waiting.append(unit)
            self._changed.notify()

    def add_sketch(self, unit: Unit) -> None:
        """Show what the codes of a unit so far look like, before the next picture is painted: it takes one step."""
        with self._changed:
            self._sketches.append(unit)
            self._changed.notify()

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._sketches or self._stopping):
                    self._changed.wait()
                if self._stopping:
                    return
                queue, work = (self._sketches, self._sketch) if self._sketches else (self._waiting, self._paint)
                unit = queue.popleft()
            if not unit.gone:
                work(unit)
            # A unit holds its model, which may have to go while nothing is painted.
            del unit

    def _sketch(self, unit: Unit) -> None:
        work = unit.work
        assert isinstance(work, Draw)
        codes = list(unit.so_far)
        if not any(code is not None for code in codes):
            return  # The engine has just begun again.
        try:
            with torch.no_grad():
                unit.preview(sketch(unit.model.tar.parts, codes, work.settings, work.request.seed))
        except Exception as error:
            # Only a look is lost; whether the picture fails is told when it is painted.
            self._failed(error)
            told(error)

    def _paint(self, unit: Unit) -> None:
        work, tar = unit.work, unit.model.tar
        assert isinstance(work, Draw)
        seed = work.request.seed
        try:
            with torch.no_grad():
                codes_1N = torch.tensor([unit.codes])
                picture = paint(tar.parts, codes_1N, [seed], work.settings, _Watched(unit, work.previews))[0]
        except _Left:
            return
        except Exception as error:
            self._failed(error)
            unit.post(told(error))
            return
        picture.info.update(facts(work.drawing, work.settings) | tar.made_by)
        unit.post(Picture(index=unit.index, picture=picture, codes=unit.codes, seed=seed))
        unit.end(len(unit.codes))


def told(error: BaseException) -> OpenTarError:
    """An error of work that was admitted, as whoever waits may be told it; what is none of his is logged."""
    if isinstance(error, OpenTarError):
        return error
    if is_out_of_memory(error):
        return NoMemoryError("there was not enough memory for this request; try again, or ask for less at once")
    _LOG.error("a request failed", exc_info=error)
    return InternalError("the server failed at this request; the log of the server says why")
