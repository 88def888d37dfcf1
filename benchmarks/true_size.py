"""Loading, reading and drawing with a model of true size, beside the published way on the same weights.

    python benchmarks/true_size.py DIR [--parts load read ar sana] [--scales 2 1] [--tokens 32] [--steps 4]
        [--alone]
    python benchmarks/true_size.py --tiny

DIR is a model folder, for example what `opentar init tar-1.5b --random` makes: only speed and memory are measured, so
random weights will do. Each task runs on each side in a process of its own, so that the peak is the side's own (of
mapped weights the part that was touched counts). Importing libraries, and a short call after loading, are not counted.

    load   everything that reading needs
    read   one picture at scale 0 and an answer of --tokens tokens
    ar     the codes of each of --scales, their features, and a picture by the AR de-tokenizer
    sana   the same by SANA, in --steps steps

The published way is written here for comparison: weights in float32, transformers' `generate` over the whole head,
prompts as one string through a tokenizer with all image tokens, codes parsed back from text (a short run is filled up
with zeros), the codebook projected at every call, and AR codes one at a time over a cache of full length. It cannot run
SANA on another number of codes than its negative features have, so both sides run it through our loop, which differs in
the type of its transformer only. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from opentar.checkpoints.parts import ModelParts
    from opentar.language.prompt import PromptBuilder
    from opentar.tokens_to_image.ar import ARTransformer
    from opentar.tokens_to_image.detokenizer import Detokenizer

PARTS = ("load", "read", "ar", "sana")
SIDES = ("ours", "published")
PROMPT = "A photo of a macaw"
QUESTION = "What is in the picture?"
SAMPLING: dict[str, Any] = {"temperature": 1.0, "top_k": 1200, "top_p": 0.95}
AR_GUIDANCE = 4.0
Stages = dict[str, float]


class Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.stages: Stages = {}
        self.start()

    def start(self) -> None:
        """Begin the next stage now; what came before counts for none."""
        self._last = time.perf_counter()

    def stage(self, name: str) -> None:
        """End the stage `name`, which began where the last one ended."""
        now = time.perf_counter()
        self.stages[name] = now - self._last
        self._last = now


class Ours:
    """OpenTar's side: weights as they are stored, mapped from the disk."""

    def __init__(self, folder: Path, dtype: str | None, _clock: Clock | None = None) -> None:
        from opentar import Tar

        tar = Tar.from_pretrained(folder, dtype=dtype)
        self.parts: ModelParts = tar.parts
        self.engine = tar.engine()
        self.codebook = self.parts.ta_tok.codebook()

    def encode(self, picture: Image.Image) -> list[int]:
        """Codes of a picture at scale 0."""
        return self.parts.ta_tok.encode(_pixels(self.parts, picture), self.parts.vocab.scale(0))[0].tolist()

    def answer(self, codes: list[int], tokens: int) -> None:
        """Answer a question about a picture."""
        from opentar.engine.request import Request, Text

        turns = self.engine.builder.reading([codes], QUESTION)
        self.engine.results([Request(turns=turns, grammar=Text(max_new_tokens=tokens))])

    def spell(self, index: int) -> Tensor:
        """Codes (1, N) of a drawing."""
        import torch

        from opentar.engine.request import Codes, Request, Sampling

        grammar, turns = Codes(scale=self.parts.vocab.scale(index)), self.engine.builder.drawing(PROMPT)
        request = Request(turns=turns, grammar=grammar, sampling=Sampling(**SAMPLING))
        return torch.tensor([self.engine.results([request])[0].ids])

    def features(self, codes_1N: Tensor) -> Tensor:
        """Features (1, N, D) of codes."""
        return self.parts.ta_tok.decode(codes_1N)

    def detokenizer(self, name: str) -> Detokenizer:
        """The de-tokenizer called `name`."""
        return self.parts.detokenizer(name)

    def paint_ar(self, detokenizer: Any, features_1ND: Tensor) -> Tensor:
        """A picture by the AR de-tokenizer."""
        return detokenizer.decode(features_1ND, guidance=AR_GUIDANCE, temperature=1.0, top_k=0, top_p=1.0)


