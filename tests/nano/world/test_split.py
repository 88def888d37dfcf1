"""The split by hash: its published rule, its tables, and that no held-out part leaks into a training picture."""

import hashlib

import numpy as np
import pytest

from opentar.core.errors import DataError
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.palette import COLOURS
from opentar.nano.world.scenes import SceneGenerator
from opentar.nano.world.split import (
    COUNTS,
    SPLITS,
    bucket,
    colour_key,
    count_key,
    pair_key,
    scene_keys,
    scene_splits,
    split_index,
    split_tables,
)


def test_rule_is_the_published_one():
    rest = int(hashlib.sha1(b"col|1F34E|blue").hexdigest(), 16) % 1000
    assert bucket("col|1F34E|blue") == ("val" if rest < 75 else "test" if rest < 150 else "train")
    assert colour_key("1F34E", "blue") == "col|1F34E|blue"
    assert count_key("1F34E", 3) == "cnt|1F34E|3"
    assert pair_key("1F436", "1F34E") == pair_key("1F34E", "1F436") == "pair|1F34E|1F436"


def test_tables_equal_the_rule():
    concepts, tables = load_concepts(), split_tables()
    rng = np.random.default_rng(0)
    for first, second in rng.integers(len(concepts), size=(200, 2)):
        a, b = concepts[first].hex, concepts[second].hex
        colour, number = int(rng.integers(len(COLOURS))), int(rng.choice(COUNTS))
        assert SPLITS[tables.colour[first, colour]] == bucket(colour_key(a, COLOURS[colour]))
        assert SPLITS[tables.count[first, number]] == bucket(count_key(a, number))
        if first != second:
            assert SPLITS[tables.pair[first, second]] == bucket(pair_key(a, b))


def test_shares_of_the_split():
    upper = split_tables().pair[np.triu_indices(len(load_concepts()), 1)]
    assert np.bincount(upper, minlength=3) / upper.size == pytest.approx([0.85, 0.075, 0.075], abs=0.01)


def test_no_held_out_part_in_training_scenes():
    generator, tables = SceneGenerator("train"), split_tables()
    rng = np.random.default_rng(11)
    for n in range(20_000):
        spec = generator.mosaic(rng) if n % 4 == 0 else generator.sample(rng)
        found = [o.concept for o in spec.objects]
        assert not tables.pair[np.ix_(found, found)].any()
        assert not any(tables.colour[o.concept, COLOURS.index(o.colour)] for o in spec.objects if o.colour)
        assert not any(tables.count[c, found.count(c)] for c in found)
        if n % 20 == 0:  # the hashes themselves, independent of the tables
            assert scene_splits(spec) <= {"train"}


@pytest.mark.parametrize("split", ["val", "test"])
def test_every_part_of_a_held_out_scene_is_held_out(split):
    generator, rng = SceneGenerator(split), np.random.default_rng(12)
    for _ in range(300):
        spec = generator.sample(rng)
        assert scene_splits(spec) == (frozenset() if spec.kind == "single" else {split})


def test_keys_of_scenes():
    generator, rng = SceneGenerator("train"), np.random.default_rng(13)
    lengths = {kind: len(scene_keys(generator.sample(rng, kind))) for kind in generator.kinds}
    expected = {"single": 0, "colour": 1, "count": 1, "two": 1, "position": 1, "attribution": 3, "counted_colour": 2}
    assert lengths == expected


def test_unknown_split_is_one_line():
    with pytest.raises(DataError, match="unknown split 'dev': choose one of train, val, test"):
        split_index("dev")
