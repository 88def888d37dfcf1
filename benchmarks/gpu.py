"""A graphics card in a few minutes: each part against its values on the CPU, then the rows of `opentar bench` there.

    python benchmarks/gpu.py [--device cuda] [--size tar-1.5b | tar-7b] [--seconds 480] [--works NAME ...] [--json]
    python benchmarks/gpu.py --device cpu --tiny

Weights are random and made first, in a folder that is removed at the end; nothing is fetched. The CPU computes once, in
float32 of the stored bfloat16; the device in float32, bfloat16 and float16, those that it has. An error is
|ours - CPU's| / |CPU's| over all numbers; TF32 stays off. Works are begun while there is time; `--seconds` counts from
the start. Ends with 1 where an error is above its bound. Not measured on any card so far.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from opentar.checkpoints.parts import ModelParts

BOUNDS = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.03}
"""Largest error by type. The last two round the weights or their products to 8 and 11 bits, layer after layer."""
CODES = 16
"""Codes that the AR de-tokenizer is shown; each further one is the same work."""
Values = dict[str, "Tensor"]


def values(parts: ModelParts, given: Values) -> Iterator[tuple[str, Tensor]]:
    """What each part gives on the device of `parts`, on the CPU in float32."""
    import torch

    from opentar.engine.backends.torch_backend import TorchBackend

    def here(name: str) -> Tensor:
        return given[name].to(parts.device)

    ta_tok, model = parts.ta_tok, parts.language.model
    yield "encoder", ta_tok.encoder(here("pixels"))
    yield "feature decoder", ta_tok.decode(here("codes"))
    backend = TorchBackend(model)
    (slot,) = backend.open(1)
    ids = [model.vocab.first_code + int(code) for code in given["codes"][0]]
    codes = range(model.vocab.first_code, model.vocab.size)
    backend.extend([slot], [ids])
    yield "language model, many ids", backend.logits([slot], codes)
    backend.extend([slot], [ids[:1]])
    yield "language model, one id", backend.logits([slot], codes)
    for name in parts.config.detokenizers:
        painter: Any = parts.detokenizer(name)
        if hasattr(painter, "canvas"):
            drawn = torch.arange(painter.transformer.config.codes)[None].to(parts.device)
            features = here("features").to(painter.transformer.positions.dtype)
            yield f"{name}, codes", painter.transformer(features, drawn[:, : min(CODES, drawn.shape[1] - 1)])
            yield f"{name}, pixels", painter.canvas.decode_codes(drawn)
        else:
            yield f"{name}, one step", painter.decode(here("features").float(), seed=0, steps=1)


def checks(folder: Path, device: str) -> list[dict[str, Any]]:
    """A row for each part and type: part, type, error, bound, near."""
    import torch

    from opentar.checkpoints.parts import ModelParts
    from opentar.core.errors import ConfigError

    exact = ModelParts(folder, device="cpu", dtype="float32")
    side, random = exact.ta_tok.config.vision.image_size, torch.Generator().manual_seed(0)
    length = exact.vocab.scale(0).length
    given: Values = {
        "pixels": torch.rand(1, 3, side, side, generator=random) * 2 - 1,
        "codes": torch.randint(exact.vocab.codebook_size, (1, length), generator=random),
    }
    with torch.no_grad():
        given["features"] = exact.ta_tok.decode(given["codes"])
        wanted = dict(values(exact, given))
        del exact
        rows = []
        for kind, bound in BOUNDS.items():
            try:
                parts = ModelParts(folder, device=device, dtype=kind)
            except ConfigError as error:
                print(f"{kind} is left out: {error}", file=sys.stderr)
                continue
            for part, found in values(parts, given):
                error = float((found.float().cpu() - wanted[part]).norm() / wanted[part].norm())
                rows.append({"part": part, "type": kind, "error": error, "bound": bound, "near": error <= bound})
    return rows


def measured(folder: Path, args: argparse.Namespace, left: Callable[[], float]) -> Iterator[dict[str, Any]]:
    """Rows of `opentar bench --quick` on the device, group by group while there is time."""
    from opentar.bench.facts import facts_of
    from opentar.bench.run import Options, bench
    from opentar.bench.work import chosen, works_of

    works = chosen(works_of(facts_of(folder)), args.works, quick=True)
    for group in dict.fromkeys(work.group for work in works):
        names = tuple(work.name for work in works if work.group == group)
        if left() <= 0:
            print(f"no time is left for {', '.join(names)}", file=sys.stderr)
            continue
        report = bench(folder, Options(works=names, quick=True, device=args.device))
        yield from (dataclasses.asdict(row) for row in report.rows)
        for one in report.skipped:
            print(f"skipped {one['work']}, {one['engine']}: {one['why']}", file=sys.stderr)


def main() -> int:
    """Parse, make, check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, mps or cpu")
    parser.add_argument("--size", default="tar-1.5b", help="tar-1.5b or tar-7b")
    parser.add_argument("--tiny", action="store_true", help="a model of that form, a few thousand numbers large")
    parser.add_argument("--seconds", type=float, default=480.0, help="no work is begun after so many")
    parser.add_argument("--works", nargs="*", help="only these, as in opentar bench")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each row")
    args = parser.parse_args()
    began = time.monotonic()

    import torch

    from opentar.checkpoints.random_init import init_random
    from opentar.checkpoints.sizes import size_of, tar_tiny
    from opentar.core.device import resolve_device

    device = resolve_device(args.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        init_random(tar_tiny() if args.tiny else size_of(args.size), folder)
        rows = checks(folder, str(device))
        for row in rows:
            told = f"{row['part']}, {row['type']}: error {row['error']:.1e}, bound {row['bound']:.0e}"
            print(json.dumps(row) if args.json else told + ("" if row["near"] else ", TOO LARGE"), flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        for row in measured(folder, args, lambda: args.seconds - (time.monotonic() - began)):
            told = f"{row['work']}, {row['engine']}: {row['seconds']:.4f} s, ratio {row['ratio'] or 0:.2f}"
            print(json.dumps(row) if args.json else told, flush=True)
    return 0 if all(row["near"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
