"""Scenes and mosaics of the nano world as labelled pictures, coloured anew where a stage asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch

from opentar.data.pictures import PictureBatch, shrink
from opentar.nano.world.render import SpriteBook, load_book, render
from opentar.nano.world.scenes import SceneGenerator
from opentar.nano.world.spec import PICTURE, SceneSpec, labels


class ScenePictures:
    """Draws labelled scenes of one split.

    `mosaic_share`: how many pictures are mosaics of many different objects (the densest supervision there is);
    `tidy`: how many of the others stand in fixed places.
    """

    def __init__(
        self,
        *,
        split: str = "train",
        sprites: str | None = None,
        styles: Sequence[str] | None = None,
        kinds: Sequence[str] | None = None,
        shares: Mapping[str, float] | None = None,
        mosaic_share: float = 0.0,
        tidy: float = 0.0,
    ) -> None:
        self.split, self.sprite_split, self.styles, self.kinds = split, sprites or "train", styles, kinds
        self.shares, self.mosaic_share, self.tidy = shares, mosaic_share, tidy

    @cached_property
    def sprites(self) -> SpriteBook:
        """Loaded at the first use, in the process that draws."""
        return load_book(self.sprite_split)

    @cached_property
    def generator(self) -> SceneGenerator:
        """Samples scenes that respect the split."""
        return SceneGenerator(
            self.split,
            styles=self.styles,
            kinds=self.kinds,
            shares=self.shares,
            sprites=self.sprites,
            tidy=self.tidy,
        )

    def specs(self, rng: np.random.Generator, count: int) -> list[SceneSpec]:
        """`count` scene descriptions."""
        return [
            self.generator.mosaic(rng) if rng.random() < self.mosaic_share else self.generator.sample(rng)
            for _ in range(count)
        ]

    def pictures(self, specs: Sequence[SceneSpec]) -> torch.Tensor:
        """uint8 (B, 3, 128, 128), channels last in memory, as the world draws them."""
        return torch.from_numpy(np.stack([render(spec, self.sprites) for spec in specs])).permute(0, 3, 1, 2)

    def batch(self, rng: np.random.Generator, count: int) -> PictureBatch:
        """As a source of pictures that knows where its objects are."""
        specs = self.specs(rng, count)
        return PictureBatch(self.pictures(specs), box_masks(specs))

    def pixels(self, specs: Sequence[SceneSpec], size: int) -> torch.Tensor:
        """uint8 (B, 3, size, size), channels last in memory."""
        return shrink(self.pictures(specs), size)


def recolour_some(pixels_u8: torch.Tensor, share: float, rng: np.random.Generator) -> torch.Tensor:
    """Grey, mix the channels of, or tint a `share` of the pictures (B, 3, S, S) in place: shapes must be known without
    their usual colours. Returns bool (B,): the pictures whose colours no longer mean anything."""
    changed = torch.from_numpy(rng.random(len(pixels_u8)) < share)
    for index in changed.nonzero().flatten().tolist():
        picture = pixels_u8[index].float()
        match rng.integers(3):
            case 0:
                picture = picture.mean(0, keepdim=True).expand(3, -1, -1)
            case 1:
                picture = picture[torch.from_numpy(rng.permutation(3))]
            case _:
                tint = torch.from_numpy(rng.uniform(0.6, 1.4, (3, 1, 1))).float()
                picture = (picture * tint).clamp(0, 255)
        pixels_u8[index] = picture.to(torch.uint8)
    return changed


def label_batch(specs: Sequence[SceneSpec], side: int) -> dict[str, torch.Tensor]:
    """Dense labels of a batch on a side x side grid, cells flattened row by row (see `heads.DenseHeads`)."""
    dense = [labels(spec, side) for spec in specs]
    flat = {
        name: torch.from_numpy(np.stack([getattr(item, name).reshape(-1) for item in dense]).astype(np.int64))
        for name in ("concept", "colour", "object")
    }
    centre = np.stack([item.centre.reshape(-1) for item in dense]).astype(np.float32)
    background = torch.tensor([item.background for item in dense], dtype=torch.int64)
    return {**flat, "centre": torch.from_numpy(centre), "background": background}


def box_masks(specs: Sequence[SceneSpec], size: int = PICTURE) -> torch.Tensor:
    """Where the objects of scenes are: float32 (scenes, size, size), 1 inside the box of any object, 0 elsewhere.

    Boxes are in pixels of a scene's picture, `PICTURE` (128) a side; a smaller `size` cuts, it does not shrink.
    """
    masks = torch.zeros(len(specs), size, size)
    for mask, spec in zip(masks, specs, strict=True):
        for item in spec.objects:
            x0, y0, x1, y1 = item.box
            mask[y0:y1, x0:x1] = 1
    return masks
