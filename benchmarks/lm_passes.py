"""Several codes a pass of the language model beside one: what the pictures lose, and what the passes save.

    python benchmarks/lm_passes.py quality [--limit 120] [--scale 1] [--batch 16] [--modes one ...] [--json]
    python benchmarks/lm_passes.py speed MODEL ... [--scale 0] [--most 100] [--guidance 2] [--modes one ...] [--json]

`quality` draws the held-out prompts of nano's evaluation in every mode with the same seeds and paints all codes alike.
A row says how many codes agree with one code a pass, how many pictures the judge accepts and how many of its checks
they pass, the kernel distance of frozen features to the true pictures, and how likely the codes are to the model itself
(nats a code, each given all before it). "at most" is the end of the 95% interval of the paired difference that speaks
against the mode. "another seed" is one code a pass with other noise: as far apart as two equally good pictures are. The
judge needs the extra `eval`.

`speed` draws one grid with guidance on each model, the modes in turn. One code a pass and guesses are stopped after
`--most` codes, rows that run as a wave are drawn to the end. On random weights only passes and seconds mean anything,
and guesses are hardly ever right.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ar_passes import kid, save_sheet, strip, table, worst

if TYPE_CHECKING:
    from torch import Tensor

    from opentar import Tar
    from opentar.engine.engine import Engine
    from opentar.engine.request import Request
    from opentar.tokens_to_image.passes import Passes

ALONE = 8
"""Pictures that are drawn alone to count passes."""


def modes() -> dict[str, Passes]:
    """What is compared, by name."""
    from opentar.tokens_to_image.passes import Passes

    made = {"one": Passes(), "jacobi": Passes(guesses=5), "jacobi 2": Passes(guesses=2)}
    made |= {f"zipar {lead}": Passes(lead=lead) for lead in (2, 3, 4, 5)}
    return made | {f"zipar {lead}, window": Passes(lead=lead, stand_in="window") for lead in (2, 3)}


def requests(engine: Engine, tar: Tar, prompts: list[str], passes: Passes, scale: int, **other: Any) -> list[Request]:
    """A drawing of each prompt with the model's own sampling, seeds counted up."""
    from opentar.engine.request import Codes, Request, Sampling

    own = tar.parts.config.defaults.draw
    first = other.get("seed", 0)
    guidance = other.get("guidance", own.guidance)
    sampling = Sampling(temperature=own.temperature, top_k=own.top_k, top_p=own.top_p, guidance=guidance)
    grammar = Codes(scale=tar.parts.vocab.scale(scale), passes=passes)
    return [
        Request(turns=engine.builder.drawing(prompt), grammar=grammar, sampling=sampling, seed=first + place)
        for place, prompt in enumerate(prompts)
    ]


class Quality:
    """Nano, its judge, and the held-out prompts."""

    def __init__(self, limit: int, batch: int, scale: int) -> None:
        from opentar import Tar
        from opentar.nano.benchmarks import geneval
        from opentar.nano.judge.judge import Judge

        self.tar, self.judge, self.batch, self.scale = Tar.from_pretrained("nano", device="cpu"), Judge(), batch, scale
        self.engine = self.tar.engine(batch)
        prompts = geneval.even_prompts(limit)
        self.prompts = [prompt.prompt for prompt in prompts]
        self.requests = geneval.requests_of(prompts)
        self.true = self.seen(geneval.truth_pictures(prompts))

    def seen(self, pictures: list[Any]) -> Any:
        """Frozen features (N, D) of pictures."""
        import numpy as np

        return self.judge.features(np.stack(pictures)).astype(np.float64)

    def draw(self, mode: Passes, seed: int) -> dict[str, Any]:
        """Codes, pictures and what is measured of each."""
        import numpy as np
        import torch

        from opentar.drawing import Steps, paint, settings_of

        asked = requests(self.engine, self.tar, self.prompts, mode, self.scale, seed=seed)
        codes_BN = torch.tensor([done.ids for done in self.engine.results(asked)])
        settings, parts = settings_of(self.tar.parts.config, {"scale": self.scale}), list[Any]()
        with torch.no_grad():
            for at in range(0, len(codes_BN), self.batch):
                some_BN = codes_BN[at : at + self.batch]
                seeds = [seed + at + place for place in range(len(some_BN))]
                parts += paint(self.tar.parts, some_BN, seeds, settings, Steps(None))
        pictures = [np.asarray(picture) for picture in parts]
        verdicts = self.judge.judge(pictures, self.requests)
        return {
            "codes": codes_BN,
            "pictures": pictures,
            "accepted": torch.tensor([verdict.accepted for verdict in verdicts]).float(),
            "checks": torch.tensor([statistics.mean(verdict.checks.values()) for verdict in verdicts]),
            "nats": self.surprise(codes_BN),
        }

    def surprise(self, codes_BN: Tensor) -> Tensor:
        """Nats a code (B,) without temperature or guidance, each code given all before it."""
        import torch

        model, builder = self.tar.parts.language.model, self.engine.builder
        vocab, found = self.tar.parts.vocab, []
        with torch.no_grad():
            for prompt, codes in zip(self.prompts, codes_BN.tolist(), strict=True):
                ids = [*builder.prefix(builder.drawing(prompt), vocab.scale(self.scale)), *map(vocab.code_token, codes)]
                hidden = model.hidden(torch.tensor([ids]))[0, -len(codes) - 1 : -1]
                chances = model.head(hidden, range(vocab.first_code, vocab.size)).float().log_softmax(-1)
                found.append(-chances.gather(-1, torch.tensor(codes)[:, None]).mean())
        return torch.stack(found)

    def alone(self, mode: Passes) -> float:
        """Passes of a picture drawn alone, on average over the first ones."""
        asked = requests(self.engine, self.tar, self.prompts[:ALONE], mode, self.scale)
        return statistics.mean(steps_of(self.engine, one) for one in asked)


