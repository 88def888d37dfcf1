"""Captions of many pictures a second, as a job in batches beside `describe` for one picture after the other, in turns.

    python benchmarks/caption.py [--pictures 2000] [--rounds 3] [--batch 32] [--model nano]

The pictures are drawn by the nano world and lie in a folder as PNG of 128 pixels. Both ways open the files anew, and
take turns over the same share of them, so that both meet the machine as it is; loading and a first batch do not count.
Prints pictures a second of each round, their ratio, the median of the ratios, and how many captions differ (none
should).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from opentar import Tar
from opentar.captioning.captions import BATCH, captions
from opentar.nano.stages.pictures import ScenePictures


def draw(folder: Path, count: int) -> list[Path]:
    """`count` pictures of scenes, the same every time."""
    source, rng = ScenePictures(split="train"), np.random.default_rng(11)
    paths = [folder / f"{number:06}.png" for number in range(count)]
    for path in paths:
        (picture,) = source.pictures(source.specs(rng, 1)).permute(0, 2, 3, 1).numpy()
        Image.fromarray(np.ascontiguousarray(picture)).save(path)
    return paths


def measure(tar: Tar, paths: list[Path], rounds: int, batch: int) -> list[tuple[float, float, int]]:
    """Seconds one by one, seconds as a job, and how many captions differ, for each round over its share."""
    share = len(paths) // rounds
    for _ in captions(tar, paths[:4], batch_size=batch):
        tar.describe(paths[0])
    found = []
    for number in range(rounds):
        own = paths[number * share : (number + 1) * share]
        started = time.perf_counter()
        alone = [tar.describe(path) for path in own]
        between = time.perf_counter()
        together = [one.text for one in captions(tar, own, batch_size=batch)]
        ended = time.perf_counter()
        differ = sum(one != other for one, other in zip(alone, together, strict=True))
        found.append((between - started, ended - between, differ))
    return found


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000, help="pictures in all, at least one a round")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way, at least 1")
    parser.add_argument("--batch", type=int, default=BATCH, help="captions said side by side")
    parser.add_argument("--model", default="nano", help="name of a model, or a model folder")
    args = parser.parse_args()
    if args.rounds < 1 or args.pictures < args.rounds:
        parser.error("give --rounds of at least 1, and at least as many --pictures")
    with tempfile.TemporaryDirectory() as folder:
        paths = draw(Path(folder), args.pictures)
        found = measure(Tar.from_pretrained(args.model, device="cpu"), paths, args.rounds, args.batch)
    share = args.pictures // args.rounds
    print("| round | one by one, pictures/s | job, pictures/s | ratio | captions that differ |\n|---|---|---|---|---|")
    for number, (alone, together, differ) in enumerate(found, 1):
        print(f"| {number} | {share / alone:.1f} | {share / together:.1f} | {alone / together:.2f} | {differ} |")
    print(f"median ratio {statistics.median(alone / together for alone, together, _ in found):.2f}")


if __name__ == "__main__":
    main()
