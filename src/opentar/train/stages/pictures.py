"""Labelled pictures as training batches: scenes and mosaics of the nano world, resized and coloured anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from opentar.data.render import SpriteBook, load_book, render
from opentar.data.scenes import SceneGenerator
from opentar.data.spec import SceneSpec, labels


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

    def pixels(self, specs: Sequence[SceneSpec], size: int) -> torch.Tensor:
        """uint8 (B, 3, size, size), channels last in memory."""
        return shrink(self.pictures(specs), size)


def shrink(pictures_u8: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 (B, 3, H, W) -> (B, 3, size, size), a picture at a time as `resize` does."""
    if pictures_u8.shape[-1] == size:
        return pictures_u8
    stack = np.stack([resize(item, size) for item in pictures_u8.permute(0, 2, 3, 1).numpy()])
    return torch.from_numpy(stack).permute(0, 3, 1, 2)


def resize(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, W, 3) squashed to (size, size, 3), antialiased bilinear, as `to_pixels` does when the model
    reads (that one keeps fractions; the difference is below half a level)."""
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))


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


def to_unit(pixels_u8: torch.Tensor) -> torch.Tensor:
    """uint8 (B, 3, S, S) -> float32 in [-1, 1], the range that encoders read."""
    return pixels_u8.float().div_(127.5).sub_(1.0)


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


def to_pictures(pixels_B3HW: torch.Tensor) -> list[Image.Image]:
    """Pixels in [-1, 1] -> PIL pictures, for sheets."""
    array = ((pixels_B3HW.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(item)) for item in array]
