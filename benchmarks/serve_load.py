"""A server under load, measured by a second process over loopback: rates, latencies, memory, refusals, first bytes.

    python benchmarks/serve_load.py [--phases one-eight,long,burst,first] [--minutes 5] [--model nano] [--json FILE]
    python benchmarks/serve_load.py --model DIR --phases first --limit 120

Starts `opentar serve` as a process of its own and ends that one alone. The requests are a fixed mix (`load_mix.py`):
seven of ten ask about a picture, half of these about one that the server never saw; the others draw.

one-eight   requests a second of one client, and of eight, in turns: medians of the rounds
long        16 clients for --minutes: errors, latencies by kind, growth of memory over the second half
burst       200 requests at once: each ends well or is 503 with Retry-After; time from sent to the first byte of these
first       the first word of a streamed answer and the first preview of a drawing, on the idle server

Prints a table with targets, and ends with code 1 where one is not met.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import operator
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import psutil

from load_mix import PROMPTS, QUESTIONS, Answer, Mix, asked, drawn, send
from serving import CHAT, DRAW, Served

PHASES = ("one-eight", "long", "burst", "first")
SIDES = {"<=": operator.le, ">=": operator.ge, "=": operator.eq}


@dataclass(frozen=True)
class Row:
    """One figure."""

    what: str
    value: float
    unit: str = ""
    side: str = ""
    target: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        return None if self.target is None else bool(SIDES[self.side](self.value, self.target))


def share(values: list[float], part: float) -> float:
    """The value that `part` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


async def together(port: int, mix: Mix, numbers: Iterator[int], clients: int, until: float) -> list[Answer]:
    """Answers to requests that so many clients send, each the next one when its last has ended, up to a moment."""
    found: list[Answer] = []

    async def client() -> None:
        for number in numbers:
            if time.perf_counter() > until:
                return
            found.append(await send(port, *mix.request(number)))

    await asyncio.gather(*(client() for _ in range(clients)))
    return found


async def one_eight(port: int, mix: Mix, options: argparse.Namespace) -> list[Row]:
    """One client and eight, in turns over the same numbers."""
    rates: dict[int, list[float]] = {1: [], 8: []}
    failed = 0
    await together(port, mix, iter(range(16)), 8, float("inf"))
    for number in range(options.rounds):
        for clients, own in rates.items():
            start = number * options.requests
            began = time.perf_counter()
            answers = await together(
                port, mix, iter(range(start, start + options.requests)), clients, began + options.limit
            )
            own.append(len(answers) / (time.perf_counter() - began))
            failed += sum(answer.status != 200 for answer in answers)
    one, eight = (statistics.median(own) for own in rates.values())
    ratio = statistics.median(many / alone for alone, many in zip(*rates.values(), strict=True))
    return [
        Row("one client", one, "requests/s"),
        Row("eight clients", eight, "requests/s"),
        Row("eight against one", ratio, "times", ">=", 2.5),
        Row("errors of both", failed, "", "=", 0),
    ]