class Published:
    """The published way, on the same weights."""

    def __init__(self, folder: Path, dtype: str | None, clock: Clock | None = None) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from opentar.checkpoints.parts import ModelParts

        self.parts = ModelParts(folder, dtype="float32")
        with tempfile.TemporaryDirectory() as place:
            self.builder = write_full_tokenizer(folder, Path(place))
            if clock is not None:
                # The published folder has that file: writing it is no part of loading.
                clock.start()
            self.tokenizer = AutoTokenizer.from_pretrained(place)
        self.model = AutoModelForCausalLM.from_pretrained(folder / "language", dtype=dtype or "float32").eval()
        self.ta_tok = self.parts.ta_tok

    def encode(self, picture: Image.Image) -> list[int]:
        """Codes of a picture at scale 0, the codebook projected first."""
        self._forget_codebook()
        return self.ta_tok.encode(_pixels(self.parts, picture), self.parts.vocab.scale(0))[0].tolist()

    def answer(self, codes: list[int], tokens: int) -> None:
        """Answer a question about a picture that stands in the prompt as text."""
        self._generate("".join(f"<I{code}>" for code in codes) + f"\n{QUESTION}", "", tokens, do_sample=False)

    def spell(self, index: int) -> Tensor:
        """Codes (1, N) of a drawing, parsed from text and filled up with zeros."""
        import torch

        count = self.parts.vocab.scale(index).length
        said = self._generate(PROMPT, f"<im_start><S{index}>", count, do_sample=True, **SAMPLING)
        codes = [int(code) for code in re.findall(r"<I(\d+)>", self.tokenizer.decode(said))]
        return torch.tensor([(codes + [0] * count)[:count]])

    def features(self, codes_1N: Tensor) -> Tensor:
        """Features (1, N, D) of codes, the codebook projected once more."""
        self._forget_codebook()
        return self.ta_tok.decode(codes_1N)

    def detokenizer(self, name: str) -> Detokenizer:
        """The de-tokenizer called `name`, in float32."""
        return self.parts.detokenizer(name)

    def paint_ar(self, detokenizer: Any, features_1ND: Tensor) -> Tensor:
        """A picture by the AR de-tokenizer, one code at a time."""
        return detokenizer.canvas.decode_codes(padded_ar(detokenizer.transformer, features_1ND, AR_GUIDANCE))

    def _forget_codebook(self) -> None:
        # Switching the mode drops the kept table, so that the next call projects all rows again.
        self.ta_tok.quantizer.train().eval()

    def prompt(self, text: str, opening: str) -> list[int]:
        """Ids of the chat template's string with the beginning of the answer."""
        system = self.builder.template.system
        turns = [] if system is None else [f"<|im_start|>system\n{system}<|im_end|>\n"]
        string = "".join([*turns, f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n{opening}"])
        return self.tokenizer(string).input_ids

    def _generate(self, text: str, opening: str, tokens: int, **settings: Any) -> list[int]:
        import torch

        ids = torch.tensor([self.prompt(text, opening)])
        said = self.model.generate(
            ids, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=self.parts.vocab.image_end, **settings
        )
        return said[0, ids.shape[1] :].tolist()


def _pixels(parts: ModelParts, picture: Image.Image) -> Tensor:
    from opentar.image_to_tokens.preprocess import to_pixels

    return to_pixels(picture, parts.ta_tok.config.vision.image_size)[None]


def write_full_tokenizer(folder: Path, out: Path) -> PromptBuilder:
    """The tokenizer of a model folder with all image tokens, as libraries load it; returns the builder of prompts."""
    from opentar.checkpoints.convert.qwen2 import image_tokens
    from opentar.core.config import from_dict
    from opentar.core.folder import read_config
    from opentar.language.model import LanguageConfig
    from opentar.language.prompt import ChatTemplate, PromptBuilder
    from opentar.language.tokenizer import FILE, TextTokenizer

    ours = read_config(folder / "language")["opentar"]
    sizes = from_dict(LanguageConfig, ours["language"])
    tokenizer = TextTokenizer.load(folder / "language")
    builder = PromptBuilder(tokenizer, sizes.vocab, from_dict(ChatTemplate, ours["template"]), sizes.max_length)
    (out / FILE).write_text(tokenizer.to_json(list(image_tokens(builder))), encoding="utf-8")
    (out / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    (out / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}', encoding="utf-8")
    return builder


def padded_ar(model: ARTransformer, features_BND: Tensor, guidance: float) -> Tensor:
    """Codes (B, L) as the published code draws them: every step attends over a cache of full length and a mask."""
    import torch
    from torch.nn import functional

    config = model.config
    inputs_BPW = torch.cat([model.prefix(features_BND), model.prefix(torch.zeros_like(features_BND))])
    length, width = inputs_BPW.shape[1] + config.codes, config.hidden_size // config.heads
    caches = [inputs_BPW.new_zeros(2, len(inputs_BPW), config.heads, length, width) for _ in model.blocks]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    start, drawn = 0, []
    for _ in range(config.codes):
        places = torch.arange(start, start + inputs_BPW.shape[1])
        hidden_BPW = inputs_BPW + model.positions[places]
        for block, cache in zip(model.blocks, caches, strict=True):
            qkv = block.qkv(block.attention_norm(hidden_BPW)).unflatten(-1, (3, config.heads, -1)).unbind(2)
            query, key, value = (one.transpose(1, 2) for one in qkv)
            cache[0][:, :, places], cache[1][:, :, places] = key, value
            mixed = functional.scaled_dot_product_attention(query, cache[0], cache[1], attn_mask=causal[places])
            hidden_BPW = hidden_BPW + block.attention_out(mixed.transpose(1, 2).flatten(2))
            normed = block.mlp_norm(hidden_BPW)
            hidden_BPW = hidden_BPW + block.mlp_down(functional.silu(block.mlp_gate(normed)) * block.mlp_up(normed))
        given, without = model.logits(model.norm(hidden_BPW))[:, -1].chunk(2)
        chances = (without + guidance * (given - without)).softmax(-1)
        drawn.append(torch.multinomial(chances, 1))
        start += len(places)
        inputs_BPW = model.codes_in(drawn[-1]).repeat(2, 1, 1)
    return torch.cat(drawn, dim=1)


def run(side: str, folder: Path, task: dict[str, Any]) -> Stages:
    """Seconds of the stages of one task on one side, in this process."""
    import torch

    # Libraries load for seconds on both sides alike; that is not what is measured.
    from transformers import AutoTokenizer, Qwen2ForCausalLM, Qwen2Tokenizer  # noqa: F401

    import opentar.pipeline  # noqa: F401

    torch.manual_seed(0)
    clock = Clock()
    model = (Ours if side == "ours" else Published)(folder, task.get("dtype"), clock)
    clock.stage("load")
    if task["part"] == "load":
        return clock.stages
    with torch.inference_mode():
        if task["part"] == "read":
            return _read(model, task["tokens"])
        return _draw(model, task)


def _read(model: Ours | Published, tokens: int) -> Stages:
    from PIL import Image

    side = model.parts.ta_tok.config.vision.image_size
    picture = Image.effect_noise((side, side), 80).convert("RGB")
    model.answer(model.encode(picture), 1)
    clock = Clock()
    codes = model.encode(picture)
    clock.stage("picture to codes")
    model.answer(codes, tokens)
    clock.stage(f"answer, {tokens} tokens")
    return clock.stages


def _draw(model: Ours | Published, task: dict[str, Any]) -> Stages:
    import torch

    name, index = task["detok"], task["scale"]
    detokenizer = model.detokenizer(name)
    count = model.parts.vocab.scale(index).length
    model.features(torch.zeros(1, count, dtype=torch.int64))
    clock = Clock()
    codes_1N = model.spell(index)
    clock.stage(f"text to {count} codes")
    features_1ND = model.features(codes_1N)
    clock.stage("codes to features")
    if task["part"] == "ar":
        model.paint_ar(detokenizer, features_1ND)
        clock.stage(f"{detokenizer.image_size} px by AR")
    else:
        detokenizer.decode(features_1ND, steps=task["steps"])
        clock.stage(f"{detokenizer.image_size} px by SANA, {task['steps']} steps")
    return clock.stages


def tasks_of(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The tasks that this model can do."""
    from opentar.checkpoints.model_folder import read_config as read_model
    from opentar.core.folder import read_config

    kinds = {"flow": "flow", "ar": "ar", "sana": "sana"}
    painters = {
        kinds[read_config(folder / f"detok_{name}")["kind"]]: name for name in reversed(read_model(folder).detokenizers)
    }
    tasks: list[dict[str, Any]] = []
    for part in args.parts:
        if part in ("load", "read"):
            tasks.append({"part": part, "tokens": args.tokens})
        elif part not in painters:
            print(f"{part}: this model has no such de-tokenizer", file=sys.stderr)
        else:
            detok = {"part": part, "detok": painters[part], "steps": args.steps}
            tasks += [detok | {"scale": scale} for scale in args.scales]
    return tasks


def measure(side: str, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """`run` in a process of its own. Raises SystemExit with the child's last line where it fails."""
    # This process stays small: on Linux a child's peak starts at its parent's size.
    command = [sys.executable, __file__, str(folder), "--child", json.dumps({"side": side, **task})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side}: {(done.stderr.strip() or 'the run failed without a word').splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(results: Sequence[tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]]) -> str:
    """(task, ours, published or None) as a Markdown table: stages, and a sum with the peaks."""
    lines = [
        "| task | OpenTar, s | published way, s | times faster | OpenTar, GB | published way, GB |",
        "|---|---|---|---|---|---|",
    ]

    def row(name: str, ours: float, theirs: float, *peaks: float) -> str:
        told = [f"{peak:.2f}" for peak in peaks] or ["", ""]
        return f"| {name} | {ours:.2f} | {theirs:.2f} | {theirs / max(ours, 1e-9):.1f} | {' | '.join(told)} |"

    for task, ours, theirs in results:
        name = task["part"] + (f", scale {task['scale']}" if "scale" in task else "")
        if theirs is None:
            lines += [f"| {name}: {stage} | {seconds:.2f} | | | | |" for stage, seconds in ours["stages"].items()]
            lines.append(f"| **{name}** | {sum(ours['stages'].values()):.2f} | | | {ours['peak']:.2f} | |")
            continue
        pairs = list(zip(ours["stages"].items(), theirs["stages"].values(), strict=True))
        lines += [row(f"{name}: {stage}", one, other) for (stage, one), other in pairs if len(pairs) > 1]
        sums = [sum(side["stages"].values()) for side in (ours, theirs)]
        lines.append(row(f"**{name}**", *sums, ours["peak"], theirs["peak"]))
    return "\n".join(lines)


def tiny_folder(place: Path) -> Path:
    """A model of the same kinds of parts, but tiny."""
    from opentar.checkpoints.random_init import init_random
    from opentar.checkpoints.sizes import size_of

    init_random(size_of("tar-tiny"), place / "tiny")
    return place / "tiny"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="model folder")
    parser.add_argument("--tiny", action="store_true", help="measure a tiny model, to see that everything runs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="only these tasks")
    parser.add_argument("--scales", nargs="+", type=int, choices=(0, 1, 2), default=(2, 1), help="grids of drawings")
    parser.add_argument("--tokens", type=int, default=32, help="length of an answer")
    parser.add_argument("--steps", type=int, default=4, help="steps of SANA")
    parser.add_argument("--dtype", help="float32 or bfloat16 for OpenTar's side; default: as stored")
    parser.add_argument("--alone", action="store_true", help="OpenTar only: the published way may not fit into memory")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        stages = run(args.child["side"], args.folder, args.child)
        from opentar.core.memory import peak_gigabytes

        print(json.dumps({"stages": stages, "peak": peak_gigabytes()}))
        return
    if (args.folder is None) == (not args.tiny):
        parser.error("give a model folder, or --tiny")
    with tempfile.TemporaryDirectory() as place:
        _main(args, _in_child(tiny_folder, Path(place)) if args.tiny else args.folder)


def _in_child(make: Callable[[Path], Path], place: Path) -> Path:
    """`make(place)` in another process, so that this one stays small."""
    from multiprocessing import get_context

    with get_context("spawn").Pool(1) as pool:
        return pool.apply(make, (place,))


def _main(args: argparse.Namespace, folder: Path) -> None:
    results = []
    for task in tasks_of(folder, args):
        # The published way has one type only, so the option is ours.
        sides = [
            measure(side, folder, task | ({"dtype": args.dtype} if side == "ours" else {}))
            for side in SIDES[: 1 if args.alone else 2]
        ]
        results.append((task, sides[0], None if args.alone else sides[1]))
        print(f"{task}: {sides}", file=sys.stderr)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{folder.name}, {cores} cores, {platform.machine()}, Python {platform.python_version()}\n")
    print(table(results))


if __name__ == "__main__":
    main()
