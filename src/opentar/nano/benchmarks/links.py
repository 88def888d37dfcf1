"""A score for each link of the chain on ground-truth pictures, so that the weakest one is known.

autoencoder   picture -> latents -> picture: PSNR, and how many pictures the judge still accepts
tokenizer     picture -> codes -> picture, no language model: the same, and how many codes are in use
language      picture -> words: right answers by kind of question, and captions said exactly
Acceptance is stated against the true pictures that the judge accepts, as in geneval.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from opentar.core.progress import Count
from opentar.eval.benchmark import Ask
from opentar.eval.measures import psnr, usage
from opentar.eval.runner import ask_all
from opentar.nano.judge.judge import Judge, request_from_spec
from opentar.nano.stages.pictures import box_masks
from opentar.nano.world.captions import all_captions
from opentar.nano.world.fixed import combo_scenes
from opentar.nano.world.questions import questions
from opentar.nano.world.render import load_book, render
from opentar.nano.world.spec import PICTURE, SceneSpec

if TYPE_CHECKING:
    from opentar.pipeline import Tar

LINK_SCENES = 120
"""Scenes of the held-out combinations that the links are scored on: twenty a kind."""
_QUESTION_SEED = 7


def picture_link(
    judge: Judge, specs: Sequence[SceneSpec], truth: Sequence[NDArray[np.uint8]], made: Sequence[NDArray[np.uint8]]
) -> dict[str, float]:
    """Scores of pictures that were `made` from the `truth`: accepted (as a ratio), both shares, and PSNR."""
    requests = [request_from_spec(spec) for spec in specs]
    kept = sum(verdict.accepted for verdict in judge.judge(made, requests))
    ceiling = sum(verdict.accepted for verdict in judge.judge(truth, requests))
    pairs = list(zip(truth, made, strict=True))
    boxes = box_masks(specs).bool().numpy()
    return {
        "accepted": kept / ceiling if ceiling else 0.0,
        "accepted_share": kept / len(specs),
        "truth_share": ceiling / len(specs),
        "psnr": float(np.mean([psnr(a, b) for a, b in pairs])),
        "psnr_boxes": float(np.mean([psnr(a, b, mask) for (a, b), mask in zip(pairs, boxes, strict=True)])),
    }


@torch.no_grad()
def through_autoencoder(tar: Tar, pictures: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]] | None:
    """Pictures through the diffusion de-tokenizer's autoencoder and back; None where the model has none of ours."""
    from opentar.image_to_tokens.preprocess import to_pixels

    if "diffusion" not in tar.parts.config.detokenizers:
        return None
    autoencoder = getattr(tar.parts.detokenizer("diffusion"), "autoencoder", None)
    if autoencoder is None or autoencoder.encoder is None:  # a bundle keeps only what paints
        return None
    made = []
    for picture in pictures:
        pixels = to_pixels(Image.fromarray(picture), autoencoder.config.image_size)
        unit = autoencoder.decode_unit(autoencoder.encode(pixels[None].to(tar.parts.device)))
        finished = unit[0].mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
        made.append(to_judge(Image.fromarray(finished)))
    return made


def to_judge(picture: Image.Image) -> NDArray[np.uint8]:
    """A drawn picture as the judge takes it: uint8 RGB (128, 128, 3), resized where the model draws another size."""
    return np.asarray(picture.convert("RGB").resize((PICTURE, PICTURE), Image.Resampling.BICUBIC))


def normal_answer(text: str) -> str:
    """An answer without case, outer spaces and its final stop, as answers are compared."""
    return text.strip().rstrip(".。!！").strip().casefold()


def language_link(
    tar: Tar,
    specs: Sequence[SceneSpec],
    pictures: Sequence[Image.Image],
    *,
    lang: str = "en",
    progress: Count | None = None,
) -> dict[str, float]:
    """Share of right answers for each kind of question, their mean as `questions`, and exact captions as `caption`.

    A caption is exact when it is one of the captions of its scene, in the order of words the templates have.
    """
    asked = [
        (number, one)
        for number, spec in enumerate(specs)
        for one in questions(spec, lang, np.random.default_rng([_QUESTION_SEED, number]))
    ]
    given = [Ask(pictures=(pictures[number],), question=one.question) for number, one in asked]
    answers = ask_all(tar, given, progress=progress)
    right: dict[str, list[bool]] = defaultdict(list)
    for (_, one), answer in zip(asked, answers, strict=True):
        right[one.kind].append(normal_answer(answer) == normal_answer(one.answer))
    scores = {kind: sum(marks) / len(marks) for kind, marks in sorted(right.items())}
    scores["questions"] = sum(scores.values()) / len(scores)
    describe = tar.parts.config.defaults.read.describe
    said = ask_all(tar, [Ask(pictures=(picture,), question=describe) for picture in pictures])
    exact = [
        normal_answer(text) in {normal_answer(one) for one in all_captions(spec)}
        for text, spec in zip(said, specs, strict=True)
    ]
    return {**scores, "caption": sum(exact) / len(exact)}


def link_scores(
    tar: Tar,
    judge: Judge,
    *,
    number: int = LINK_SCENES,
    seed: int = 0,
    detok: str | None = None,
    scale: int | None = None,
    progress: Count | None = None,
) -> dict[str, Any]:
    """`autoencoder`, `tokenizer` and `language`, each a mapping of its scores, on the first held-out scenes.

    A model without an autoencoder of ours has no `autoencoder` entry; the tokenizer's pictures come from `detok`.
    """
    specs = [item.spec for item in combo_scenes(number)]
    book = load_book("train")
    truth = [render(spec, book) for spec in specs]
    pictures = [Image.fromarray(picture) for picture in truth]
    found: dict[str, Any] = {}
    decoded = through_autoencoder(tar, truth)
    if decoded is not None:
        found["autoencoder"] = picture_link(judge, specs, truth, decoded)
    made = []
    for done, picture in enumerate(pictures, start=1):
        painted = tar.reconstruct(picture, scale=scale, detok=detok, seed=seed + done - 1)
        made.append(to_judge(painted))
        if progress is not None:
            progress(done, len(pictures))
    grid = tar.parts.config.defaults.read.scale if scale is None else scale
    codes = torch.tensor([tar.encode(picture, grid, words=0).codes for picture in pictures])
    in_use = usage([torch.bincount(codes.flatten(), minlength=tar.parts.vocab.codebook_size)])
    # One scale only, so its number says nothing.
    found["tokenizer"] = picture_link(judge, specs, truth, made) | {
        "used": in_use["used_0"],
        "perplexity": in_use["perplexity_0"],
    }
    found["language"] = language_link(tar, specs, pictures, progress=progress)
    return found
