"""A look at a picture whose codes are not all there yet: the rest is taken to go on like what is near."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from opentar.drawing import Steps, paint

if TYPE_CHECKING:
    from PIL import Image

    from opentar.checkpoints.parts import ModelParts
    from opentar.checkpoints.settings import DrawSettings


def can_sketch(parts: ModelParts, settings: DrawSettings) -> bool:
    """Whether a look costs little beside the painting: a flow's first step is a guess at the whole picture.

    An AR de-tokenizer has no such step, and one of SANA takes seconds. The de-tokenizer must be loaded.
    """
    from opentar.tokens_to_image.flow import FlowDetokenizer

    return isinstance(parts.detokenizer(settings.detok), FlowDetokenizer)


def sketch(parts: ModelParts, codes: Sequence[int | None], settings: DrawSettings, seed: int) -> Image.Image:
    """The picture as far as its codes tell; as `paint`, with one step and without guidance.

    Args:
        codes: of a whole grid row by row, None where none is drawn yet; at least one is drawn.
        seed: of the finished picture.
    """
    whole_1N = torch.tensor([filled(codes, parts.ta_tok.config.roles)])
    once = dataclasses.replace(settings, steps=1, detok_guidance=1.0)
    return paint(parts, whole_1N, [seed], once, Steps(None))[0]


def filled(codes: Sequence[int | None], roles: int) -> list[int]:
    """All codes of a grid: one that is missing is like the nearest one there is (in rows plus columns) of its role.

    Cells of one role are those whose row + column agree modulo `roles`; where none of them is drawn, any cell will do.
    """
    side = math.isqrt(len(codes))
    cells = [divmod(place, side) for place in range(len(codes))]
    drawn = [(row, column, code) for (row, column), code in zip(cells, codes, strict=True) if code is not None]

    def like(row: int, column: int) -> int:
        def far(other: tuple[int, int, int]) -> tuple[bool, int]:
            down, across = other[0] - row, other[1] - column
            return (down + across) % roles != 0, abs(down) + abs(across)

        return min(drawn, key=far)[2]

    return [like(*cell) if code is None else code for cell, code in zip(cells, codes, strict=True)]
