"""What runs the language model of a folder, side by side: prompts, steps of several rows, memory and the start.

Every round runs each engine in a process of its own, one after the other, so that what else the machine does meets all.
Rows give medians over the rounds.

    opentar init tar-1.5b --random --dtype bf16 -o BIG && opentar quantize BIG --to int8 -o INT8
    PYTHONPATH=src python benchmarks/engines.py torch=INT8 openvino=INT8 llamacpp=GGUF
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROMPT, SHORT = 760, 40
"""Ids of the long prompt, as many as the model takes, and of those that rows begin with."""


def measured(engine: str, folder: Path, steps: int, threads: int) -> dict[str, float]:
    """One process: seconds to the first code and of a step, ids a second, gigabytes."""
    start = time.perf_counter()
    import torch

    from opentar.checkpoints.parts import ModelParts
    from opentar.core.memory import peak_gigabytes
    from opentar.engine.backends.choose import choose_engine, opener

    torch.set_num_threads(threads)
    parts = ModelParts(folder, device="cpu")
    backend = opener(parts, choose_engine(parts, engine))()
    codes = range(backend.config.vocab.first_code, backend.config.vocab.size)
    ids = [place * 7919 % backend.config.pieces for place in range(min(PROMPT, backend.config.max_length))]

    def step(slots: list[int], pieces: list[list[int]]) -> list[list[int]]:
        backend.extend(slots, pieces)
        return [[codes.start + code] for code in backend.logits(slots, codes).argmax(-1).tolist()]

    def run(rows: int, length: int, count: int) -> tuple[float, float]:
        """Seconds of the prompts and of the median step after them."""
        slots, times = backend.open(rows), []
        begin = time.perf_counter()
        following = step(slots, [ids[:length]] * rows)
        first = time.perf_counter() - begin
        for _ in range(count):
            begin = time.perf_counter()
            following = step(slots, following)
            times.append(time.perf_counter() - begin)
        backend.close(slots)
        return first, statistics.median(times) if times else 0.0

    run(1, SHORT, 1)
    found = {"start_s": time.perf_counter() - start}
    run(1, len(ids), 0)
    found["prefill"] = len(ids) / min(run(1, len(ids), 0)[0] for _ in range(2))
    for rows in (1, 2, 8):
        found[f"decode_{rows}"] = rows / run(rows, SHORT, steps)[1]
    return found | {"peak_gb": peak_gigabytes()}


def main() -> None:
    """Print a line of JSON for each engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ways", nargs="+", help="ENGINE=FOLDER")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", action="store_true")
    args = parser.parse_args()
    if args.child:
        engine, folder = args.ways[0].split("=", 1)
        print(json.dumps(measured(engine, Path(folder), args.steps, args.threads)))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in args.ways}
    for _ in range(args.rounds):
        for way in args.ways:
            numbers = ["--steps", str(args.steps), "--threads", str(args.threads)]
            call = [sys.executable, __file__, way, "--child", *numbers]
            done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
            print(way, json.dumps(found[way][-1]), file=sys.stderr)
    for way, rounds in found.items():
        row = {name: round(statistics.median(one[name] for one in rounds), 2) for name in rounds[0]}
        print(json.dumps({"way": way} | row))


if __name__ == "__main__":
    main()
