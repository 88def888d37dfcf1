"""One measured row: what was done, how long it took, against what, and how near it came to the machine's limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from opentar.bench.targets import Target, met


@dataclass(frozen=True)
class Measured:
    """One run of a work."""

    seconds: float
    """Wall clock."""
    tokens: int = 0
    """Ids read or made in that time; 0 where that says nothing about the work."""


@dataclass(frozen=True)
class Need:
    """The least that a work asks of the machine (cost.py)."""

    flops: float
    """Multiplications and additions, each counted as one."""
    bytes: float
    """Bytes that must come from memory."""
    seconds: float
    """The time that the machine's limits allow at best."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A work on an engine, medians over its runs. What was not measured is None."""

    work: str
    """Name of the work (work.py)."""
    engine: str
    """Name of the engine (engines.py)."""
    exact: bool
    """Same weights, same distribution as one id at a time; only rounding may differ."""
    seconds: float
    """Median over the runs."""
    baseline_seconds: float | None
    """The same of the baseline, measured in alternation."""
    ratio: float | None
    """baseline_seconds / seconds: above 1 is faster than the baseline."""
    tokens_per_s: float | None
    """Ids read or made a second."""
    share_of_limit: float | None
    """Seconds that the machine's limits allow at best / seconds; 1 cannot be passed, save where the machine drifts."""
    peak_gb: float | None
    """Largest resident memory of the engine's process during the work, in GB (1e9 bytes)."""
    meets: bool | None
    """Whether all targets of this work are met; None without one."""
    target: str | None = None
    """The targets in words."""
    baseline: str | None = None
    """What baseline_seconds is measured on."""
    baseline_peak_gb: float | None = None
    """Memory of the baseline's process."""
    runs: int = 1
    """Runs that the medians are taken of."""
    flops: float | None = None
    """What the work needs at least, for the roofline plot."""
    bytes: float | None = None
    """The same in bytes from memory."""


def row_of(
    work: str,
    engine: str,
    runs: Sequence[Measured],
    *,
    exact: bool,
    baseline: str | None = None,
    baseline_runs: Sequence[Measured] = (),
    need: Need | None = None,
    peak_gb: float | None = None,
    baseline_peak_gb: float | None = None,
    targets: Sequence[Target] = (),
) -> Row:
    """The row of these runs (at least one); `baseline` says in words what `baseline_runs` ran on."""
    seconds = median(run.seconds for run in runs)
    theirs = median(run.seconds for run in baseline_runs) if baseline_runs else None
    rates = [run.tokens / run.seconds for run in runs if run.tokens and run.seconds > 0]
    values = {
        "seconds": seconds,
        "ratio": theirs / seconds if theirs is not None and seconds > 0 else None,
        "tokens_per_s": median(rates) if rates else None,
        "share_of_limit": need.seconds / seconds if need is not None and seconds > 0 else None,
        "peak_gb": peak_gb,
    }
    return Row(
        work=work,
        engine=engine,
        exact=exact,
        seconds=seconds,
        baseline_seconds=theirs,
        ratio=values["ratio"],
        tokens_per_s=values["tokens_per_s"],
        share_of_limit=values["share_of_limit"],
        peak_gb=peak_gb,
        meets=met(targets, values),
        target="; ".join(target.told for target in targets) or None,
        baseline=baseline if theirs is not None else None,
        baseline_peak_gb=baseline_peak_gb if theirs is not None else None,
        runs=len(runs),
        flops=None if need is None else need.flops,
        bytes=None if need is None else need.bytes,
    )
