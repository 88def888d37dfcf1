"""One side in a process of its own: takes orders as lines of JSON on stdin and answers each with one on stdout.

{"do": "open", "side": "ours" | "baseline", "folder", "way", "device"}    load nothing yet
{"do": "aim", "passes", "code_passes"}           how many codes a pass draws from now on (ours)
{"do": "warm", "work": {...}}                    get ready for a work; answers with "stages", what it needs at least
{"do": "run", "work": {...}}                     do it once; "seconds", "tokens", "peak_gb"
{"do": "first", "folder", "way", "device"}       load and draw one picture into a file
{"do": "limits", "device", "quick"}              measure the machine
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentar.core import environment
from opentar.core.errors import OpenTarError

if TYPE_CHECKING:
    from opentar.bench.engines import Way
    from opentar.bench.sides import Side

QUICK_BUFFER, QUICK_SIDE = 256 << 20, 1024
"""Smaller than those of a full measurement, and good enough to see that all runs."""


def main() -> int:
    """Answer orders until stdin ends."""
    # Ctrl-C goes to the whole group; the parent says when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What libraries print must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    environment.quiet_libraries()
    environment.share_cores()
    side: Side | None = None
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if order["do"] == "open":
                side, told = open_side(order), dict[str, Any]()
            else:
                told = obey(side, order)
        except (OpenTarError, MemoryError) as error:
            told = {"error": str(error) or "out of memory", "kind": type(error).__name__}
        print(json.dumps(told), file=answers, flush=True)
    return 0


def open_side(order: dict[str, Any]) -> Side:
    """The side that an order names."""
    folder, device = Path(order["folder"]), order["device"]
    if order["side"] == "baseline":
        from opentar.bench.baseline import Baseline

        return Baseline(folder, Path(order["place"]), device)
    from opentar.bench.ours import Ours

    return Ours(_way(order), device)


def obey(side: Side | None, order: dict[str, Any]) -> dict[str, Any]:
    """Carry out one order; returns its answer. Raises OpenTarError where the work cannot be done."""
    if order["do"] == "limits":
        return _limits(order["device"], order["quick"])
    if order["do"] == "first":
        return _first(order)
    from opentar.bench.ours import Ours
    from opentar.bench.peak import forget_peak, peak_gb
    from opentar.bench.work import Work

    assert side is not None, "open comes first"
    if order["do"] == "aim":
        assert isinstance(side, Ours), "the baseline has one way"
        side.aim(order["passes"], order["code_passes"])
        return {}
    work = Work(**{**order["work"], "parts": tuple(order["work"]["parts"])})
    if order["do"] == "warm":
        side.warm(work)
        stages = side.cost(work) if isinstance(side, Ours) else []
        return {"stages": [dataclasses.asdict(stage) for stage in stages]}
    forget_peak()
    done = side.run(work)
    return {"seconds": done.seconds, "tokens": done.tokens, "peak_gb": peak_gb()}


def _way(order: dict[str, Any]) -> Way:
    from opentar.bench.engines import ways_of

    return next(way for way in ways_of(Path(order["folder"])) if way.name == order["way"])


def _limits(device: str | None, quick: bool) -> dict[str, Any]:
    from opentar.bench.limits import BUFFER, SIDE, measure_limits
    from opentar.core.device import resolve_device

    buffer, side = (QUICK_BUFFER, QUICK_SIDE) if quick else (BUFFER, SIDE)
    found = measure_limits(str(resolve_device(device)), buffer, side)
    return {"bytes_per_s": found.bytes_per_s, "flops_per_s": dict(found.flops_per_s)}


def _first(order: dict[str, Any]) -> dict[str, Any]:
    from opentar.bench.engines import load
    from opentar.bench.peak import peak_gb
    from opentar.bench.work import PROMPT

    tar = load(_way(order), order["device"])
    with tempfile.TemporaryDirectory() as place:
        tar.generate(PROMPT, seed=0)[0].save(Path(place) / "first.png")
    return {"peak_gb": peak_gb()}


if __name__ == "__main__":
    sys.exit(main())
