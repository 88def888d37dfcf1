"""Text-aligned against random, plain learnable and learnable-with-restarts codebooks, at equal steps.

    python benchmarks/codebooks.py RUN --out DIR [--steps 400] [--kinds text random learned learned_restart]

RUN is a run folder of `opentar train nano` whose teacher has ended. Every kind starts from the same teacher with the
same seed, batches and schedule, its rows laid onto the same clusters as well as that kind can; only the codebook
differs. Prints a table and writes codebooks.json into DIR, where tensorboard shows the curves. About 5 minutes a kind
for 400 steps on one core.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from opentar.image_to_tokens.quantizer import KINDS
from opentar.train.loop import Loop
from opentar.train.recipes import nano
from opentar.train.stages.ta_tok import TATokSettings, TATokStage


def settings_of(kind: str, steps: int) -> TATokSettings:
    """The nano recipe with another codebook and another length."""
    recipe = nano().ta_tok
    row_width = recipe.model.quantizer.row_width if kind in ("text", "random") else recipe.model.quantizer.width
    quantizer = replace(recipe.model.quantizer, kind=kind, row_width=row_width)
    loop = replace(recipe.loop, steps=steps, sample_every=max(1, steps // 4))
    return replace(recipe, loop=loop, model=replace(recipe.model, quantizer=quantizer))


def main() -> None:
    """Train each kind (ended ones are read back), then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for kind in args.kinds:
        folder = args.out / kind
        if not (folder / "scores.json").exists():
            Loop(TATokStage(settings_of(kind, args.steps), args.run / "teacher" / "result"), folder).run()
        rows[kind] = json.loads((folder / "scores.json").read_text())
    shown = [name for name in next(iter(rows.values())) if name.endswith(("_s1", "_1"))]
    print(f"| codebook, {args.steps} steps | " + " | ".join(shown) + " |")
    print("|---|" + "---|" * len(shown))
    for kind, scores in rows.items():
        print(f"| {kind} | " + " | ".join(f"{scores[name]:.3f}" for name in shown) + " |")
    (args.out / "codebooks.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
