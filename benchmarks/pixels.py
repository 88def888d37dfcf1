"""Picture to codes, and codes or latents to pixels: every way there is beside the way before, in turns.

    python benchmarks/pixels.py DIR [--work encode rows vqgan sana] [--towers NAME ...] [--int8 DIR8] [--large] [--json]
    python benchmarks/pixels.py --tiny

DIR is a model folder, for example what `opentar init tar-1.5b --random` makes, DIR8 the same written by
`opentar quantize DIR --to int8`, whose encoder torch computes in int8. Ways take turns, and the least seconds
of each count; loading and the first call do not.

    encode  pictures at the finest scale. Before: the encoder in float32, codes compared with the whole table in float32
    rows    rows of 81 codes. Before: the whole table is projected first
    vqgan   the AR de-tokenizer's canvas, 256 and 512 px. Before: float32
    sana    SANA's autoencoder, 512 px, 1024 px with --large. Before: float32, in one piece

"same" is the share of codes equal to those of the way before, or the PSNR in dB against it (120: equal). Of random
weights it says little of trained ones: their features lie close to no row, so rounding moves more codes. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

WORK = ("encode", "rows", "vqgan", "sana")
Way = Callable[[], Any]
Row = dict[str, Any]


def compare(work: str, ways: dict[str, Way], rounds: int, same: Callable[[Any, Any], float]) -> list[Row]:
    """A row for each way; the first is the one before."""
    firsts = {name: way() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    before = next(iter(ways))
    return [
        {
            "work": work,
            "way": name,
            "seconds": min(seconds[name]),
            "before": min(seconds[before]),
            "ratio": min(seconds[before]) / max(min(seconds[name]), 1e-9),
            "same": same(firsts[name], firsts[before]),
            "in": "dB" if same is psnr else "share",
        }
        for name in ways
    ]


def equal_share(codes: Tensor, others: Tensor) -> float:
    """Share of equal codes."""
    return float((codes == others).float().mean())


def psnr(pixels: Tensor, others: Tensor) -> float:
    """dB, at most 120."""
    return 10 * math.log10(1 / max(float((pixels - others).square().mean()), 1e-12))


def encode(folder: Path, args: argparse.Namespace) -> Iterator[Row]:
    """The encoder by everything that can run it here."""
    import torch
    from torch.nn import functional as F

    from opentar.core.errors import ModelError
    from opentar.image_to_tokens.preprocess import to_pixels
    from opentar.image_to_tokens.ta_tok import TOWERS, TATok
    from opentar.vocab import Vocab

    exact = TATok.from_folder(folder / "ta_tok", torch.float32)
    config = exact.config
    scale = Vocab(text_size=1, codebook_size=config.quantizer.codebook_size, grid_side=config.vision.grid_side).scale(0)
    pixels = torch.stack([to_pixels(picture(seed), config.vision.image_size) for seed in range(args.pictures)])
    table_KC = exact.codebook()

    def before(tokenizer: TATok) -> Tensor:
        z_MC = tokenizer.bottleneck(tokenizer.encoder(pixels).to(tokenizer.in_linear.weight)).flatten(0, 1)
        return torch.cat([(F.normalize(part, dim=-1) @ table_KC.T).argmax(-1) for part in z_MC.split(256)])

    def now(tokenizer: TATok) -> Tensor:
        # Each picture alone, as the pipeline encodes them.
        return torch.cat([tokenizer.encode(one[None], scale)[0] for one in pixels])

    ways: dict[str, Way] = {"before": lambda: before(exact), "torch float32": lambda: now(exact)}
    for name in args.towers or ("torch bfloat16", *TOWERS[1:]):
        try:
            made = TATok.from_folder(folder / "ta_tok", torch.bfloat16, name if name in TOWERS[1:] else "torch")
        except ModelError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        # One table for all: it is the same.
        made.quantizer = exact.quantizer
        ways[name] = lambda made=made: now(made)
    if args.int8 is not None:
        packed = TATok.from_folder(args.int8 / "ta_tok", "packed")
        packed.quantizer = exact.quantizer
        ways["torch int8"] = lambda: now(packed)
    yield from compare(f"{args.pictures} pictures to {scale.length} codes each", ways, args.rounds, equal_share)


def rows(folder: Path, args: argparse.Namespace) -> Iterator[Row]:
    """Rows of the codes of a small drawing, in a process that has looked up nothing yet."""
    import torch
    from torch.nn import functional as F

    from opentar.image_to_tokens.ta_tok import TATok

    quantizer = TATok.from_folder(folder / "ta_tok").quantizer
    codes_N = torch.arange(81) * 37 % quantizer.config.codebook_size
    ways: dict[str, Way] = {
        "before": lambda: F.embedding(codes_N, quantizer.train().eval().codebook()),
        "asked for": lambda: quantizer.train().eval().look_up(codes_N),
    }
    yield from compare("rows of 81 codes", ways, args.rounds, psnr)


def vqgan(folder: Path, args: argparse.Namespace) -> Iterator[Row]:
    """The canvas of the AR de-tokenizer."""
    import torch

    from opentar.tokens_to_image.vqgan import VQGAN

    place = folder / "detok_ar" / "canvas"
    whole, narrow, before = VQGAN.from_folder(place), VQGAN.from_folder(place, torch.bfloat16), VQGAN.from_folder(place)
    before.decoder.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for side in (16, 32):
        codes_1L = torch.arange(side * side)[None] * 7919 % whole.codebook_size
        ways: dict[str, Way] = {
            "before": lambda codes=codes_1L: before.decode_codes(codes),
            "float32, channels last": lambda codes=codes_1L: whole.decode_codes(codes),
            "bfloat16": lambda codes=codes_1L: narrow.decode_codes(codes),
        }
        yield from compare(f"VQGAN, {side * whole.factor} px", ways, args.rounds, psnr)


def sana(folder: Path, args: argparse.Namespace) -> Iterator[Row]:
    """SANA's autoencoder."""
    import torch

    from opentar.tokens_to_image.sana_parts import read_parts
    from opentar.tokens_to_image.sana_strips import STRIP_PIXELS, decode_latents

    place = folder / "detok_diffusion"
    whole, narrow = (read_parts(place, "stored", kind).vae for kind in (torch.float32, torch.bfloat16))
    factor = 2 ** (len(whole.config.encoder_block_out_channels) - 1)
    for side in (512, 1024) if args.large else (512,):
        cells = max(side // factor, 1)
        noise = torch.randn(1, whole.config.latent_channels, cells, cells, generator=torch.Generator().manual_seed(0))

        def paint(vae: Any, strip: int, noise: Tensor = noise) -> Tensor:
            latents = noise.to(vae.dtype).contiguous(memory_format=torch.channels_last)
            return (decode_latents(vae, latents, strip).float() * 0.5 + 0.5).clamp(0, 1)

        ways: dict[str, Way] = {
            "before": lambda paint=paint: paint(whole, 1 << 40),
            "bfloat16": lambda paint=paint: paint(narrow, 1 << 40),
        }
        if side > 512:
            ways["float32, strips"] = lambda paint=paint: paint(whole, STRIP_PIXELS)
            ways["bfloat16, strips"] = lambda paint=paint: paint(narrow, STRIP_PIXELS)
        yield from compare(f"SANA's autoencoder, {cells * factor} px", ways, args.rounds, psnr)


def picture(seed: int) -> Any:
    """Random discs and boxes over a colour."""
    import numpy as np
    from PIL import Image, ImageDraw

    rng, side = np.random.default_rng(seed), 480
    drawn = Image.new("RGB", (side, side), tuple(rng.integers(0, 256, 3).tolist()))
    pen = ImageDraw.Draw(drawn)
    for number in range(12):
        left, top = rng.integers(0, side - 40, 2).tolist()
        box = (left, top, left + int(rng.integers(20, 200)), top + int(rng.integers(20, 200)))
        (pen.rectangle if number % 2 else pen.ellipse)(box, fill=tuple(rng.integers(0, 256, 3).tolist()))
    return drawn


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| work | way | s | times as fast as before | same |", "|---|---|---|---|---|"]
    for row in rows:
        same = f"{row['same']:.1f} dB" if row["in"] == "dB" else f"{row['same']:.4f}"
        lines.append(f"| {row['work']} | {row['way']} | {row['seconds']:.3f} | {row['ratio']:.2f} | {same} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="model folder")
    parser.add_argument("--tiny", action="store_true", help="measure a tiny model, to see that everything runs")
    parser.add_argument("--work", nargs="+", choices=WORK, default=WORK, help="only these")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way")
    parser.add_argument("--pictures", type=int, default=2, help="pictures to encode")
    parser.add_argument("--towers", nargs="+", help="what runs the encoder beside torch in float32; default: all")
    parser.add_argument("--int8", type=Path, help="the same model, quantized to int8")
    parser.add_argument("--large", action="store_true", help="SANA at 1024 px too: a minute a turn")
    parser.add_argument("--json", action="store_true", help="print rows as JSON, one a line")
    args = parser.parse_args()
    if (args.folder is None) == (not args.tiny):
        parser.error("give a model folder, or --tiny")
    import torch

    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        folder = args.folder
        if args.tiny:
            from opentar.checkpoints.random_init import init_random
            from opentar.checkpoints.sizes import size_of

            folder = init_random(size_of("tar-tiny"), Path(place) / "tiny").folder
        found: list[Row] = []
        for work in args.work:
            for row in globals()[work](folder, args):
                found.append(row)
                print(
                    json.dumps(row) if args.json else f"{row['work']}: {row['way']}",
                    file=None if args.json else sys.stderr,
                )
    if not args.json:
        print(table(found))


if __name__ == "__main__":
    main()
