"""How long a person waits: first picture, next picture, an answer, and the peak memory, each run in a fresh process.

    python benchmarks/first_picture.py [--model nano] [--runs 3]

MODEL is the name of a bundled model or a model folder. "First picture" counts from the start of the process to a PNG on
the disk: the interpreter, PyTorch and the weights are part of it. The other two are measured in the same process.
Prints a Markdown table whose last row holds the limits for nano on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT = "three red apples on a light blue background"
NEXT_PROMPT = "a dog"
QUESTION = "How many apples are there?"
LIMITS = {"first": 10.0, "next": 3.0, "answer": 1.0, "peak": 2.0}


def child(model: str, started: float) -> dict[str, float]:
    """Draw, draw again and ask; seconds of each, the first since `started` (time.time() before the process began)."""
    from opentar import Tar
    from opentar.core.memory import peak_gigabytes

    with tempfile.TemporaryDirectory() as folder:
        tar = Tar.from_pretrained(model)
        picture = tar.generate(PROMPT, seed=0)[0]
        picture.save(Path(folder) / "first.png")
        drawn = time.time()
        tar.generate(NEXT_PROMPT, seed=1)[0].save(Path(folder) / "next.png")
        again = time.time()
    tar.ask(picture, QUESTION)
    answered = time.time()
    return {"first": drawn - started, "next": again - drawn, "answer": answered - again, "peak": peak_gigabytes()}


def measure(model: str) -> dict[str, float]:
    """One run in a process of its own. Raises SystemExit with the child's own line where it fails."""
    # This process stays small: on Linux a child's peak starts at its parent's size.
    command = [sys.executable, __file__, "--model", model, "--child", repr(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit((done.stderr.strip() or "the run failed without a word").splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[dict[str, float]]) -> str:
    """The runs, the worst of each column and the limits as a Markdown table."""
    worst = {name: max(row[name] for row in rows) for name in LIMITS}
    named = [*((str(number), row) for number, row in enumerate(rows, 1)), ("worst", worst), ("limit", LIMITS)]
    lines = ["| run | first picture, s | next picture, s | answer, s | peak memory, GB |", "|---|---|---|---|---|"]
    lines += [f"| {name} | " + " | ".join(f"{row[key]:.2f}" for key in LIMITS) + " |" for name, row in named]
    return "\n".join(lines)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="bundled name or model folder")
    parser.add_argument("--runs", type=int, default=3, help="fresh processes, at least 1")
    parser.add_argument("--child", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        print(json.dumps(child(args.model, args.child)))
        return
    if args.runs < 1:
        parser.error(f"--runs is {args.runs}; give 1 or more")
    rows = [measure(args.model) for _ in range(args.runs)]
    print(f"{args.model}, {cores()} cores, {platform.machine()}, Python {platform.python_version()}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
