"""The probe: deterministic crops, a closed-form fit, and a cache that notices what it depends on."""

from dataclasses import replace

import numpy as np
import pytest

from opentar.core.errors import DataError
from opentar.nano.judge.features import FEATURE_WIDTH, FrozenFeatures, crop_square
from opentar.nano.judge.probe import ProbeSettings, fit_ridge, load_probe, probe_crops, probe_key, probe_path
from opentar.nano.world.render import SpriteBook, load_book


def test_ridge_equals_the_textbook_formula() -> None:
    rng = np.random.default_rng(0)
    features, concepts = rng.normal(size=(40, 6)).astype(np.float32), np.arange(40) % 4
    probe = fit_ridge(features, concepts, 4, ProbeSettings(ridge=3.0))
    standard = (features - features.mean(0)) / (features.std(0) + 1e-3)
    targets = np.eye(4)[concepts]
    weight = np.linalg.inv(standard.T @ standard + 3 * np.eye(6)) @ standard.T @ (targets - targets.mean(0))
    np.testing.assert_allclose(probe.weight, weight, atol=1e-5)
    np.testing.assert_allclose(probe.scores(features), standard @ weight + targets.mean(0), atol=1e-5)


def test_no_crops_are_refused() -> None:
    with pytest.raises(DataError, match="0 crops"):
        fit_ridge(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 3, ProbeSettings())


def test_crops_are_deterministic_and_even(few: SpriteBook, small: ProbeSettings) -> None:
    crops, concepts = probe_crops(few, small)
    again, _ = probe_crops(few, small)
    assert crops.shape == (96, 64, 64, 3)
    np.testing.assert_array_equal(crops, again)
    counts = np.bincount(concepts)
    assert counts[counts > 0].max() - counts[counts > 0].min() <= 2


def test_fresh_renders_are_named(few: SpriteBook, small: ProbeSettings, network: FrozenFeatures) -> None:
    probe = load_probe(small, sprites=few, features=network)
    crops, concepts = probe_crops(few, replace(small, seed=1, recoloured=0.0, crops=48))
    names = probe.top(network(crops), 3)
    assert (names == concepts[:, None]).any(1).mean() > 0.8


def test_cache_is_used_and_a_damaged_file_is_built_again(
    few: SpriteBook, small: ProbeSettings, network: FrozenFeatures
) -> None:
    first = load_probe(small, sprites=few, features=network)
    path = probe_path(probe_key(few, small))
    built = path.stat().st_mtime_ns
    np.testing.assert_array_equal(load_probe(small, sprites=few).weight, first.weight)
    assert path.stat().st_mtime_ns == built
    path.write_bytes(path.read_bytes()[:100])
    steps: list[tuple[int, int]] = []
    rebuilt = load_probe(small, sprites=few, features=network, progress=lambda done, total: steps.append((done, total)))
    np.testing.assert_array_equal(rebuilt.weight, first.weight)
    assert steps[-1] == (96, 96)


def test_key_depends_on_settings_and_drawings(few: SpriteBook, small: ProbeSettings) -> None:
    key = probe_key(few, small)
    assert key == probe_key(few, replace(small))
    assert key != probe_key(few, replace(small, ridge=1.0))
    assert key != probe_key(load_book("train"), small)


def test_features_do_not_depend_on_the_batch(network: FrozenFeatures) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3)).astype(np.uint8)
    together = network(crops, batch=5)
    assert together.shape == (5, FEATURE_WIDTH)
    np.testing.assert_allclose(network(crops, batch=1), together, atol=2e-4)


def test_crop_outside_the_picture_is_filled() -> None:
    picture = np.full((32, 32, 3), 200, np.uint8)
    crop = crop_square(picture, (0, 0, 10, 10), side=20, margin=0.5, fill=(10, 20, 30))
    assert crop.shape == (20, 20, 3)
    assert crop[0, 0].tolist() == [10, 20, 30]
    assert crop[12, 12].tolist() == [200, 200, 200]
