"""The measurement: limits, then group by group all sides in alternation, limits again; rows as they come."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opentar.bench.child import BASELINE, Child
from opentar.bench.cost import Stage, need_of
from opentar.bench.engines import Way, ways_of
from opentar.bench.facts import Facts, facts_of, memory_needed
from opentar.bench.limits import Limits, mean
from opentar.bench.rows import Measured, Row, row_of
from opentar.bench.targets import targets_of
from opentar.bench.work import FLOW, Work, chosen, works_of
from opentar.core.disk import human_bytes
from opentar.core.errors import ConfigError, ModelError, OpenTarError, nearest, shown
from opentar.core.memory import available_bytes
from opentar.core.progress import Progress

MOST_RUNS = 7
"""Runs of a work on each side, however short it is."""
MOST_SECONDS = 3600.0
ONE_AFTER_ANOTHER = "the same engine, one drawing after another (one is measured, and counted as many times)"
Run = Callable[[], Measured]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, and for how long. Raises ConfigError for seconds out of range."""

    works: tuple[str, ...] = ()
    """Names of works, or their beginnings; empty for all."""
    seconds: float = 2.0
    """Runs of a work are repeated while they take less than this in all; each runs once in any case."""
    quick: bool = False
    """Each work once, the long ones left out, smaller limits."""
    baseline: bool = True
    """Measure the published flow too."""
    also: tuple[Path, ...] = ()
    """Quantized copies of the model, measured beside it."""
    passes: tuple[str, ...] = ()
    """Further ways to draw the codes of an AR de-tokenizer, each measured on every copy."""
    code_passes: tuple[str, ...] = ()
    """Further ways to draw the codes of the language model, each measured beside all others."""
    engines: tuple[str, ...] = ()
    """Names of engines, as in the rows; empty for all."""
    device: str | None = None
    """cpu, cuda, mps; None is the best there is."""

    def __post_init__(self) -> None:
        if not 0 <= self.seconds <= MOST_SECONDS:
            raise ConfigError(f"seconds is {self.seconds}; it must be a number from 0 to {MOST_SECONDS:.0f}")


