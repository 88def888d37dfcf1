"""What a language model is given while its 4-bit weights are chosen: our scenes drawn and read, and texts.

Any model that reads and draws codes can be given these: pictures go through its own tokenizer, turns through its own
builder. Scenes are of the training combinations, so no score is measured on what was calibrated with.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from opentar.core.errors import DataError, shown
from opentar.engine.pixels import encode_picture
from opentar.language.prompt import Drawn, Shown, Turn
from opentar.nano.tasks import any_task, conversation, exchange, told_questions
from opentar.nano.world.captions import caption
from opentar.nano.world.questions import describe, one_of_each_kind, questions
from opentar.nano.world.render import load_book, render
from opentar.nano.world.scenes import SceneGenerator
from opentar.nano.world.texts import load_texts, tasks_of

if TYPE_CHECKING:
    from opentar.checkpoints.parts import ModelParts
    from opentar.language.prompt import PromptBuilder

IDS = 12_288
"""Ids in all; a small model was calibrated well with 8,192 (docs/lab.md)."""
WINDOW = 512
"""Most ids of a piece of a text file."""
_QUESTIONS = 4
_CHINESE = 0.25


def sequences(parts: ModelParts, text: Path | None = None, *, ids: int = IDS, seed: int = 0) -> list[list[int]]:
    """Sequences of ids, about `ids` in all: drawings, readings and texts in turn.

    Args:
        parts: of the model; its tokenizer of pictures encodes the scenes.
        text: a file in UTF-8 whose text stands in for ours.
        ids: how many ids are enough.
        seed: of the scenes and what is asked about them.

    Raises:
        DataError: the file cannot be read as text, or holds nothing.
    """
    rng, builder = np.random.default_rng(seed), parts.builder
    texts = _ours(builder, rng) if text is None else _windows(builder, text)
    scenes = _scenes(parts, rng)
    found: list[list[int]] = []
    while (done := sum(map(len, found))) < ids:
        found += next(scenes)
        # A text file counts as much as pictures do.
        until = 2 * sum(map(len, found)) - done
        while sum(map(len, found)) < until:
            found.append(next(texts))
    return found


def _scenes(parts: ModelParts, rng: np.random.Generator) -> Iterator[list[list[int]]]:
    """A scene drawn and read, scene after scene."""
    own, vocab, builder = parts.config.defaults, parts.vocab, parts.builder
    grids = (vocab.scale(own.draw.scale), vocab.scale(own.read.scale))
    generator, book = SceneGenerator("train"), load_book("train")
    while True:
        lang = "zh" if rng.random() < _CHINESE else "en"
        spec = generator.sample(rng)
        drawn, read = (
            codes_1N[0].tolist() for codes_1N in encode_picture(parts, Image.fromarray(render(spec, book)), grids, None)
        )
        drawing = [Turn("user", (caption(spec, lang, rng, ordered=True),)), Turn("assistant", (Drawn(drawn),))]
        by_kind = one_of_each_kind(questions(spec, lang, rng), rng)
        asked = [by_kind[place] for place in rng.permutation(len(by_kind))[:_QUESTIONS]]
        reading = conversation(Shown(read), [describe(spec, lang, rng), *asked])
        yield [builder.labelled(turns)[0] for turns in (drawing, reading)]


def _ours(builder: PromptBuilder, rng: np.random.Generator) -> Iterator[list[int]]:
    """Names, glosses, translations, and captions that are asked about."""
    texts, generator = [one for one in load_texts() if tasks_of(one)], SceneGenerator("train")
    while True:
        told, asked = told_questions(generator.sample(rng), "zh" if rng.random() < _CHINESE else "en", rng)
        yield builder.labelled(conversation(told, asked))[0]
        for place in rng.integers(len(texts), size=3):
            yield builder.labelled(exchange(*any_task(texts[int(place)], rng)))[0]


def _windows(builder: PromptBuilder, path: Path) -> Iterator[list[int]]:
    """Pieces of a text, from the beginning again when it ends."""
    try:
        ids = builder.tokenizer.encode(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{shown(path)} cannot be read as text ({error}); give a text file in UTF-8") from error
    if not ids:
        raise DataError(f"{shown(path)} holds no text; give a file with some thousand words")
    width = min(WINDOW, builder.limit)
    pieces = [ids[start : start + width] for start in range(0, len(ids), width)]
    while True:
        yield from pieces
