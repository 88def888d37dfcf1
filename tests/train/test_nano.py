"""The recipe as a whole: every stage runs, hands on what the next needs, and ends in a model that loads."""

import json
from pathlib import Path

import pytest

from opentar.core.errors import ConfigError, DataError
from opentar.data.split import bucket
from opentar.train.nano import read_scores, recipe_of, run_stage, train_nano
from opentar.train.steps import STEPS


def test_every_need_is_a_stage_that_stands_earlier() -> None:
    names = list(STEPS)
    for name, step in STEPS.items():
        assert all(need in names[: names.index(name)] for need in step.needs), name


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown stage 'teecher'"):
        train_nano(tmp_path, ["teecher"])
    with pytest.raises(ConfigError, match="unknown recipe 'nanoo'"):
        train_nano(tmp_path, recipe="nanoo")


def test_a_stage_waits_for_its_needs_and_for_their_gates(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs stage teacher first"):
        run_stage(tmp_path, "ta_tok")
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "scores.json").write_text(json.dumps({"scene_p1": 0.01}))
    with pytest.raises(DataError, match=r"scene_p1 0\.010, below its gate"):
        run_stage(tmp_path, "ta_tok")


def test_a_run_folder_keeps_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps({"name": "nano"}))
    with pytest.raises(ConfigError, match="another recipe"):
        train_nano(tmp_path, [], recipe="smoke")


@pytest.mark.slow
def test_the_whole_way_with_a_smoke_recipe(tmp_path: Path) -> None:
    """Every stage for three steps, then the bundled folder draws and answers (nonsense, but whole)."""
    from opentar.pipeline import Tar

    scores = train_nano(tmp_path, list(STEPS), recipe="smoke", quiet=True)
    assert set(scores) == set(STEPS)
    tar = Tar.from_pretrained(tmp_path / "bundle" / "model")
    (picture,) = tar.generate("three red apples", seed=3)
    assert picture.size == (128, 128)
    assert isinstance(tar.ask(picture, "Is there an apple in the picture?"), str)
    assert read_scores(tmp_path, "bundle") == scores["bundle"]
    before = (tmp_path / "joint" / "log.jsonl").read_text()
    train_nano(tmp_path, ["joint"], recipe="smoke", quiet=True)
    assert (tmp_path / "joint" / "log.jsonl").read_text() == before, "an ended stage is not trained again"


def test_the_corpora_of_the_nano_recipe_hold_no_held_out_combination() -> None:
    import numpy as np

    from opentar.data.concepts import load_concepts
    from opentar.train.stages.pictures import ScenePictures

    settings, concepts = recipe_of("nano").corpus_draw, load_concepts()
    source = ScenePictures(styles=settings.styles, shares=settings.shares)
    for spec in source.specs(np.random.default_rng([settings.seed, 0]), 2000):
        names = sorted({concepts[item.concept].hex for item in spec.objects})
        keys = [f"col|{concepts[item.concept].hex}|{item.colour}" for item in spec.objects if item.colour]
        keys += [f"pair|{names[0]}|{names[1]}"] if len(names) == 2 else []
        keys += [f"cnt|{names[0]}|{len(spec.objects)}"] if spec.kind in ("count", "counted_colour") else []
        assert all(bucket(key) == "train" for key in keys), (spec, keys)
        assert {item.style for item in spec.objects} == set(settings.styles)
