"""The painting queue: codes become pictures beside the engines, those that wait together where they are alike.

Small pictures of one kind are painted in one batch, which takes two thirds of the time of one after the other. A
picture comes out of it as it does alone, as far as the products of the de-tokenizer round alike (docs/serving.md).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
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
    from PIL import Image
    from torch import Tensor

    from opentar.tokens_to_image.detokenizer import Callback

_LOG = logging.getLogger(__name__)
TOGETHER = 4
"""Pictures of one batch; more are no faster, and who comes next waits longer."""
SMALL_SIDE = 256
"""Largest side in pixels of pictures that are painted together."""


class _Left(Exception):
    """Nobody waits for the picture any longer."""


class _Watched(Steps):
    """Shows each picture of a batch a few times while it is painted, and stops when nobody waits for any of them."""

    def __init__(self, units: Sequence[Unit]) -> None:
        super().__init__(None)
        self._units = units
        # Looks at codes count too.
        self._wanted = [_draw_of(unit).previews - unit.looks for unit in units]
        self._shown = [0] * len(units)

    def watch(self) -> Callback:
        """What the de-tokenizer calls after every step."""
        return self._step

    def _step(self, done: int, total: int, preview: Callable[[], Tensor]) -> None:
        if all(unit.gone for unit in self._units):
            raise _Left
        pictures: list[Image.Image] = []
        for row, unit in enumerate(self._units):
            wanted, shown = self._wanted[row], self._shown[row]
            # The finished picture is no preview, so they stand at equal shares of the way before it.
            due = done * (wanted + 1) // total
            if done < total and shown < wanted and due > shown and not unit.gone:
                pictures = pictures or pictures_of(preview())
                unit.preview(pictures[row])
                self._shown[row] = due


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
                sketched = self._sketches.popleft() if self._sketches else None
                units = [] if sketched else self._next()
            if sketched and not sketched.gone:
                self._sketch(sketched)
            if units:
                self._paint(units)
            # A unit holds its model, which may have to go while nothing is painted.
            del units, sketched

    def _next(self) -> list[Unit]:
        """The first that waits, with those that can be painted beside it; the others keep their order."""
        units: list[Unit] = []
        others: deque[Unit] = deque()
        while self._waiting:
            unit = self._waiting.popleft()
            if unit.gone:
                continue
            if not units or (len(units) < _most(units[0]) and _alike(unit, units[0])):
                units.append(unit)
            else:
                others.append(unit)
        self._waiting = others
        return units

    def _sketch(self, unit: Unit) -> None:
        work, codes = _draw_of(unit), list(unit.so_far)
        if not any(code is not None for code in codes):
            return  # The engine has just begun again.
        try:
            with torch.no_grad():
                unit.preview(sketch(unit.model.tar.parts, codes, work.settings, work.request.seed))
        except Exception as error:
            # Only a look is lost; whether the picture fails is told when it is painted.
            self._failed(error)
            told(error)

    def _paint(self, units: list[Unit]) -> None:
        model, settings = units[0].model, _draw_of(units[0]).settings
        seeds = [_draw_of(unit).request.seed for unit in units]
        try:
            with torch.no_grad():
                codes_BN = torch.tensor([unit.codes for unit in units])
                pictures = paint(model.tar.parts, codes_BN, seeds, settings, _Watched(units))
        except _Left:
            return
        except Exception as error:
            self._failed(error)
            if len(units) == 1:
                units[0].post(told(error))
                return
            # There may be memory for one, or one of them is at fault; previews begin anew, as after any failure.
            for unit in units:
                if not unit.gone:
                    self._paint([unit])
            return
        for unit, picture, seed in zip(units, pictures, seeds, strict=True):
            picture.info.update(facts(_draw_of(unit).drawing, settings) | model.tar.made_by)
            unit.post(Picture(index=unit.index, picture=picture, codes=unit.codes, seed=seed))
            unit.end(len(unit.codes))


def _draw_of(unit: Unit) -> Draw:
    assert isinstance(unit.work, Draw)
    return unit.work


def _most(unit: Unit) -> int:
    """Pictures such as this one that are painted together: large ones fill the cores, and the memory, alone."""
    return TOGETHER if unit.model.sides[_draw_of(unit).settings.detok] <= SMALL_SIDE else 1


def _alike(one: Unit, other: Unit) -> bool:
    return (
        one.model is other.model
        and len(one.codes) == len(other.codes)
        and _draw_of(one).settings == _draw_of(other).settings
    )


def told(error: BaseException) -> OpenTarError:
    """An error of work that was admitted, as whoever waits may be told it; what is none of his is logged."""
    if isinstance(error, OpenTarError):
        return error
    if is_out_of_memory(error):
        return NoMemoryError("there was not enough memory for this request; try again, or ask for less at once")
    _LOG.error("a request failed", exc_info=error)
    return InternalError("the server failed at this request; the log of the server says why")
