"""What runs the encoder of pictures: seconds a picture, and how many codes are those of float32.

    python benchmarks/encoders.py [MODEL] [--pictures N] [--rounds N]

The towers take turns, so that a machine whose speed drifts treats them alike. Pictures are nano's drawings, enlarged.
With random weights the shares of equal codes say little: features that mean nothing lie close together.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from opentar import Tar
from opentar.checkpoints.find import find_model
from opentar.checkpoints.model_folder import read_vocab
from opentar.image_to_tokens.preprocess import to_pixels
from opentar.image_to_tokens.ta_tok import TOWERS, TATok

PROMPTS = ("a red apple", "a purple car", "two dogs", "a green frog on a yellow background", "three blue cups", "a cat")


def main() -> None:
    """Measure and print a line for each tower."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="nano")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    folder = find_model(given.model)
    pixels = _pixels(folder, given.pictures)
    scales = tuple(read_vocab(folder).scales)
    wanted, seconds, equal = None, {}, {}
    kinds = [("torch float32", torch.float32, "torch"), ("torch bfloat16", torch.bfloat16, "torch")]
    kinds += [(name, "stored", name) for name in TOWERS if name != "torch"]
    loaded = {name: TATok.from_folder(folder / "ta_tok", dtype, tower) for name, dtype, tower in kinds}
    for _ in range(given.rounds + 1):
        for name, tokenizer in loaded.items():
            started = time.perf_counter()
            codes = [torch.cat(tokenizer.encode_scales(one[None], scales), 1) for one in pixels]
            seconds.setdefault(name, []).append((time.perf_counter() - started) / len(pixels))
            wanted = codes if wanted is None else wanted
            pairs = zip(codes, wanted, strict=True)
            equal[name] = statistics.mean(float((one == other).float().mean()) for one, other in pairs)
    print(f"{given.model}: {len(pixels)} pictures, codes of all three grids, {torch.get_num_threads()} threads")
    for name, taken in seconds.items():
        # The first round prepares tables and graphs.
        print(f"{name:18} {statistics.median(taken[1:]):7.3f} s a picture   {equal[name]:6.1%} of the codes equal")


def _pixels(folder: Path, count: int) -> torch.Tensor:
    size = TATok.from_folder(folder / "ta_tok").config.vision.image_size
    pictures = Tar.from_pretrained("nano").generate([*PROMPTS][:count], seed=5)
    return torch.stack([to_pixels(picture, size, fit="squash") for picture in pictures])


if __name__ == "__main__":
    main()