def slope(samples: list[tuple[float, float]]) -> float:
    """Least squares of values over seconds, a minute; over the second half."""
    half = samples[len(samples) // 2 :]
    if len(half) < 2:
        return float("nan")
    fit = statistics.linear_regression([second for second, _ in half], [value for _, value in half])
    return fit.slope * 60


async def long(port: int, mix: Mix, options: argparse.Namespace, process: psutil.Process) -> list[Row]:
    """Sixteen clients for some minutes."""
    samples: list[tuple[float, float]] = []
    began = time.perf_counter()

    async def watch() -> None:
        while True:
            samples.append((time.perf_counter() - began, process.memory_info().rss / 1e6))
            await asyncio.sleep(1)

    watching = asyncio.ensure_future(watch())
    answers = await together(port, mix, count(10**6), 16, began + options.minutes * 60)
    seconds = time.perf_counter() - began
    watching.cancel()
    rows = [
        Row(f"16 clients, {seconds:.0f} s", len(answers) / seconds, "requests/s"),
        Row("16 clients, errors", sum(answer.status != 200 for answer in answers), "", "=", 0),
    ]
    for kind in ("ask", "draw"):
        took = [answer.ended - answer.sent for answer in answers if answer.kind == kind and answer.status == 200]
        rows += [Row(f"16 clients, {kind}, p{part}", share(took, part / 100), "s") for part in (50, 95)]
    return [
        *rows,
        Row("16 clients, memory at the end", samples[-1][1], "MB"),
        Row("16 clients, growth of memory", slope(samples), "MB/min"),
    ]


async def burst(port: int, mix: Mix, options: argparse.Namespace) -> list[Row]:
    """All at once."""
    bodies = [mix.request(2 * 10**6 + number) for number in range(options.burst)]
    answers = await asyncio.gather(*(send(port, *body) for body in bodies))
    refused = [answer for answer in answers if answer.status == 503 and b"retry-after:" in answer.head.lower()]
    odd = len(answers) - len(refused) - sum(answer.status == 200 for answer in answers)
    waited = [(answer.first - answer.sent) * 1000 for answer in refused]
    # The burst waits for its own reading, too; a queue that stays full shows a refusal by itself.
    long = {"model": mix.model, "prompt": PROMPTS[0], "quality": "high"}
    filling = [asyncio.ensure_future(send(port, "draw", DRAW, long)) for _ in range(options.burst)]
    await asyncio.sleep(0.5)
    later = [await send(port, *body) for body in bodies[:30]]
    await asyncio.gather(*filling)
    full = [(answer.first - answer.sent) * 1000 for answer in later if answer.status == 503]
    return [
        Row(f"{options.burst} at once, refused", len(refused)),
        Row(f"{options.burst} at once, neither 200 nor 503 with Retry-After", odd, "", "=", 0),
        Row("refusal in the burst, p95", share(waited, 0.95), "ms", "<=", 50),
        Row(f"refusal of a full queue, p95 of {len(full)}", share(full, 0.95), "ms", "<=", 50),
    ]


async def first(port: int, model: str, pictures: list[bytes], options: argparse.Namespace) -> list[Row]:
    """First word and first preview, of a server that does nothing else."""
    words, previews = [], []
    for number in range(options.tries + 1):
        body = asked(model, pictures[number % len(pictures)], QUESTIONS[0]) | {"stream": True}
        # The first chunk names the role and holds no word.
        answer = await send(port, "ask", CHAT, body, b'"delta":{"content":"')
        words.append((answer.shown - answer.sent) * 1000)
        drawing = {"model": model, "prompt": PROMPTS[number % len(PROMPTS)], "seed": number, "stream": True}
        answer = await send(port, "draw", DRAW, drawing | {"partial_images": 3}, b'"image_generation.partial_image"')
        previews.append((answer.shown - answer.sent) * 1000)
    # The first of each meets threads and caches that are cold.
    return [
        Row("first word of an answer", statistics.median(words[1:]), "ms", "<=", 150),
        Row("first preview of a drawing", statistics.median(previews[1:]), "ms", "<=", 500),
    ]


async def measure(served: Served, options: argparse.Namespace) -> list[Row]:
    """All phases that are asked for."""
    port, rows = int(served.url.rsplit(":", 1)[1]), []
    pictures = await drawn(port, options.model, 2 if options.phases == ["first"] else 8)
    mix = Mix(options.model, pictures, options.seed)
    if "first" in options.phases:
        rows += await first(port, options.model, pictures, options)
    if "one-eight" in options.phases:
        rows += await one_eight(port, mix, options)
    if "long" in options.phases:
        rows += await long(port, mix, options, psutil.Process(served.number))
    if "burst" in options.phases:
        rows += await burst(port, mix, options)
    return rows


def table(rows: list[Row]) -> str:
    """Figures, targets and whether they are met, in Markdown."""
    lines = ["| what | measured | target | met |", "|---|---|---|---|"]
    for row in rows:
        target = "" if row.target is None else f"{row.side} {row.target:g} {row.unit}".rstrip()
        met = {None: "", True: "yes", False: "no"}[row.met]
        lines.append(f"| {row.what} | {row.value:.4g} {row.unit} | {target} | {met} |".replace("  ", " "))
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="name of a model, or a model folder")
    parser.add_argument("--phases", default=",".join(PHASES), help="some of them, separated by commas")
    parser.add_argument("--minutes", type=float, default=5.0, help="of the long phase")
    parser.add_argument("--requests", type=int, default=60, help="of each round of one and of eight clients")
    parser.add_argument("--rounds", type=int, default=3, help="turns of one and of eight clients")
    parser.add_argument("--burst", type=int, default=200, help="requests at once")
    parser.add_argument("--tries", type=int, default=7, help="answers and drawings of the first phase")
    parser.add_argument("--limit", type=float, default=300.0, help="most seconds of one round")
    parser.add_argument("--seed", type=int, default=0, help="of the mix")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    options.phases = options.phases.split(",")
    if unknown := set(options.phases) - set(PHASES):
        parser.error(f"there is no phase {', '.join(sorted(unknown))}; there are {', '.join(PHASES)}")
    if min(options.requests, options.rounds, options.burst, options.tries) < 1 or options.minutes <= 0:
        parser.error("numbers must be at least 1, and --minutes more than 0")
    with Served(options.model) as served:
        options.model = served.name
        rows = asyncio.run(measure(served, options))
    print(f"{served.name}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} at the end\n")
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) | {"met": row.met} for row in rows], indent=1) + "\n")
    sys.exit(any(row.met is False for row in rows))


if __name__ == "__main__":
    main()
