"""How long a large model takes from the start of a process to its first code, each run in a fresh process.

    opentar init tar-1.5b --random --dtype bf16 -o DIR
    python benchmarks/start.py DIR [--runs 3] [--detok ar]

"First start" begins with an empty memory of hashes (core/remembered.py), so every file is hashed; "later start" has it.
Both find the files in the page cache, for they are read once before. The rest of a row says where the time of the run
went: the imports, the parts, and the prompt up to its first code. The cache folder of the runs is their own.
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
from itertools import pairwise
from pathlib import Path
from statistics import median

PROMPT = "a cat"
STEPS = {
    "total": "process start to first code, s",
    "imports": "imports",
    "language": "language",
    "others": "image tokenizer, de-tokenizer",
    "prompt": "prompt, first code",
}
LIMIT = 8.0
"""Seconds of a later start of Tar-1.5B in bfloat16 on two quiet cores."""


def child(model: str, detok: str | None, started: float) -> None:
    """Print seconds since `started` (time.time() before the process began) as JSON at the first code, and end there."""
    from opentar.commands.model import load

    tar = load(model, None)
    # What loading the language part would import.
    import opentar.language.folder  # noqa: F401

    marks = [started, time.time()]
    _ = tar.parts.language
    marks.append(time.time())
    tar.parts.detokenizer(detok or tar.parts.config.defaults.draw.detok)
    marks.append(time.time())

    def first(stage: str, step: int, total: int) -> None:
        marks.append(time.time())
        spans = [after - before for before, after in pairwise(marks)]
        print(json.dumps(dict(zip(STEPS, [marks[-1] - started, *spans], strict=True))), flush=True)
        os._exit(0)

    tar.generate(PROMPT, detok=detok, callback_on_step_end=first)


def measure(model: Path, detok: str | None, cache: Path) -> dict[str, float]:
    """One run in a process of its own. Raises SystemExit with the child's own line where it fails."""
    command = [sys.executable, __file__, str(model), *(["--detok", detok] if detok else [])]
    environment = {**os.environ, "OPENTAR_CACHE": str(cache)}
    command += ["--child", repr(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit((done.stderr.strip() or "the run failed without a word").splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def warm(model: Path) -> float:
    """Read every file of the model once; gigabytes."""
    count = 0
    for path in model.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while chunk := file.read(1 << 24):
                    count += len(chunk)
    return count / 1e9


def table(rows: list[tuple[str, dict[str, float]]]) -> str:
    """The runs as a Markdown table, and the medians of both kinds."""
    lines = ["| start | " + " | ".join(STEPS.values()) + " |", "|" + "---|" * (len(STEPS) + 1)]
    kinds = list(dict.fromkeys(kind for kind, _ in rows))
    middle = [
        (f"**{kind}, median**", {name: median(row[name] for one, row in rows if one == kind) for name in STEPS})
        for kind in kinds
    ]
    for kind, row in (*rows, *middle):
        lines.append(f"| {kind} | " + " | ".join(f"{row[name]:.2f}" for name in STEPS) + " |")
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--runs", type=int, default=3, help="of each kind; default 3")
    parser.add_argument("--detok", help="de-tokenizer that is loaded too; default: the model's own")
    parser.add_argument("--child", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        child(str(given.model), given.detok, given.child)
        return
    size = warm(given.model)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.runs):
            rows.append(("first", measure(given.model, given.detok, Path(folder) / str(number))))
        for number in range(given.runs):
            rows.append(("later", measure(given.model, given.detok, Path(folder) / str(number))))
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{given.model.name}: {size:.1f} GB; {os.cpu_count()} cores of {platform.machine()}{load}; limit of a later")
    print(f"start: {LIMIT:g} s on two quiet cores\n")
    print(table(rows))


if __name__ == "__main__":
    main()
