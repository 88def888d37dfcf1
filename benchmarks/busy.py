"""A step of the language model on a quiet machine and beside a busy program, under several settings of OpenMP.

    python benchmarks/busy.py DIR [--rounds 3] [--steps 20] [--busy 1]

DIR is a model folder; the effect needs a model that keeps every core at work, such as what
`opentar init tar-1.5b --random` makes. Threads of OpenMP spin while they wait for each other. On a quiet machine that
saves the time of waking up; where another program takes their core, each waits for a thread that cannot run.

One process a setting loads the model and stays, and the settings take turns, first quiet, then beside --busy programs
that count in a loop. Prints the median seconds of a step and the ratio to the default on the quiet machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, pairwise

SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
PROMPT = "A photo of a macaw"
_LOOP = "while True: pass"


def child(model: str, steps: int) -> None:
    """Load, then answer each line on stdin with the median seconds of `steps` steps."""
    from opentar import Tar
    from opentar.engine.request import Codes, Request

    engine = Tar.from_pretrained(model, device="cpu").engine()
    grammar = Codes(scale=engine.builder.vocab.scales[-1])
    request = Request(turns=engine.builder.drawing(PROMPT), grammar=grammar)
    print("ready", flush=True)
    for _line in sys.stdin:
        times = [time.perf_counter() for _ in islice(engine.run([request]), steps + 1)]
        print(statistics.median(later - first for first, later in pairwise(times)), flush=True)


def start(model: str, steps: int, changes: dict[str, str]) -> subprocess.Popen[str]:
    """A process with the model loaded under one setting."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    command = [sys.executable, __file__, model, "--steps", str(steps), "--child"]
    process = subprocess.Popen(command, env=kept | changes, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise SystemExit(f"{model} could not be loaded; its own lines above say why")
    return process


def step_seconds(process: subprocess.Popen[str]) -> float:
    """One measurement in a process of `start`."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(process.stdout.readline())


@contextmanager
def beside(count: int) -> Iterator[None]:
    """Keep `count` programs busy meanwhile."""
    others = [subprocess.Popen([sys.executable, "-c", _LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.terminate()
        for other in others:
            other.wait()


def measure(model: str, rounds: int, steps: int, busy: int) -> dict[str, tuple[list[float], list[float]]]:
    """Setting -> seconds of a step, quiet and busy, one of each a round."""
    processes = {name: start(model, steps, changes) for name, changes in SETTINGS.items()}
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in SETTINGS}
    try:
        for process in processes.values():
            step_seconds(process)
        for _ in range(rounds):
            for name, process in processes.items():
                found[name][0].append(step_seconds(process))
                with beside(busy):
                    found[name][1].append(step_seconds(process))
    finally:
        for process in processes.values():
            process.terminate()
            process.wait()
    return found


def table(found: dict[str, tuple[list[float], list[float]]], busy: int) -> str:
    """Medians, and their ratios to the default on the quiet machine."""
    base = statistics.median(found["default"][0])
    lines = [f"| setting | quiet, s | ratio | beside {busy} busy, s | ratio |", "|---|---|---|---|---|"]
    for name, (quiet, loud) in found.items():
        calm, slow = statistics.median(quiet), statistics.median(loud)
        lines.append(f"| {name} | {calm:.3f} | {calm / base:.2f} | {slow:.3f} | {slow / base:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each setting, at least 1")
    parser.add_argument("--steps", type=int, default=20, help="steps a measurement, at least 2")
    parser.add_argument("--busy", type=int, default=1, help="programs that run beside it, at least 1")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 1 or args.steps < 2 or args.busy < 1:
        parser.error("give --rounds and --busy of at least 1, and --steps of at least 2")
    if args.child:
        child(args.model, args.steps)
        return
    print(table(measure(args.model, args.rounds, args.steps, args.busy), args.busy))


if __name__ == "__main__":
    main()
