"""A linear probe that names the object of a crop: ridge regression on frozen features, solved in closed form.

It is trained on fresh renders of the training styles, half of them recoloured, alone on each named background, and
kept in the cache under a hash of everything it depends on. It never sees a picture of our models.
Legend: N crops, D = 1,280 features, C concepts.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from opentar.core.environment import cache_dir
from opentar.core.errors import DataError
from opentar.core.progress import Count
from opentar.nano.judge.features import FrozenFeatures, crop_square, weights_hash
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.palette import BACKGROUND_RGB, BACKGROUNDS, COLOURS
from opentar.nano.world.render import SpriteBook, book_of, load_book, render
from opentar.nano.world.spec import PICTURE, ObjectSpec, SceneSpec
from opentar.nano.world.sprites import SpriteSet

_FORMAT = 3
_TRIES = 30


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """How the probe is trained; every field is part of the cache's key."""

    crops: int = 9000
    """Fresh renders, spread evenly over concepts and styles."""
    side: int = 112
    """Crops are resized to this many pixels: 128 gained nothing for a third more time."""
    margin: float = 0.06
    """Ground around the box, as a share of its longer side."""
    jitter: float = 0.02
    """Standard deviation of each edge of a box, as a share of its longer side."""
    recoloured: float = 0.6
    """Share of crops in a palette colour."""
    blurred: float = 0.3
    """Share of crops shrunk and enlarged again, because drawn pictures are softer than rendered ones."""
    sizes: tuple[int, int] = (30, 108)
    """Shortest and longest longer side of an object in pixels."""
    ridge: float = 200.0
    """Penalty on the standardised features."""
    seed: int = 20251
    """Of the crops."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Standardisation and weights of the linear map from features to concepts."""

    mean: NDArray[np.float32]
    """(D,)"""
    scale: NDArray[np.float32]
    """(D,)"""
    weight: NDArray[np.float32]
    """(D, C)"""
    bias: NDArray[np.float32]
    """(C,)"""
    settings: ProbeSettings

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score of each concept (N, C) from features (N, D); only their order means something."""
        found = ((features - self.mean) / self.scale) @ self.weight + self.bias
        return found.astype(np.float32)

    def top(self, features: NDArray[np.float32], k: int = 3) -> NDArray[np.int64]:
        """Concept indices of the k best names (N, k), best first."""
        return np.argsort(-self.scores(features), axis=1)[:, :k]


def fit_ridge(features: NDArray[np.float32], concepts: NDArray[np.int64], count: int, settings: ProbeSettings) -> Probe:
    """Solve the ridge regression from features (N, D) to one-hot concepts (N,) of `count` classes.

    Every class that appears weighs the same, however many crops it has. Raises DataError for empty input.
    """
    if not len(features):
        raise DataError("0 crops were given; the probe needs at least one crop a concept")
    mean = features.mean(axis=0)
    scale = features.std(axis=0) + 1e-3
    standard = ((features - mean) / scale).astype(np.float64)
    seen = np.bincount(concepts, minlength=count)
    share = len(features) / (np.count_nonzero(seen) * np.maximum(seen, 1))
    weights = share[concepts][:, None]
    targets = np.eye(count)[concepts]
    bias = (weights * targets).sum(axis=0) / weights.sum()
    gram = standard.T @ (weights * standard)
    gram[np.diag_indices_from(gram)] += settings.ridge
    weight = np.linalg.solve(gram, standard.T @ (weights * (targets - bias)))
    return Probe(
        mean=mean.astype(np.float32),
        scale=scale.astype(np.float32),
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        settings=settings,
    )


def _soften(crop: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    side = crop.shape[0]
    small = Image.fromarray(crop).resize((max(8, round(side * factor)),) * 2, Image.Resampling.BOX)
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


def _scene_of(
    concept: int, style: str, book: SpriteBook, rng: np.random.Generator, settings: ProbeSettings
) -> SceneSpec:
    """One object alone, anywhere, on a ground it can be seen on."""
    paintable = load_concepts()[concept].own_colour is None
    for _ in range(_TRIES):
        colour = COLOURS[rng.integers(len(COLOURS))] if paintable and rng.random() < settings.recoloured else None
        visible = book.facts(concept, style).visible if colour is None else book.table(concept, style, colour)[1]
        if visible.any():
            break
    else:
        colour, visible = None, np.ones(len(BACKGROUNDS), bool)
    background = BACKGROUNDS[rng.choice(np.flatnonzero(visible))]
    width, height = book.size(concept, style, int(rng.integers(settings.sizes[0], settings.sizes[1] + 1)))
    x, y = (int(rng.integers(0, PICTURE - length + 1)) for length in (width, height))
    item = ObjectSpec(concept=concept, style=style, colour=colour, box=(x, y, x + width, y + height))
    return SceneSpec(kind="single", background=background, objects=(item,))


def probe_crops(
    sprites: SpriteSet | SpriteBook, settings: ProbeSettings, progress: Count | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Render the training crops: uint8 (N, side, side, 3) and their concepts (N,), deterministic."""
    book = book_of(sprites)
    rng = np.random.default_rng(settings.seed)
    drawings = [
        (concept.index, style)
        for concept in load_concepts()
        for style in book.sprites.styles
        if book.has(concept.index, style)
    ]
    order = np.concatenate([rng.permutation(len(drawings)) for _ in range(-(-settings.crops // len(drawings)))])
    crops = np.empty((settings.crops, settings.side, settings.side, 3), np.uint8)
    concepts = np.empty(settings.crops, np.int64)
    for row, number in enumerate(order[: settings.crops]):
        concepts[row], style = drawings[number]
        spec = _scene_of(int(concepts[row]), style, book, rng, settings)
        x0, y0, x1, y1 = spec.objects[0].box
        shift = rng.normal(0.0, settings.jitter, 4) * max(x1 - x0, y1 - y0)
        crop = crop_square(
            render(spec, book),
            (x0 + shift[0], y0 + shift[1], x1 + shift[2], y1 + shift[3]),
            side=settings.side,
            margin=settings.margin,
            fill=BACKGROUND_RGB[spec.background],
        )
        crops[row] = _soften(crop, rng.uniform(0.3, 0.7)) if rng.random() < settings.blurred else crop
        if progress is not None and row % 500 == 499:
            progress(row + 1, settings.crops)
    return crops, concepts


def probe_key(sprites: SpriteSet | SpriteBook, settings: ProbeSettings) -> str:
    """Hash of all that the probe depends on: settings, network weights, concepts and the drawings themselves."""
    book = book_of(sprites)
    digest = hashlib.sha256(json.dumps([_FORMAT, asdict(settings), np.__version__]).encode())
    digest.update(weights_hash().encode())
    digest.update(" ".join(concept.hex for concept in load_concepts()).encode())
    # One small crop a drawing in a hundred notices a rebuilt sprite file without decoding all of them.
    keys = book.sprites.keys()
    digest.update(repr(keys).encode())
    for code_point, style in keys[::100]:
        digest.update(book.sprites.get(code_point, style).tobytes())
    return digest.hexdigest()[:16]


def probe_path(key: str) -> Path:
    """Where the probe of this key is cached."""
    return cache_dir() / "judge" / f"probe-{key}.safetensors"


def load_probe(
    settings: ProbeSettings | None = None,
    *,
    sprites: SpriteSet | SpriteBook | None = None,
    features: FrozenFeatures | None = None,
    progress: Count | None = None,
) -> Probe:
    """The cached probe, or a newly trained one (about two minutes on one core), which is then cached.

    `progress` is called with (done, total) crops while it is built. A damaged cache file is built again.
    """
    settings = settings or ProbeSettings()
    book = load_book("train") if sprites is None else book_of(sprites)
    path = probe_path(probe_key(book, settings))
    if path.is_file():
        try:
            return Probe(**load_file(path), settings=settings)
        except (SafetensorError, TypeError):
            path.unlink()
    crops, concepts = probe_crops(book, settings)
    found = (features or FrozenFeatures())(crops, progress=progress)
    probe = fit_ridge(found, concepts, len(load_concepts()), settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    save_file(
        {name: np.ascontiguousarray(getattr(probe, name)) for name in ("mean", "scale", "weight", "bias")}, unfinished
    )
    unfinished.replace(path)
    return probe
