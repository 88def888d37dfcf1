"""Text-aligned against random, plain learnable and learnable-with-restarts codebooks, at equal steps.

    python benchmarks/codebooks.py RUN --out DIR [--steps 400] [--kinds text random learned learned_restart]

RUN is a run folder of `opentar train nano` whose teacher has ended. Every kind starts from the same teacher with the
same seed, batches and schedule, its rows laid onto the same clusters as well as that kind can (learnable rows lie on
the centres themselves, frozen ones through their projection) and nothing else of the recipe's start; then bottleneck,
codebook and decoder are trained, the encoder is held. Only the codebook differs. Prints a table and writes
codebooks.json into DIR, where tensorboard shows the curves.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from opentar.image_to_tokens.quantizer import KINDS
from opentar.nano.recipes import nano
from opentar.nano.stages.codebook import CodebookSettings, lay_codebook
from opentar.nano.stages.ta_tok import SceneTATokStage, TATokSettings
from opentar.train.trainer import Trainer

RATE = 1e-3
LEARNS = ("encode_task_layer", "in_linear", "quantizer", "decoder", "painter")


def settings_of(kind: str, steps: int) -> tuple[CodebookSettings, TATokSettings]:
    """Start and training of the nano recipe with another codebook and another length."""
    recipe = nano()
    own = recipe.ta_tok.model.quantizer
    quantizer = replace(own, kind=kind, row_width=own.row_width if kind in ("text", "random") else own.width)
    model = replace(recipe.ta_tok.model, quantizer=quantizer)
    start = replace(
        recipe.codebook, model=model, pictures=3000, settle_steps=0, sharpen_steps=0, invert_steps=0, read_steps=0
    )
    loop = replace(recipe.ta_tok.loop, steps=steps, learning_rate=RATE, sample_every=max(1, steps // 4))
    return start, replace(recipe.ta_tok, loop=loop, model=model, learns=LEARNS, fast=())


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
        ended = folder / "scores.json"
        if not ended.exists():
            start, settings = settings_of(kind, args.steps)
            teacher, first = args.run / "teacher" / "result", args.out / f"{kind}_start"
            lay_codebook(start, teacher, first)
            scores = Trainer(SceneTATokStage(settings, teacher, first / "result" / "ta_tok"), folder).run()
            ended.write_text(json.dumps(scores))
        rows[kind] = json.loads(ended.read_text())
    shown = [name for name in next(iter(rows.values())) if name.endswith(("_s1", "_1"))]
    print(f"| codebook, {args.steps} steps | " + " | ".join(shown) + " |")
    print("|---|" + "---|" * len(shown))
    for kind, scores in rows.items():
        print(f"| {kind} | " + " | ".join(f"{scores[name]:.3f}" for name in shown) + " |")
    (args.out / "codebooks.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
