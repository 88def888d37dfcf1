"""The thread that runs the engines: every request of a model beside the others, one step after the other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import torch

from opentar.serve.models import ServedModel
from opentar.serve.painter import Painter, told
from opentar.serve.units import Unit
from opentar.serve.work import Draw

Command = Callable[[], None]


class Worker:
    """Steps the engines of all models that have work, in turn, and sends drawn codes to the painter.

    An engine that fails in the middle of a step, for want of memory or by a fault of ours, loses all that it runs. They
    are begun again one at a time; the same seed gives the same ids, so what was told already is passed over and nobody
    notices. The one that fails alone has failed.
    """

    def __init__(self, painter: Painter, failed: Callable[[BaseException], object]) -> None:
        self._painter, self._failed = painter, failed
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._units: dict[ServedModel, dict[int, Unit]] = {}
        self._careful: dict[ServedModel, set[int]] = {}
        """Tickets of what is begun again one at a time."""
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="opentar-engine", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End before the next step; what runs stays undone."""
        self._commands.put(self._stop)
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether it works."""
        return self._thread.is_alive()

    def add(self, unit: Unit) -> None:
        """Begin an answer."""
        self._commands.put(lambda: self._add(unit))

    def cancel(self, unit: Unit) -> None:
        """Let an answer go before the next step; one that has ended is no matter."""
        unit.gone = True
        self._commands.put(lambda: self._drop(unit))

    def _loop(self) -> None:
        while not self._stopping:
            self._take_commands()
            for model in list(self._units):
                try:
                    self._step(model)
                except Exception as error:
                    # Not even beginning again went well; nobody is left waiting for it.
                    self._give_up(model, error)

    def _take_commands(self) -> None:
        if not self._units:
            self._run(self._commands.get())
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            self._run(command)

    def _run(self, command: Command) -> None:
        try:
            command()
        except Exception as error:
            # A backend that cannot give slots back; the thread must live on for the others.
            self._failed(error)
            told(error)

    def _stop(self) -> None:
        self._stopping = True

    def _add(self, unit: Unit) -> None:
        if not unit.gone:
            self._units.setdefault(unit.model, {})[unit.job.ticket] = unit
            unit.model.engine.add(unit.job)

    def _drop(self, unit: Unit) -> None:
        units = self._units.get(unit.model, {})
        if units.pop(unit.job.ticket, None) is not None:
            unit.model.engine.cancel(unit.job.ticket)
        careful = self._careful.get(unit.model, set())
        careful.discard(unit.job.ticket)
        if not careful:
            self._careful.pop(unit.model, None)
            unit.model.engine.batch = unit.model.batch
        if not units:
            # A model without work is forgotten here: it may have to leave the memory.
            self._units.pop(unit.model, None)

    def _step(self, model: ServedModel) -> None:
        units = self._units[model]
        try:
            with torch.no_grad():
                events = model.engine.step()
            ended = []
            for event in events:
                unit = units.get(event.ticket)
                if unit is None or unit in ended:
                    continue
                if unit.take(event):
                    ended.append(unit)
                elif unit.sketch_is_due():
                    self._painter.add_sketch(unit)
        except Exception as error:
            self._failed(error)
            self._begin_again(model, error)
            return
        for unit in ended:
            self._drop(unit)
            if isinstance(unit.work, Draw) and unit.codes:
                self._painter.add(unit)

    def _begin_again(self, model: ServedModel, error: Exception) -> None:
        units = list(self._units[model].values())
        for unit in units:
            model.engine.cancel(unit.job.ticket)
        if model.engine.batch == 1 or len(units) == 1:
            # One runs at a time, in the order in which they came.
            units[0].post(told(error))
            self._drop(units.pop(0))
        if not units:
            return
        self._careful[model] = {unit.job.ticket for unit in units}
        model.engine.batch = 1
        for unit in units:
            unit.restart()
            model.engine.add(unit.job)

    def _give_up(self, model: ServedModel, error: Exception) -> None:
        self._careful.pop(model, None)
        model.engine.batch = model.batch
        for unit in self._units.pop(model, {}).values():
            unit.post(told(error))
