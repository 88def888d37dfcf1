"""Nano's text tokenizer: a byte-level BPE made from the very texts that its language model learns from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from opentar.language.tokenizer import TextTokenizer, train_bpe
from opentar.nano.stages.pictures import ScenePictures
from opentar.nano.world.captions import caption
from opentar.nano.world.questions import questions
from opentar.nano.world.texts import load_texts, raw_strings

CAPTIONS_FOR_BPE = 12_000
"""Scenes whose captions and questions the tokenizer is made from, beside all texts."""


def bpe_texts(more: Sequence[str] = ()) -> Iterator[str]:
    """Everything the tokenizer should know the pieces of; `more` are texts of a recipe's own."""
    yield from more
    yield from raw_strings(load_texts())
    source, rng = ScenePictures(), np.random.default_rng(1)
    for spec in source.specs(rng, CAPTIONS_FOR_BPE):
        for lang in ("en", "zh"):
            yield caption(spec, lang, rng)
            for qa in questions(spec, lang, rng, describing=True):
                yield f"{qa.question} {qa.answer}"


def build_tokenizer(folder: Path, size: int, more: Sequence[str] = ()) -> TextTokenizer:
    """The tokenizer in `folder`, trained there first where it is missing; the same texts give the same pieces.

    `more` are texts of a recipe's own, beside those that all recipes have.
    """
    if not (folder / "tokenizer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Its existence means that it is whole, so it appears in one move.
        unfinished = folder.with_name(folder.name + ".partial")
        unfinished.mkdir(parents=True, exist_ok=True)
        train_bpe(bpe_texts(more), size=size).save(unfinished)
        os.replace(unfinished / "tokenizer.json", folder / "tokenizer.json")
    return TextTokenizer.load(folder)
