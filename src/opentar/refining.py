"""Coarse to fine: a picture drawn with few codes becomes the draft of a finer version of it.

The picture is encoded on the finer grid. Where its prompt is known, the language model reads these codes one by one:
one that it finds likely enough after those before it stays, another is drawn anew. So the scene is that of the picture,
and what painting and encoding made unlikely goes. Without a prompt the codes stay as they are.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from opentar.checkpoints.settings import DETOK_PREFIX, MAX_SEED
from opentar.core.errors import ConfigError
from opentar.core.picture_formats import read_metadata
from opentar.drawing import Drawing, DrawOptions, Steps, draw_codes, paint
from opentar.engine.pixels import encode_picture
from opentar.engine.request import Codes
from opentar.vocab import POOLS

if TYPE_CHECKING:
    from opentar.asking import Picture
    from opentar.checkpoints.parts import ModelParts
    from opentar.checkpoints.settings import DrawSettings, ModelConfig
    from opentar.engine.engine import Engine
    from opentar.engine.request import Request
    from opentar.vocab import Scale

COARSEST = len(POOLS) - 1
"""Index of the grid with the fewest codes."""


class Origin(NamedTuple):
    """What a picture says of its making; None where it says nothing, or nonsense."""

    prompt: str | None = None
    seed: int | None = None
    scale: int | None = None
    detok: str | None = None


def origin_of(image: Picture) -> Origin:
    """The origin of a picture file by its path, or of a PIL picture by its `info`; bytes and arrays say nothing.

    Raises ImageError where the path holds no picture.
    """
    told: Mapping[Any, object] = {}
    if isinstance(image, Image.Image):
        told = image.info
    elif isinstance(image, (str, os.PathLike)):
        told = read_metadata(image)
    texts = {str(key): value for key, value in told.items() if isinstance(value, str)}
    return Origin(
        prompt=texts.get("prompt", "").strip() or None,
        seed=_number(texts.get("seed"), MAX_SEED),
        scale=_number(texts.get("scale"), COARSEST),
        detok=texts.get("detok"),
    )


def _number(text: str | None, most: int) -> int | None:
    plain = text is not None and text.isascii() and text.isdigit() and len(text) < 20
    return int(text) if plain and text is not None and int(text) <= most else None


def finer(config: ModelConfig, origin: Origin, options: DrawOptions) -> DrawOptions:
    """The options of a refinement: one scale finer than the picture (the finest where it does not say), its own
    de-tokenizer where the model has it; what the call chooses wins.
    """
    chosen: DrawOptions = {**options}
    if chosen.get("scale") is None:
        chosen["scale"] = max(0, (origin.scale or 0) - 1)
    if chosen.get("detok") is None and origin.detok is not None and DETOK_PREFIX + origin.detok in config.parts:
        chosen["detok"] = origin.detok
    return chosen


def with_draft(parts: ModelParts, one: Drawing, picture: Picture, fit: str | None = None) -> Drawing:
    """The drawing with the codes of a picture as its draft. Raises ImageError, ConfigError."""
    grammar = one.request.grammar
    assert isinstance(grammar, Codes), grammar
    codes_1N = encode_picture(parts, picture, (grammar.scale,), fit)[0]
    drafted = dataclasses.replace(grammar, draft=tuple(codes_1N[0].tolist()))
    return dataclasses.replace(one, request=dataclasses.replace(one.request, grammar=drafted))


def _on_grid(request: Request, scale: Scale) -> Request:
    """The same drawing on another grid."""
    assert isinstance(request.grammar, Codes), request
    return dataclasses.replace(request, grammar=dataclasses.replace(request.grammar, scale=scale))


class CoarseFirst:
    """Draws a batch on the coarsest grid, shows it, and makes it the draft of the batch.

    Raises ConfigError where the pictures are to be drawn on the coarsest grid anyway.
    """

    def __init__(self, parts: ModelParts, engine: Engine, settings: DrawSettings, steps: Steps) -> None:
        if settings.scale == COARSEST:
            raise ConfigError(f"scale {COARSEST} is the coarsest grid: nothing comes before it; choose a finer scale")
        self._parts, self._engine, self._steps = parts, engine, steps
        self._settings = dataclasses.replace(settings, scale=COARSEST)
        self._grid: Scale = parts.vocab.scale(COARSEST)

    def __call__(self, batch: Sequence[Drawing]) -> list[Drawing]:
        """The batch with drafts."""
        requests = [_on_grid(one.request, self._grid) for one in batch]
        codes_BN = draw_codes(self._engine, requests, self._steps)
        seeds = [one.request.seed for one in batch]
        quiet = Steps(lambda work, step, total: self._steps.step(work, step, total))
        pictures = paint(self._parts, codes_BN, seeds, self._settings, quiet)
        self._steps.next_batch()
        if self._steps.previews is not None:
            self._steps.previews(pictures)
        return [with_draft(self._parts, one, picture) for one, picture in zip(batch, pictures, strict=True)]
