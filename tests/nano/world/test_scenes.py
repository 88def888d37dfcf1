"""Scenes: determinism, boxes, contrast, colours that come out true in pixels, labels, sheets."""

import json

import numpy as np
import pytest
from PIL import Image

from opentar.core.errors import DataError
from opentar.eval.sheet import contact_sheet, wrap
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.layout import GAP, TIDY_LARGE, TIDY_SMALL, apart
from opentar.nano.world.palette import BACKGROUND_RGB, BACKGROUNDS, COLOUR_INDEX, COLOUR_RGB, OWN_COLOUR, nearest_colour
from opentar.nano.world.scenes import NO_COUNTING, SHARES, SceneGenerator, SceneSpec, labels, render
from opentar.nano.world.spec import KINDS, PICTURE, relation


@pytest.fixture(scope="module")
def generator():
    return SceneGenerator("train")


def scenes(generator, number, seed=0):
    rng = np.random.default_rng(seed)
    return [generator.sample(rng) for _ in range(number)]


def test_same_seed_same_scene_and_same_picture(generator):
    first, second = scenes(generator, 40), scenes(SceneGenerator("train"), 40)
    assert first == second
    assert first != scenes(generator, 40, seed=1)
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(render(one, generator.book), render(other, generator.book))
    assert generator.mosaic(np.random.default_rng(3)) == generator.mosaic(np.random.default_rng(3))


def test_json_round_trip(generator):
    for spec in scenes(generator, 50):
        assert SceneSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [({"background": "beige"}, "unknown background 'beige'"), ({"objects": [{}]}, "not a scene")],
)
def test_damaged_scene_is_refused(generator, change, message):
    with pytest.raises(DataError, match=message):
        SceneSpec.from_dict({**scenes(generator, 1)[0].to_dict(), **change})


def test_boxes_stay_inside_and_apart(generator):
    rng = np.random.default_rng(4)
    for n in range(600):
        spec = generator.mosaic(rng) if n % 3 == 0 else generator.sample(rng)
        boxes = [o.box for o in spec.objects]
        assert all(0 <= x0 < x1 <= 128 and 0 <= y0 < y1 <= 128 for x0, y0, x1, y1 in boxes)
        gap = 1 if spec.kind == "mosaic" else GAP
        assert all(apart(a, b, gap) for i, a in enumerate(boxes) for b in boxes[:i])


def test_kinds_hold_what_they_say(generator):
    rng, concepts = np.random.default_rng(5), load_concepts()
    for kind in KINDS * 30:
        spec = generator.sample(rng, kind)
        names, colours = {o.concept for o in spec.objects}, [o.colour for o in spec.objects]
        counting = kind in ("count", "counted_colour")
        assert len(spec.objects) in {"single": (1,), "colour": (1,)}.get(kind, (2, 3, 4) if counting else (2,))
        assert (None not in colours) == (kind in ("colour", "attribution", "counted_colour"))
        if counting:
            assert len(names) == len({o.style for o in spec.objects}) == len(set(colours)) == 1
            assert concepts[spec.objects[0].concept].countable and spec.objects[0].style not in NO_COUNTING
        if kind == "position":
            assert relation(*spec.objects) is not None
        if kind == "attribution":
            assert colours[0] != colours[1]


def test_mosaics(generator):
    rng = np.random.default_rng(6)
    specs = [generator.mosaic(rng) for _ in range(200)]
    assert all(4 <= len(s.objects) == len({o.concept for o in s.objects}) <= 9 for s in specs)
    painted = [o.colour is not None for s in specs for o in s.objects]
    assert 0.45 < np.mean(painted) < 0.7


def test_shares_and_kinds():
    rng, generator = np.random.default_rng(7), SceneGenerator("train")
    kinds = [generator.sample(rng).kind for _ in range(3000)]
    for kind, share in SHARES.items():
        assert kinds.count(kind) / 3000 == pytest.approx(share, abs=0.035)
    only = SceneGenerator("train", kinds=["two"])
    assert {only.sample(rng).kind for _ in range(20)} == {"two"}
    style = generator.styles[0]
    assert {o.style for o in SceneGenerator("train", styles=[style]).mosaic(rng).objects} == {style}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kinds": ["three"]}, "unknown kind 'three'"),
        ({"styles": ["oil"]}, "unknown style 'oil'"),
        ({"split": "dev"}, "unknown split 'dev'"),
        ({"shares": {"two": 0.0}}, "sum to 0"),
    ],
)
def test_unknown_settings_are_refused(given, message):
    with pytest.raises(DataError, match=message):
        SceneGenerator(**given)


def test_colours_are_true_in_pixels(generator):
    rng, good, total = np.random.default_rng(8), 0, 0
    for _ in range(250):
        spec = generator.sample(rng, "colour")
        item, picture = spec.objects[0], render(spec, generator.book).astype(np.float32)
        x0, y0, x1, y1 = item.box
        cover = generator.book.scaled(item.concept, item.style, x1 - x0, y1 - y0).cover[..., 0] > 250
        mean = picture[y0:y1, x0:x1][cover].mean(axis=0)
        good += int(nearest_colour(mean)) == COLOUR_INDEX[item.colour]
        total += 1
    assert good / total >= 0.97


