"""What a model draws, reads and encodes for fixed seeds, as hashes: taken before a change of the code, compared after.

    python benchmarks/same_bytes.py [--model nano] --write FILE
    python benchmarks/same_bytes.py [--model nano] --compare FILE

Hashes are of pixels, codes and answers, so they hold on one machine and one version of PyTorch. A change that shall
keep behaviour gives the same file; a difference names what changed and exits with 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from opentar import Tar

PROMPTS = (
    "three red apples on a light blue background",
    "a dog to the left of a car",
    "一只绿色的猫",
    "a purple guitar",
)
QUESTIONS = ("What is in the picture?", "How many apples are there?", "What color is the dog?", "图片里有什么？")


def hashes(model: str) -> dict[str, str]:
    """Name of a piece of work -> hash of its result, or the text itself where it is one."""
    from opentar import Tar

    tar = Tar.from_pretrained(model, device="cpu")
    found: dict[str, str] = {}
    pictures = tar.generate(PROMPTS, n=2, seed=7)
    for place, picture in enumerate(pictures):
        found[f"drawn {PROMPTS[place // 2]} {place % 2}"] = digest(picture)
    for detok in tar.parts.config.detokenizers:
        for scale in tar.parts.vocab.scales:
            drawn = tar.generate(PROMPTS[0], scale=scale.index, detok=detok, seed=3, guidance=1.5)[0]
            found[f"drawn by {detok} at scale {scale.index}"] = digest(drawn)
    found |= read(tar, pictures[:3])
    return found


def read(tar: Tar, pictures: list[Image.Image]) -> dict[str, str]:
    """Answers, codes and reconstructions of pictures."""
    found = {}
    for place, picture in enumerate(pictures):
        for question in QUESTIONS:
            found[f"asked {place} {question}"] = tar.ask(picture, question)
        for scale in tar.parts.vocab.scales:
            codes = json.dumps(tar.encode(picture, scale.index).codes)
            found[f"codes of {place} at scale {scale.index}"] = hashlib.sha256(codes.encode()).hexdigest()
        found[f"reconstructed {place}"] = digest(tar.reconstruct(picture, seed=5))
    return found


def digest(picture: Image.Image) -> str:
    """Hash of a picture's size and pixels."""
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()


def main() -> None:
    """Parse, compute, write or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="bundled name or model folder")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--write", type=Path, help="file to write the hashes to")
    target.add_argument("--compare", type=Path, help="file of hashes to compare with")
    args = parser.parse_args()
    found = hashes(args.model)
    if args.write is not None:
        args.write.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{len(found)} hashes in {args.write}")
        return
    before = json.loads(args.compare.read_text(encoding="utf-8"))
    different = [name for name in sorted({*before, *found}) if before.get(name) != found.get(name)]
    for name in different:
        print(f"different: {name}")
    print(f"{len(found) - len(different)} of {len(before)} the same")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
