"""Parts: what stands out from a plain ground, with fragments at their object."""

import numpy as np
import pytest

from opentar.core.errors import ImageError
from opentar.nano.judge.parts import crop_part, find_parts
from opentar.nano.world.palette import BACKGROUND_RGB
from opentar.nano.world.render import load_book, render
from opentar.nano.world.scenes import SceneGenerator


def _ground(colour: tuple[int, int, int] = (186, 220, 250)) -> np.ndarray:
    return np.full((128, 128, 3), colour, np.uint8)


def test_plain_ground_has_no_parts() -> None:
    seen = find_parts(_ground())
    assert seen.parts == ()
    assert seen.background_rgb == (186, 220, 250)


def test_boxes_and_mean_colours_are_exact() -> None:
    picture = _ground()
    picture[20:60, 10:40] = (222, 38, 38)
    picture[70:100, 80:120] = (46, 160, 56)
    large, small = find_parts(picture).parts
    assert (large.box, large.pixels, large.mean_rgb) == ((10, 20, 40, 60), 1200, (222, 38, 38))
    assert (small.box, small.mean_rgb) == ((80, 70, 120, 100), (46, 160, 56))


def test_specks_vanish_fragments_join_and_small_objects_stay() -> None:
    picture = _ground()
    picture[20:70, 20:70] = (222, 38, 38)
    picture[5:7, 120:122] = 0  # a speck
    picture[73:79, 30:40] = (222, 38, 38)  # a fragment below the object
    picture[100:122, 90:116] = (36, 92, 222)  # an object of its own, under a quarter of the first
    assert [part.box for part in find_parts(picture).parts] == [(20, 20, 70, 79), (90, 100, 116, 122)]


def test_ground_that_drifts_from_row_to_row() -> None:
    picture = _ground()
    picture[:] = (np.linspace(190, 215, 128)[:, None, None] * np.ones(3)).astype(np.uint8)
    picture[40:80, 0:50] = (38, 38, 40)  # covers the border of its rows
    assert [part.box for part in find_parts(picture).parts] == [(0, 40, 50, 80)]


def test_true_pictures_have_as_many_parts_as_objects() -> None:
    generator, book = SceneGenerator("test"), load_book("train")
    specs = [generator.sample(np.random.default_rng([3, n]), kind) for n in range(12) for kind in ("two", "count")]
    right = [len(find_parts(render(spec, book)).parts) == len(spec.objects) for spec in specs]
    assert sum(right) >= 0.9 * len(specs)


def test_crop_shows_the_part_alone() -> None:
    picture = _ground()
    picture[30:70, 30:70] = (222, 38, 38)
    picture[30:70, 75:115] = (46, 160, 56)
    seen = find_parts(picture)
    crop = crop_part(picture, seen.parts[0], seen.background_rgb, 64, 0.3)
    assert crop.shape == (64, 64, 3)
    # A margin this wide reaches into the neighbour, of which nothing may be left.
    other = seen.parts[1].mean_rgb
    assert np.abs(crop.astype(int) - np.array(other)).sum(axis=-1).min() > 60


@pytest.mark.parametrize(
    "bad", [np.zeros((128, 128), np.uint8), np.zeros((128, 128, 3), np.float32), np.zeros((8, 128, 3), np.uint8)]
)
def test_other_arrays_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ImageError, match="uint8 RGB of at least 16 x 16"):
        find_parts(bad)


def test_every_named_ground_is_recognised() -> None:
    for rgb in BACKGROUND_RGB.values():
        assert find_parts(_ground(rgb)).background_rgb == rgb
