"""A small judge for all tests of this folder: twelve concepts, small crops, trained in a few seconds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from opentar.nano.judge.features import FrozenFeatures
from opentar.nano.judge.judge import Judge
from opentar.nano.judge.probe import ProbeSettings, load_probe
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.render import SpriteBook, book_of
from opentar.nano.world.sprites import SpriteSet, load_sprites
from opentar.pipeline import Tar

NAMES = ("apple", "bicycle", "fish", "key", "airplane", "house", "cat", "hammer", "guitar", "banana", "rocket", "crown")


@pytest.fixture(scope="session")
def few() -> SpriteBook:
    """The drawings of a few concepts in two styles."""
    whole = load_sprites("train")
    code_points = {concept.hex for concept in load_concepts() if concept.en in NAMES}
    styles = ("noto", "twemoji")
    stored = {key: row for key, row in whole._stored.items() if key[0] in code_points and key[1] in styles}
    return book_of(SpriteSet(split="train", size=128, styles=styles, _stored=stored))


@pytest.fixture(scope="session")
def small() -> ProbeSettings:
    """Few and small crops."""
    return ProbeSettings(crops=96, side=64, ridge=50.0)


@pytest.fixture(scope="session")
def network() -> FrozenFeatures:
    """The packaged network."""
    return FrozenFeatures()


@pytest.fixture(scope="session")
def judge(few: SpriteBook, small: ProbeSettings, network: FrozenFeatures) -> Judge:
    """A judge of the few concepts."""
    return Judge(load_probe(small, sprites=few, features=network), features=network)


@pytest.fixture(scope="session")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Tar:
    """The tiny model of random weights."""
    # By its path: `tests` is no package, and another one of that name may be installed.
    spec = importlib.util.spec_from_file_location("opentar_tests_tiny", Path(__file__).parents[1] / "tiny.py")
    assert spec is not None
    assert spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    return Tar.from_pretrained(tiny.write_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


def _shared():
    """The tiny tokenizer and builder of the language tests."""
    path = Path(__file__).parents[1] / "language" / "conftest.py"
    spec = importlib.util.spec_from_file_location("language_conftest", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tokenizer, config, builder = _shared().tokenizer, _shared().config, _shared().builder
