"""The shipped drawings: complete, in their splits, decoded right; and the matching that the builder does."""

import io

import numpy as np
import pytest
from PIL import Image

from opentar.core.errors import DataError
from opentar.nano.world import build_sprites
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.sprites import load_sprites

FLUENT = {"fluent-flat", "fluent-color", "fluent-3d"}


def test_each_split_has_its_own_styles_and_all_sources():
    by_split = {split: load_sprites(split).styles for split in ("train", "val", "test")}
    assert by_split["train"] == tuple(source.style for source in build_sprites.SOURCES if source.split == "train")
    assert by_split["val"] == ("fxemoji", "streamline")
    assert by_split["test"] == ("openmoji",)


def test_every_concept_is_drawn_by_at_least_five_families():
    sets = [load_sprites(split) for split in ("train", "val", "test")]
    for concept in load_concepts():
        styles = {style for sprites in sets for style in sprites.styles_of(concept.hex)}
        assert len(styles - FLUENT) + bool(styles & FLUENT) >= 5 - (concept.en == "window"), concept.en
    assert len(load_sprites("train")) > 2_090


def test_sprites_are_read_only_rgba_with_an_exact_box():
    sprites = load_sprites("train")
    for code, style in sprites.keys()[::97]:
        pixels = sprites.get(code, style)
        assert pixels.shape == (128, 128, 4) and pixels.dtype == np.uint8
        ys, xs = np.nonzero(pixels[..., 3])
        assert sprites.box(code, style) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        trimmed = sprites.trimmed(code, style)
        assert trimmed.shape[0] == ys.max() + 1 - ys.min()
        assert (pixels[..., 3] > 0).mean() > 0.03, (code, style)
    with pytest.raises(ValueError, match="read-only"):
        sprites.get("1F34E", "noto")[0, 0] = 0
    assert sprites.get("1F34E", "noto") is sprites.get("1F34E", "noto")


def test_an_apple_is_red_and_the_same_at_another_size():
    large, small = load_sprites("train"), load_sprites("train", 64)
    apple, little = large.get("1F34E", "twemoji"), small.get("1F34E", "twemoji")
    assert little.shape == (64, 64, 4)
    red, green, blue = apple[apple[..., 3] == 255][:, :3].mean(axis=0)
    assert red > 2 * green and red > 2 * blue
    assert np.abs(apple[::2, ::2, 3].astype(int) - little[..., 3]).mean() < 8
    x0, y0, x1, y1 = small.box("1F34E", "twemoji")
    outside = little.copy()
    outside[y0:y1, x0:x1] = 0
    assert outside[..., 3].max() < 16


def test_errors_name_what_is_allowed():
    with pytest.raises(DataError, match="allowed: train, val, test"):
        load_sprites("dev")
    with pytest.raises(DataError, match="allowed: 8 to 128"):
        load_sprites("train", 512)
    with pytest.raises(DataError, match="it has: noto, noto-v1"):
        load_sprites("train").get("1F34E", "openmoji")


def test_a_missing_tarball_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"npm pack @iconify-json/noto@1\.2\.9"):
        build_sprites.tarball(tmp_path, "@iconify-json/noto", "1.2.9")


def test_icons_are_matched_by_code_point_then_by_name_and_by_hand():
    icons = {"icons": {"monkey": {}, "gorilla-1": {}, "hound": {}, "dogside": {}}, "aliases": {"ape": {}}}
    names = {concept.hex: [concept.en] for concept in load_concepts()}
    plain = build_sprites.match_icons("any", icons, {"1f429": "hound"}, names)
    assert plain == {"1F412": "monkey", "1F98D": "gorilla-1", "1F429": "hound"}
    assert build_sprites.match_icons("fxemoji", icons, {}, names)["1F415"] == "dogside"
    flag = {"icons": {"turkey": {}}}
    assert "1F983" in build_sprites.match_icons("any", flag, {}, names)
    assert "1F983" not in build_sprites.match_icons("streamline", flag, {}, names)


def test_an_alias_is_drawn_like_its_parent_and_wide_icons_are_centred():
    pytest.importorskip("resvg_py")
    body = '<path fill="#f00" d="M0 0h20v10H0z"/>'
    bar = {"body": body, "width": 20}
    icons = {"width": 10, "height": 10, "icons": {"bar": bar}, "aliases": {"b": {"parent": "bar"}}}
    assert build_sprites.svg_of(icons, "b") == build_sprites.svg_of(icons, "bar")
    row = build_sprites.row_of("1", "x", build_sprites.rasterise(build_sprites.svg_of(icons, "b")))
    assert (row["x0"], row["y0"], row["x1"], row["y1"]) == (0, 32, 128, 96)
    pixels = np.array(Image.open(io.BytesIO(row["webp"])))
    assert pixels[64, 64].tolist() == [255, 0, 0, 255]


def test_shrinking_keeps_colours_at_soft_edges():
    picture = np.zeros((256, 256, 4), np.uint8)
    picture[:, :129] = (200, 100, 50, 255)
    small = np.array(build_sprites.shrink(Image.fromarray(picture)))
    edge = small[64, 64]
    assert 0 < edge[3] < 255 and np.abs(edge[:3].astype(int) - (200, 100, 50)).max() <= 2


def test_an_empty_drawing_is_refused():
    with pytest.raises(DataError, match="draws nothing"):
        build_sprites.row_of("1", "x", Image.new("RGBA", (128, 128)))