@dataclass
class Report:
    """What was measured; it grows while the measurement runs."""

    facts: Facts
    limits: list[Limits] = field(default_factory=list)
    """Before the first group of works, between the groups, and after the last."""
    rows: list[Row] = field(default_factory=list)
    titles: dict[str, str] = field(default_factory=dict)
    """Work -> what it is, in words."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    """work, engine and why, of what could not be measured."""
    interrupted: bool = False
    """Ctrl-C ended it; the rows so far stand."""


def alternate(sides: Sequence[Run], seconds: float, most: int = MOST_RUNS) -> list[list[Measured]]:
    """Run each side once, in order, again and again; the runs of each side.

    A further round begins where it would end within `seconds` of measured time, were it as long as the last one.
    """
    runs: list[list[Measured]] = [[] for _ in sides]
    spent = 0.0
    while True:
        took = 0.0
        for side, kept in zip(sides, runs, strict=True):
            kept.append(side())
            took += kept[-1].seconds
        spent += took
        if len(runs[0]) >= most or spent + took > seconds:
            return runs


def bench(
    folder: Path,
    options: Options,
    on_row: Callable[[Row], None] = lambda row: None,
    on_step: Progress = lambda work, step, total: None,
) -> Report:
    """Measure a model on this machine. Ctrl-C ends it early and leaves the rows so far.

    Args:
        folder: the model.
        options: what, and for how long.
        on_row: called with each row when it is there; its share of the limit is final only in the report.
        on_step: called as ("works", works done, works in all) after each work.

    Raises:
        ConfigError: an unknown work.
        ModelError: the memory of this machine will not suffice; nothing was loaded.
        WeightsError: the folder is damaged.
    """
    facts = facts_of(folder)
    works = chosen(works_of(facts), options.works, options.quick)
    check_room(facts, works, options.baseline)
    report = Report(facts, titles={work.name: work.title for work in works})
    runner = _Runner(report, options, on_row)
    done = itertools.count(1)
    try:
        for _, members in itertools.groupby(works, key=lambda work: work.group):
            runner.group(list(members), lambda: on_step("works", next(done), len(works)))
    except KeyboardInterrupt:
        report.interrupted = True
    return report


def check_room(facts: Facts, works: Sequence[Work], baseline: bool) -> None:
    """Raise ModelError, with what would fit, unless the memory suffices for every group of works; unknown is enough."""
    there = available_bytes()
    if there is None:
        return
    for _, members in itertools.groupby(works, key=lambda work: work.group):
        wanted = dict.fromkeys(part for work in members for part in work.parts)
        parts = tuple(part for part in wanted if part in facts.stored)
        needed, alone = (memory_needed(facts, parts, both) for both in (baseline, False))
        if needed > there:
            fits = baseline and alone <= there
            told = f"add --no-baseline, which needs {human_bytes(alone)}" if fits else "name fewer works with --works"
            raise ModelError(
                f"measuring {', '.join(parts)} of {facts.name} needs about {human_bytes(needed)} of memory and "
                f"{human_bytes(there)} are available; {told}, close other programs or use a larger machine"
            )


def engines_of(ways: Sequence[Way], names: Sequence[str]) -> list[Way]:
    """The ways with these names, all for none. Raises ConfigError for an unknown name."""
    known = [way.name for way in ways]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"the engine {shown(name)} is not measured here; these are: {'; '.join(known)}.{nearest(name, known)}"
            )
    return [way for way in ways if not names or way.name in names]


class _Runner:
    def __init__(self, report: Report, options: Options, on_row: Callable[[Row], None]) -> None:
        self.report, self.options, self.on_row = report, options, on_row
        self.all_ways = ways_of(report.facts.folder, options.also, options.passes, options.code_passes)
        self.ways = engines_of(self.all_ways, options.engines)
        self.seconds = 0.0 if options.quick else options.seconds

    def group(self, works: Sequence[Work], on_done: Callable[[], None]) -> None:
        """Measure works that share their processes, with the limits before and after them."""
        running = {way.process for way in self.ways}
        plain = [way for way in self.all_ways if way.name in running]
        names = [way.name for way in plain]
        if self.options.baseline and any(work.rival == "baseline" for work in works):
            names.append(BASELINE)
        with ExitStack() as stack:
            children = {name: stack.enter_context(Child(name)) for name in names}
            measuring = children[names[0]]
            if not self.report.limits:
                self.report.limits.append(self._measure(measuring))
            before = self.report.limits[-1]
            for way in plain:
                children[way.name].open(way.folder, self.options.device)
            if BASELINE in children:
                children[BASELINE].open(self.report.facts.folder, self.options.device)
            made: list[tuple[int, Callable[[Limits], Row]]] = []
            for work in works:
                for make in self._work(work, children):
                    made.append((len(self.report.rows), make))
                    self.report.rows.append(make(before))
                    self.on_row(self.report.rows[-1])
                on_done()
            self.report.limits.append(self._measure(measuring))
        limits = mean([before, self.report.limits[-1]])
        for place, make in made:
            self.report.rows[place] = make(limits)

    def _measure(self, child: Child) -> Limits:
        told = child.ask({"do": "limits", "device": self.options.device, "quick": self.options.quick})
        return Limits(bytes_per_s=told["bytes_per_s"], flops_per_s=told["flops_per_s"])

    def _work(self, work: Work, children: dict[str, Child]) -> list[Callable[[Limits], Row]]:
        """Measure one work on all sides; how to make a row of each engine. What fails is noted in the report."""
        if work.kind == "first":
            return [self._first(work, way) for way in self.ways if work.differs(way.passes, way.code_passes)]
        ready: dict[str, list[dict[str, Any]]] = {}
        ways = [way for way in self.ways if work.differs(way.passes, way.code_passes)]
        if not ways:
            return []
        for name in [*(way.name for way in ways), *([BASELINE] if work.rival == "baseline" else [])]:
            way = next((way for way in ways if way.name == name), None)
            try:
                if way is not None:
                    children[way.process].aim(way.passes, way.code_passes)
                    ready[name] = children[way.process].warm(work)
                elif BASELINE in children:
                    ready[name] = children[BASELINE].warm(work)
            except OpenTarError as error:
                self._skip(work, name, error)
        ways = [way for way in ways if way.name in ready]
        peaks: dict[str, float] = {}
        try:
            runs = self._runs(work, ways, children, BASELINE in ready, peaks)
        except OpenTarError as error:
            self._skip(work, ", ".join(ready), error)
            return []
        rivals = {"baseline": FLOW, "single": ONE_AFTER_ANOTHER, "none": None}
        return [
            self._row(
                work,
                way,
                runs=runs[way.name],
                stages=[Stage.from_dict(stage) for stage in ready[way.name]],
                baseline=rivals[work.rival],
                baseline_runs=runs.get(f"{way.name}/single") or runs.get(BASELINE, []),
                peak_gb=peaks.get(way.name),
                baseline_peak_gb=peaks.get(BASELINE),
            )
            for way in ways
        ]

    def _runs(
        self, work: Work, ways: Sequence[Way], children: dict[str, Child], baseline: bool, peaks: dict[str, float]
    ) -> dict[str, list[Measured]]:
        """Runs of each side by its name, the baseline first in each round; `peaks` is filled with their memory."""
        single = Work(**{**vars(work), "kind": "single"})

        def side(way: Way | None, what: Work) -> Run:
            name, child = (BASELINE, children[BASELINE]) if way is None else (way.name, children[way.process])

            def run() -> Measured:
                if way is not None:
                    child.aim(way.passes, way.code_passes)
                done, peak = child.run(what)
                if peak is not None and what.kind != "single":
                    peaks[name] = max(peak, peaks.get(name, 0.0))
                return done

            return run

        sides: dict[str, Run] = {BASELINE: side(None, work)} if baseline else {}
        for way in ways:
            if work.rival == "single":
                sides[f"{way.name}/single"] = side(way, single)
            sides[way.name] = side(way, work)
        if not sides:
            return {}
        return dict(zip(sides, alternate(list(sides.values()), self.seconds), strict=True))

    def _first(self, work: Work, way: Way) -> Callable[[Limits], Row]:
        """A fresh process each time: its start counts."""
        peaks: list[float] = []

        def run() -> Measured:
            start = time.perf_counter()
            with Child(way.name) as child:
                order = {"do": "first", "folder": str(way.folder), "way": way.name}
                told = child.ask(order | {"device": self.options.device})
                seconds = time.perf_counter() - start
            peaks.append(told["peak_gb"] or 0.0)
            return Measured(seconds)

        runs = alternate([run], self.seconds)[0]
        return self._row(work, way, runs=runs, stages=[], peak_gb=max(peaks) or None)

    def _row(self, work: Work, way: Way, *, stages: Sequence[Stage], **values: Any) -> Callable[[Limits], Row]:
        targets = targets_of(self.report.facts.size, work.name, way.exact, way.bits)

        def make(limits: Limits) -> Row:
            need = need_of(stages, limits)
            return row_of(work.name, way.name, exact=way.exact, need=need, targets=targets, **values)

        return make

    def _skip(self, work: Work, engine: str, error: OpenTarError) -> None:
        self.report.skipped.append({"work": work.name, "engine": engine, "why": str(error)})
