"""Bad input of the long commands: refused in one line before the work, and nothing is written."""

import pytest


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("nano", "--stage", "autoencodr"), "unknown stage 'autoencodr'; the stages are teacher"),
        (("nano", "--stage", "autoencoder", "nonsense"), "unknown stage 'nonsense'"),
        (("nano", "--recipe", "nanoo"), "unknown recipe 'nanoo'; the recipes are nano, smoke"),
        (("tar", "--stage", "autoencoder"), "'tar' cannot be trained here; there is: nano"),
        (("nano", "--jobs", 0), "jobs is 0; it must be at least 1"),
        (("nano", "--jobs", "two"), '"two"'),
    ],
)
def test_train(refused, argv, told):
    assert told in refused("train", *argv, "--out", "run")


@pytest.mark.parametrize("command", [("train", "nano"), ("eval",)])
def test_folders_that_cannot_be(refused, tiny_model, picture, command):
    argv = [*command, *([tiny_model] if command == ("eval",) else [])]
    assert "picture.png' is a file; give a folder" in refused(*argv, "--out", picture)
    assert "picture.png' is a file; give a folder" in refused(*argv, "--out", picture / "in" / "it")
    assert "cannot be used" in refused(*argv, "--out", "x" * 5000)
    assert "is not the name of a folder" in refused(*argv, "--out", "nul\0name")


def test_train_needs_a_folder(refused):
    assert "--out" in refused("train", "nano")


@pytest.fixture
def no_judge(monkeypatch):
    """The judge takes minutes to build: whatever is refused must be refused before it."""
    from opentar.nano import evaluate as nano

    def built(*given, **named):
        raise AssertionError("the judge was built")

    monkeypatch.setattr(nano, "Judge", built)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--limit", 3), "limit is 3; give 6"),
        (("--limit", -1), "limit is -1"),
        (("--samples", 0), "samples is 0; it must be a whole number from 1 to 1000"),
        (("--samples", 1001), "samples is 1001"),
        (("--seed", -1), "seed is -1; it must be a whole number from 0"),
        (("--scale", 7), "scale 7 does not exist; choose 0, 1 or 2"),
        (("--detok", "x"), "de-tokenizer 'x' is unknown to this model; it has: diffusion, ar"),
        (("--device", "cud"), "device 'cud' is unknown"),
    ],
)
def test_eval(refused, no_judge, tiny_model, flags, told):
    assert told in refused("eval", tiny_model, "--out", "report", *flags)


def test_eval_of_unknown_models_and_into_full_folders(refused, no_judge, tiny_model, tmp_path):
    assert "model 'nanoo' is unknown" in refused("eval", "nanoo", "--out", "report")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    assert "not an empty folder" in refused("eval", tiny_model, "--out", "full")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--split", "tset"), 'Invalid value "tset" for --split. Choose from: "train", "val", "test"'),
        (("--styles", "noto"), 'Invalid value "noto" for --styles'),
        (("-n", 0), "count is 0; it must be from 1 to 1000"),
        (("-n", 10**9), "count is 1000000000"),
        (("--columns", 0), "columns is 0"),
        (("--seed", -1), "seed is -1; it must be 0 or more"),
        (("-o", "sheet.bmp"), "does not end in .png, .jpg, .webp or .avif"),
        (("-o", "."), "is a folder"),
        (("-o", "picture.png"), "is there already and is kept"),
        (("-o", "picture.png/sheet.png"), "is not there"),
    ],
)
def test_data_sheet(refused, picture, flags, told):
    assert told in refused("data", "sheet", *flags)
