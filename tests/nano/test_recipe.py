"""The recipe as a whole: every stage runs, hands on what the next needs, and ends in a model that loads."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opentar.core.errors import ConfigError, DataError
from opentar.nano.recipes import nano
from opentar.nano.stages.pictures import ScenePictures
from opentar.nano.steps import recipe_of
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.split import bucket
from opentar.train.files import only_one, write_json
from opentar.train.run import read_scores, run_step, train


def test_every_need_is_a_stage_that_stands_earlier() -> None:
    names = list(recipe_of("smoke").steps)
    for name, step in recipe_of("smoke").steps.items():
        assert all(need in names[: names.index(name)] for need in step.needs), name


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown stage 'teecher'"):
        train(recipe_of("nano"), tmp_path, ["teecher"])
    with pytest.raises(ConfigError, match="unknown recipe 'nanoo'"):
        recipe_of("nanoo")


def test_a_stage_waits_for_its_needs_and_for_their_gates(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs stage teacher first"):
        run_step(recipe_of("nano"), tmp_path, "ta_tok")
    write_json(tmp_path / "teacher" / "scores.json", {"scores": {"scene_p1": 0.01}, "needs": {}})
    with pytest.raises(DataError, match=r"scene_p1 0\.010, below its gate"):
        run_step(recipe_of("nano"), tmp_path, "ta_tok")


def test_a_run_folder_keeps_its_recipe(tmp_path: Path) -> None:
    train(recipe_of("nano"), tmp_path, [])
    train(recipe_of("nano"), tmp_path, [])
    begun = json.loads((tmp_path / "recipe.json").read_text())
    begun["flow"]["drop"] = 0.5
    write_json(tmp_path / "recipe.json", begun)
    with pytest.raises(ConfigError, match="other values of flow than recipe 'nano'"):
        train(recipe_of("nano"), tmp_path, [])


def test_what_was_built_on_an_older_ending_is_not_used(tmp_path: Path) -> None:
    write_json(tmp_path / "teacher" / "scores.json", {"scores": {"scene_p1": 0.9}, "needs": {}})
    write_json(tmp_path / "ta_tok" / "scores.json", {"scores": {}, "needs": {"teacher": "0123456789abcdef"}})
    with pytest.raises(DataError, match="built on another teacher"):
        read_scores(tmp_path, "ta_tok")


def test_a_stage_has_one_writer(tmp_path: Path) -> None:
    with only_one(tmp_path / "teacher"), pytest.raises(DataError, match="by another process"):
        run_step(recipe_of("smoke"), tmp_path, "teacher", quiet=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["smoke", "smoke_words"])
def test_the_whole_way_with_a_smoke_recipe(tmp_path: Path, name: str) -> None:
    """Every stage for three steps, then the bundled folder draws and answers (nonsense, but whole)."""
    from opentar.pipeline import Tar

    scores = train(recipe_of(name), tmp_path, list(recipe_of(name).steps), quiet=True)
    assert set(scores) == set(recipe_of(name).steps)
    assert scores["bundle"]["megabytes"] <= 20, "the parts have the sizes of the nano recipe, and its bundle a limit"
    tar = Tar.from_pretrained(tmp_path / "bundle" / "model")
    (picture,) = tar.generate("three red apples", seed=3)
    assert picture.size == (128, 128)
    assert isinstance(tar.ask(picture, "Is there an apple in the picture?"), str)
    assert read_scores(tmp_path, "bundle") == scores["bundle"]
    before = (tmp_path / "joint" / "log.jsonl").read_text()
    train(recipe_of(name), tmp_path, ["joint"], quiet=True)
    assert (tmp_path / "joint" / "log.jsonl").read_text() == before, "an ended stage is not trained again"


@pytest.mark.parametrize("corpus", ["corpus_draw", "corpus_free", "corpus_paint"])
def test_the_corpora_of_the_nano_recipe_hold_no_held_out_combination(corpus: str) -> None:
    import numpy as np

    settings, concepts = getattr(nano(), corpus), load_concepts()
    source = ScenePictures(styles=settings.styles, shares=settings.shares, tidy=settings.tidy)
    for spec in source.specs(np.random.default_rng([settings.seed, 0]), 2000):
        names = sorted({concepts[item.concept].hex for item in spec.objects})
        keys = [f"col|{concepts[item.concept].hex}|{item.colour}" for item in spec.objects if item.colour]
        keys += [f"pair|{names[0]}|{names[1]}"] if len(names) == 2 else []
        keys += [f"cnt|{names[0]}|{len(spec.objects)}"] if spec.kind in ("count", "counted_colour") else []
        assert all(bucket(key) == "train" for key in keys), (spec, keys)
        assert {item.style for item in spec.objects} == set(settings.styles)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
def test_a_terminated_run_leaves_no_stage_behind(tmp_path: Path) -> None:
    """The parent of two stages is told to stop: it ends with 143, and so have they, their steps saved."""
    command = [
        sys.executable,
        "-m",
        "opentar",
        "train",
        "nano",
        "--out",
        str(tmp_path),
        "--recipe",
        "smoke",
        "--jobs",
        "2",
    ]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("*/.lock")) and parent.poll() is None:
        time.sleep(0.1)
    parent.terminate()
    said = parent.communicate(timeout=240)[1]
    assert parent.returncode == 143, said
    assert "stopped by signal 15" in said
    assert "Traceback" not in said
    for folder in (lock.parent for lock in tmp_path.glob("*/.lock")):
        with only_one(folder):
            pass
