"""Pictures become codes, on the way into a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from opentar.checkpoints.parts import ModelParts
from opentar.core.pictures import open_picture
from opentar.vocab import Scale

if TYPE_CHECKING:
    from opentar.asking import Picture


def encode_picture(parts: ModelParts, image: Picture, grids: tuple[Scale, ...], fit: str | None) -> tuple[Tensor, ...]:
    """Codes (1, N) of a picture at each of the grids, for one pass of the encoder.

    Raises ImageError for what cannot be read, ConfigError for an unknown `fit` (None is the model's own).
    """
    from opentar.image_to_tokens.preprocess import check_fit, to_pixels

    # Before the picture is opened and the encoder loaded, which take longer.
    fit = check_fit(parts.config.fit if fit is None else fit)
    picture = open_picture(image)
    pixels_3HW = to_pixels(picture, parts.ta_tok.config.vision.image_size, fit=fit)
    return parts.ta_tok.encode_scales(pixels_3HW[None].to(parts.device), grids)


def encode_all(parts: ModelParts, wanted: Sequence[tuple[Picture, Scale]], fit: str | None) -> list[list[int]]:
    """Codes of each picture at its scale; one that occurs several times goes through the encoder once."""
    grids: dict[int, dict[int, Scale]] = {}
    for picture, grid in wanted:
        grids.setdefault(id(picture), {})[grid.index] = grid
    encoded: dict[tuple[int, int], list[int]] = {}
    for picture, grid in wanted:
        # One picture at a time: in a batch, rounding could give it another code than alone.
        if (id(picture), grid.index) not in encoded:
            own = tuple(grids[id(picture)].values())
            for one, codes_1N in zip(own, encode_picture(parts, picture, own, fit), strict=True):
                encoded[id(picture), one.index] = codes_1N[0].tolist()
    return [encoded[id(picture), grid.index] for picture, grid in wanted]