def steps_of(engine: Engine, request: Request, most: int | None = None) -> int:
    """Steps that a request takes; let go after `most` codes."""
    from opentar.engine.events import CodeDrawn, Failed

    ticket, steps, drawn = engine.submit(request), 0, 0
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, Failed):
                raise event.error
            drawn += isinstance(event, CodeDrawn)
        steps += 1
        if most is not None and drawn >= most:
            engine.cancel(ticket)
    return steps


def quality(limit: int, batch: int, scale: int, names: list[str], sheet: Path | None) -> list[dict[str, Any]]:
    """Rows of modes on nano."""
    bench, known = Quality(limit, batch, scale), modes()
    one, rows, strips = bench.draw(known["one"], 0), list[dict[str, Any]](), []
    for name in ["one", "another seed", *(name for name in names if name != "one")]:
        mode = known["one" if name == "another seed" else name]
        made = one if name == "one" else bench.draw(mode, 10_000 if name == "another seed" else 0)
        row = {"mode": name, "agreement": float((made["codes"] == one["codes"]).float().mean())}
        for what in ("accepted", "checks"):
            row |= {what: float(made[what].mean()), f"{what}_lost_at_most": worst(one[what] - made[what])}
        row |= {"nats": float(made["nats"].mean()), "kid": kid(bench.seen(made["pictures"]), bench.true)}
        rows.append(row | {"passes": bench.alone(mode), "prompts": len(bench.prompts)})
        print(f"{name}: accepted {row['accepted']:.3f}", file=sys.stderr, flush=True)
        strips.append(strip(made["pictures"][:: max(1, len(bench.prompts) // 12)][:12]))
    if sheet is not None:
        save_sheet(strips, sheet)
    return rows


def speed(
    models: list[str], scale: int, most: int, guidance: float, rounds: int, names: list[str]
) -> list[dict[str, Any]]:
    """Rows of models and modes: passes, milliseconds of each, codes a second."""
    from opentar import Tar

    known, rows = modes(), []
    for model in models:
        tar = Tar.from_pretrained(model, device="cpu")
        engine = tar.engine(1)
        length = tar.parts.vocab.scale(scale).length
        # The first call touches the weights and plans the kernels.
        steps_of(engine, requests(engine, tar, ["a red apple"], known["zipar 2"], 2, guidance=guidance)[0])
        took: dict[str, list[tuple[int, int, float, float]]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                codes = length if known[name].lead else min(most, length)
                request = requests(engine, tar, ["a red apple"], known[name], scale, guidance=guidance)[0]
                start, busy = time.perf_counter(), time.process_time()
                steps = steps_of(engine, request, codes)
                took[name].append((codes, steps, time.perf_counter() - start, time.process_time() - busy))
                print(f"{model} {name}: {took[name][-1]}", file=sys.stderr, flush=True)
        cost: dict[str, tuple[float, float]] = {}
        for name, runs in took.items():
            codes, steps, *_ = runs[0]
            seconds, busy = (statistics.median(run[kind] for run in runs) for kind in (2, 3))
            cost[name] = (seconds / codes, busy / codes)
            row: dict[str, Any] = {"model": Path(model).name, "mode": name, "codes": codes, "passes": steps}
            row |= {
                "ms_a_pass": 1000 * seconds / steps,
                "codes_per_s": codes / seconds,
                "cpu_ms_a_pass": 1000 * busy / steps,
            }
            if "one" in cost:
                row |= {"ratio": cost["one"][0] / cost[name][0], "cpu_ratio": cost["one"][1] / cost[name][1]}
            rows.append(row)
    return rows


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "speed"))
    parser.add_argument("models", nargs="*", help="what `speed` measures")
    parser.add_argument("--limit", type=int, default=120, help="prompts, at least 6")
    parser.add_argument("--batch", type=int, default=16, help="pictures drawn side by side")
    parser.add_argument("--scale", type=int, choices=(0, 1, 2), help="grid; 1 for quality, 0 for speed")
    parser.add_argument("--most", type=int, default=100, help="codes of ways that are not drawn to the end")
    parser.add_argument("--guidance", type=float, default=2.0, help="of the language model, for speed")
    parser.add_argument("--rounds", type=int, default=1, help="how often each mode is timed")
    parser.add_argument("--sheet", type=Path, help="where a sheet of pictures goes, one line a mode")
    parser.add_argument("--modes", nargs="+", choices=tuple(modes()), default=list(modes()), metavar="MODE")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    args = parser.parse_args()
    if min(args.limit // 6, args.batch, args.rounds, args.most) < 1:
        parser.error("--limit must be at least 6, --batch, --most and --rounds at least 1")
    if args.what == "quality":
        rows = quality(args.limit, args.batch, 1 if args.scale is None else args.scale, args.modes, args.sheet)
    else:
        rows = speed(args.models, args.scale or 0, args.most, args.guidance, args.rounds, args.modes)
    print(json.dumps(rows, indent=1) if args.json else table(rows))


if __name__ == "__main__":
    main()