def test_palette_is_its_own_nearest():
    assert nearest_colour(COLOUR_RGB).tolist() == list(range(11))


def test_drawings_stand_out_and_ground_is_plain(generator):
    for spec in scenes(generator, 150):
        picture, ground = render(spec, generator.book), np.array(BACKGROUND_RGB[spec.background])
        changed = np.abs(picture.astype(int) - ground).max(axis=-1) > 24
        outside = np.ones((128, 128), bool)
        for item in spec.objects:
            x0, y0, x1, y1 = item.box
            cover = generator.book.scaled(item.concept, item.style, x1 - x0, y1 - y0).cover[..., 0] > 200
            assert changed[y0:y1, x0:x1][cover].mean() > 0.5
            outside[y0:y1, x0:x1] = False
        assert not changed[outside].any()


def test_every_drawing_has_a_ground_and_dark_never_lies_on_dark(generator):
    book, rng = generator.book, np.random.default_rng(14)
    for concept in rng.integers(len(load_concepts()), size=60).tolist():
        for style in generator.styles[:2]:
            if book.has(concept, style):
                assert book.facts(concept, style).visible.any()
                black = dict(zip(BACKGROUNDS, book.table(concept, style, "black")[1].tolist(), strict=True))
                assert black["white"] and not (black["black"] or black["dark green"] or black["dark blue"])


def test_labels_say_the_boxes(generator):
    rng = np.random.default_rng(9)
    for n in range(60):
        spec = generator.mosaic(rng) if n % 2 else generator.sample(rng)
        found = labels(spec, 12)
        assert found.centre.sum() == len(spec.objects)
        assert set(found.concept[found.concept >= 0].tolist()) == {o.concept for o in spec.objects}
        assert ((found.concept < 0) == (found.colour < 0)).all()
        assert BACKGROUNDS[found.background] == spec.background
        for item in spec.objects:
            x, y = item.centre
            row, column = int(y * 12 / 128), int(x * 12 / 128)
            assert found.concept[row, column] == item.concept
            assert found.colour[row, column] == (COLOUR_INDEX[item.colour] if item.colour else OWN_COLOUR)


def test_redraw_keeps_what_is_said(generator):
    rng = np.random.default_rng(10)
    for kind in KINDS:
        spec = generator.sample(rng, kind)
        again = generator.redraw(rng, spec)
        assert [(o.concept, o.colour) for o in again.objects] == [(o.concept, o.colour) for o in spec.objects]
        assert (again.background, again.kind) == (spec.background, spec.kind)
        if kind == "position":
            assert relation(*again.objects) == relation(*spec.objects)


def test_small_cache_gives_the_same_pictures(generator):
    from opentar.nano.world.render import SpriteBook

    small = SpriteBook(generator.book.sprites, cache_bytes=1)
    for spec in scenes(generator, 20):
        assert np.array_equal(render(spec, small), render(spec, generator.book))


def test_contact_sheet(generator):
    specs = scenes(generator, 5)
    pictures = [render(spec, generator.book) for spec in specs]
    sheet = contact_sheet(pictures, ["a caption of several words that must be broken"] * 5, columns=3)
    assert sheet.mode == "RGB" and sheet.width > 3 * 128 and sheet.height > 2 * 128
    assert np.array_equal(np.asarray(sheet)[6:134, 6:134], pictures[0])
    assert contact_sheet([Image.new("RGB", (64, 64))], ["x"]).height > 64
    with pytest.raises(DataError, match="given 2 pictures, 1 captions"):
        contact_sheet(pictures[:2], ["x"])


def test_wrap_breaks_words_and_long_words():
    from PIL import ImageFont

    font = ImageFont.load_default(size=10)
    lines = wrap("three red apples on a light blue background", 80, font)
    assert " ".join(lines) == "three red apples on a light blue background"
    assert all(font.getlength(line) <= 80 for line in [*lines, *wrap("x" * 60, 80, font)])


def test_tidy_scenes_stand_in_their_slots_and_change_nothing_else():
    tidy = SceneGenerator("train", tidy=1.0)
    rng = np.random.default_rng(12)
    for kind in KINDS:
        for _ in range(20):
            spec = tidy.sample(rng, kind)
            longest = {max(o.box[2] - o.box[0], o.box[3] - o.box[1]) for o in spec.objects}
            assert longest == {TIDY_LARGE if len(spec.objects) == 1 else TIDY_SMALL}
            boxes = [o.box for o in spec.objects]
            assert all(apart(a, b) for n, a in enumerate(boxes) for b in boxes[:n])
            assert all(x0 >= 0 and y0 >= 0 and x1 <= PICTURE and y1 <= PICTURE for x0, y0, x1, y1 in boxes)
            if kind in ("two", "attribution"):
                assert relation(*spec.objects) == "left", "the one that is named first stands on the left"
    words = {relation(*tidy.sample(rng, "position").objects) for _ in range(60)}
    assert words == {"left", "right", "above", "below"}
    assert len({tidy.sample(rng, "two").objects[0].centre[0] for _ in range(9)}) <= 2
    plain = SceneGenerator("train")
    assert plain.sample(np.random.default_rng(3)) == SceneGenerator("train", tidy=0.0).sample(np.random.default_rng(3))
