"""Several codes a pass of the AR de-tokenizer beside one: what the pictures lose, and what the passes save.

    python benchmarks/ar_passes.py quality [--limit 120] [--batch 12] [--sheet OUT.png] [--modes one ...] [--json]
    python benchmarks/ar_passes.py speed [--codes 256] [--features 81] [--rounds 1] [--modes one ...] [--json]

`quality` draws the held-out prompts of nano's evaluation. The codes of the language model are drawn once and painted in
every mode with the same seeds. A row says how many picture codes agree with one code a pass, how far the pixels (0 to
255) are from its picture, how many pictures the judge accepts, how many of its checks they pass, how likely the codes
are to the model itself (nats a code), and the kernel distance of frozen features to the true pictures. "at most" is the
end of the 95% interval of the paired difference that speaks against the mode. "another seed" is one code a pass with
other noise: as far apart as two equally good pictures are. Passes are those of a picture drawn alone. The judge needs
the extra `eval`.

`speed` times a transformer of the published size with random weights in bfloat16, one picture with guidance, the modes
in turn in one run. Only passes and seconds mean anything there, and guesses are hardly ever right: codes of random
weights are nearly uniform.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from opentar import Tar
    from opentar.tokens_to_image.ar import ARTransformer
    from opentar.tokens_to_image.passes import PassCounts, Passes

ALONE = 8
"""Pictures that are drawn alone to count passes."""


def modes() -> dict[str, Passes]:
    """What is compared, by name."""
    from opentar.tokens_to_image.passes import Passes

    made = {"one": Passes(), "jacobi": Passes(guesses=5)}
    made |= {f"zipar {lead}": Passes(lead=lead) for lead in (2, 3, 4, 8)}
    made["zipar 3, window"] = Passes(lead=3, stand_in="window")
    made |= {f"drafts {lead}+{more}": Passes(lead=lead, guesses=more) for lead, more in ((3, 2), (8, 2))}
    return made | {f"guidance {share}": Passes(guided=share) for share in (0.75, 0.5, 0.25)}


class Quality:
    """Nano, its judge, and the features of the prompts' codes."""

    def __init__(self, limit: int, batch: int) -> None:
        from opentar import Tar
        from opentar.nano.benchmarks import geneval
        from opentar.nano.judge.judge import Judge
        from opentar.tokens_to_image.ar import ARDetokenizer

        tar, self.judge, self.batch = Tar.from_pretrained("nano", device="cpu"), Judge(), batch
        painter = tar.parts.detokenizer("ar")
        assert isinstance(painter, ARDetokenizer)
        prompts = geneval.even_prompts(limit)
        self.painter, self.requests = painter, geneval.requests_of(prompts)
        self.true = self.seen(geneval.truth_pictures(prompts))
        self.features_BND = drawn_features(tar, [prompt.prompt for prompt in prompts])

    def seen(self, pictures: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """Frozen features (N, D) of pictures."""
        import numpy as np

        return self.judge.features(np.stack(pictures)).astype(np.float64)

    def draw(self, mode: Passes, first_seed: int) -> dict[str, Any]:
        """Codes, pixels, pictures and what is measured of each picture."""
        import torch

        from opentar.tokens_to_image.ar_decoding import sample_codes

        model, parts = self.painter.transformer, list[torch.Tensor]()
        for at in range(0, len(self.requests), self.batch):
            features_BND = self.features_BND[at : at + self.batch]
            seeds = [first_seed + at + place for place in range(len(features_BND))]
            parts.append(sample_codes(model, features_BND, seed=seeds, passes=mode))
        with torch.no_grad():
            pixels = torch.cat([self.painter.canvas.decode_codes(part) for part in parts])
        pictures = list(pixels.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy())
        verdicts = self.judge.judge(pictures, self.requests)
        return {
            "codes": torch.cat(parts),
            "pixels": pixels,
            "pictures": pictures,
            "accepted": torch.tensor([verdict.accepted for verdict in verdicts]).float(),
            "checks": torch.tensor([statistics.mean(verdict.checks.values()) for verdict in verdicts]),
            "nats": surprise(model, self.features_BND, torch.cat(parts)),
        }

    def alone(self, mode: Passes) -> PassCounts:
        """What the first pictures cost when each is drawn alone."""
        from opentar.tokens_to_image.ar_decoding import sample_codes
        from opentar.tokens_to_image.passes import PassCounts

        counts = PassCounts()
        for place, features_1ND in enumerate(self.features_BND[:ALONE].split(1)):
            sample_codes(self.painter.transformer, features_1ND, seed=place, passes=mode, counts=counts)
        return counts


def quality(limit: int, batch: int, names: list[str], sheet: Path | None) -> list[dict[str, Any]]:
    """Rows of modes on nano: agreement, difference of pixels, acceptance, passes."""
    bench, known = Quality(limit, batch), modes()
    one, rows, strips = bench.draw(known["one"], 0), list[dict[str, Any]](), list["NDArray[np.uint8]"]()
    for name in ["one", "another seed", *(name for name in names if name != "one")]:
        other = name == "another seed"
        mode = known["one" if other else name]
        made, counts = bench.draw(mode, 10_000 if other else 0), bench.alone(mode)
        total, alone = len(made["codes"]), min(ALONE, len(made["codes"]))
        rows.append(
            {
                "mode": name,
                "exact": mode.exact and not other,
                "agreement": float((made["codes"] == one["codes"]).float().mean()),
                "pixels": float((made["pixels"] - one["pixels"]).abs().mean() * 255),
                "accepted": float(made["accepted"].mean()),
                "accepted_lost_at_most": worst(one["accepted"] - made["accepted"]),
                "checks": float(made["checks"].mean()),
                "checks_lost_at_most": worst(one["checks"] - made["checks"]),
                "nats": float(made["nats"].mean()),
                "nats_more_at_most": worst(made["nats"] - one["nats"]),
                "kid": kid(bench.seen(made["pictures"]), bench.true),
                "passes": counts.passes / alone,
                "computed": counts.computed / counts.passes,
                "kept": counts.kept / counts.passes,
                "prompts": total,
            }
        )
        print(f"{name}: {rows[-1]['checks']:.3f}", file=sys.stderr, flush=True)
        strips.append(strip(made["pictures"][:: max(1, total // 12)][:12]))
    if sheet is not None:
        save_sheet(strips, sheet)
    return rows


def worst(loss_B: Tensor) -> float:
    """The end of the 95% interval of a mean paired loss that speaks against the mode."""
    return float(loss_B.mean() + 1.96 * loss_B.std() / math.sqrt(len(loss_B)))


def surprise(model: ARTransformer, features_BND: Tensor, codes_BL: Tensor) -> Tensor:
    """Nats a code (B,) of pictures under the guided model, each code given all before it."""
    import torch

    from opentar.nn.sampling import guide

    config, found = model.config, []
    with torch.no_grad():
        for features_1ND, codes_1L in zip(features_BND.split(1), codes_BL.split(1), strict=True):
            both = torch.cat([features_1ND, torch.zeros_like(features_1ND)])
            cond, uncond = model(both, codes_1L[:, :-1].expand(2, -1)).chunk(2)
            chances = (guide(cond, uncond, config.guidance) / config.temperature).log_softmax(-1)
            found.append(-chances.gather(-1, codes_1L[..., None]).mean())
    return torch.stack(found)


def kid(drawn: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Kernel distance of two sets of features (N, D), unbiased, with the cubic kernel (arXiv 1801.01401)."""
    count, other, width = len(drawn), len(true), drawn.shape[1]
    among, beside, across = (
        (one @ two.T / width + 1) ** 3 for one, two in ((drawn, drawn), (true, true), (drawn, true))
    )
    inside = (among.sum() - among.trace()) / (count * (count - 1)) + (beside.sum() - beside.trace()) / (
        other * (other - 1)
    )
    return float(inside - 2 * across.mean())


def drawn_features(tar: Tar, prompts: list[str]) -> Tensor:
    """Features (B, N, D) of the codes that the language model draws for each prompt, with seeds counted up."""
    import torch

    from opentar.engine.request import Codes, Request, Sampling

    own, engine = tar.parts.config.defaults.draw, tar.engine()
    sampling = Sampling(temperature=own.temperature, top_k=own.top_k, top_p=own.top_p, guidance=own.guidance)
    grammar = Codes(scale=tar.parts.vocab.scale(own.scale))
    requests = [
        Request(turns=engine.builder.drawing(prompt), grammar=grammar, sampling=sampling, seed=seed)
        for seed, prompt in enumerate(prompts)
    ]
    with torch.no_grad():
        return tar.parts.ta_tok.decode(torch.tensor([result.ids for result in engine.results(requests)]))


def strip(pictures: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures side by side."""
    import numpy as np

    return np.concatenate(pictures, axis=1)


def save_sheet(strips: list[NDArray[np.uint8]], path: Path) -> None:
    """One strip a mode, in the order of the table."""
    import numpy as np
    from PIL import Image

    Image.fromarray(np.concatenate(strips)).save(path)


def random_transformer(codes: int) -> ARTransformer:
    """The published AR transformer with random weights in bfloat16."""
    import torch

    from opentar.checkpoints.sizes import ar_lp
    from opentar.tokens_to_image.ar import ARTransformer

    with torch.device("meta"):
        model = ARTransformer(ar_lp(codes))
    model = model.to(torch.bfloat16).to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            _ = weight.fill_(1) if weight.ndim == 1 else weight.normal_(std=0.02, generator=generator)
    return model


def speed(codes: int, features: int, rounds: int, names: list[str]) -> list[dict[str, Any]]:
    """Rows of modes on random weights: passes, codes in each, seconds (the median of the rounds)."""
    import torch

    from opentar.tokens_to_image.ar_decoding import sample_codes
    from opentar.tokens_to_image.passes import PassCounts

    model, known = random_transformer(codes), modes()
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(1, features, model.config.feature_size, generator=generator).bfloat16()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    counted: dict[str, PassCounts] = {}
    with torch.inference_mode():
        # The first call touches the weights and plans the kernels.
        model(given, torch.zeros(1, 8, dtype=torch.int64))
        for _ in range(rounds):
            for name in names:
                counted[name] = PassCounts()
                start = time.perf_counter()
                sample_codes(model, given, seed=0, passes=known[name], counts=counted[name])
                seconds[name].append(time.perf_counter() - start)
                print(f"{name}: {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    return [
        {
            "mode": name,
            "exact": known[name].exact,
            "passes": counts.passes,
            "computed": counts.computed / counts.passes,
            "kept": counts.kept / counts.passes,
            "rows": counts.rows / counts.passes,
            "seconds": median[name],
            "ms_a_pass": 1000 * median[name] / counts.passes,
            "ratio": median["one"] / median[name] if "one" in median else None,
            "codes": codes,
            "features": features,
            "threads": torch.get_num_threads(),
        }
        for name, counts in counted.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""

    def cell(value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)

    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, row.values())) + " |" for row in rows)])


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "speed"))
    parser.add_argument("--limit", type=int, default=120, help="prompts, at least 6")
    parser.add_argument("--batch", type=int, default=12, help="pictures drawn side by side")
    parser.add_argument("--sheet", type=Path, help="where a sheet of pictures goes, one line a mode")
    parser.add_argument("--codes", type=int, default=256, choices=(256, 1024, 4096), help="codes of a picture")
    parser.add_argument("--features", type=int, default=81, choices=(81, 169, 729), help="codes of the prefix")
    parser.add_argument("--rounds", type=int, default=1, help="how often each mode is timed")
    parser.add_argument("--modes", nargs="+", choices=tuple(modes()), default=list(modes()), metavar="MODE")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    args = parser.parse_args()
    if min(args.limit // 6, args.batch, args.rounds) < 1:
        parser.error("--limit must be at least 6, --batch and --rounds at least 1")
    if args.what == "quality":
        rows = quality(args.limit, args.batch, args.modes, args.sheet)
    else:
        rows = speed(args.codes, args.features, args.rounds, args.modes)
    print(json.dumps(rows, indent=1) if args.json else table(rows))


if __name__ == "__main__":
    main()
