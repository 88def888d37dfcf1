"""`opentar list` and `rm`: what is there, and what may go."""

import json
import shutil
from pathlib import Path

import pytest

NAME = "csuhan/Tar-1.5B"


@pytest.fixture
def cache(tmp_path_factory, monkeypatch, tiny_model) -> Path:
    """The models of a cache folder that holds one fetched model."""
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("OPENTAR_CACHE", str(place))
    shutil.copytree(tiny_model, place / "models" / "csuhan--Tar-1.5B")
    return place / "models"


def listed(run) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads(run("list", "--json")[1])["models"]}


def test_list_names_bundled_and_fetched_models(run, cache, tiny_model):
    rows = listed(run)
    assert set(rows) == {"nano", NAME}
    assert rows["nano"]["origin"] == "bundled"
    told = json.loads(run("info", tiny_model, "--json", "--no-verify")[1])
    assert (rows[NAME]["hash"], rows[NAME]["bytes"]) == (told["hash"], told["bytes"])
    assert rows[NAME]["folder"] == str(cache / "csuhan--Tar-1.5B")
    out = run("list")[1]
    assert NAME in out and rows[NAME]["hash"] in out and rows[NAME]["folder"] in out


def test_list_without_a_cache(run, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENTAR_CACHE", str(tmp_path / "none"))
    assert set(listed(run)) == {"nano"}
    assert not (tmp_path / "none").exists()


def test_list_tells_what_is_not_whole(run, cache):
    (cache / "csuhan--Tar-1.5B" / "manifest.json").unlink()
    row = listed(run)[NAME]
    assert row["hash"] is None
    assert "manifest.json" in row["damage"]


@pytest.mark.parametrize("called", [NAME, "csuhan--Tar-1.5B", "path"])
def test_rm_removes_a_fetched_model_by_any_of_its_names(run, cache, called):
    code, out, err = run("rm", cache / "csuhan--Tar-1.5B" if called == "path" else called, "--yes")
    assert code == 0
    assert out.startswith(f"removed {NAME}: ")
    assert "huggingface_hub" in err
    assert list(cache.iterdir()) == []
    assert set(listed(run)) == {"nano"}


def test_rm_asks_first(run, cache, monkeypatch):
    import sys

    class Terminal:
        def __init__(self, said):
            self.said = said

        def isatty(self):
            return True

        def readline(self):
            return self.said

    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    code, out, err = run("rm", NAME)
    assert (code, out) == (0, "nothing was removed\n")
    assert f"remove {NAME}" in err
    assert set(listed(run)) == {"nano", NAME}
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert run("rm", NAME)[1].startswith("removed")


def test_rm_needs_yes_where_nobody_can_be_asked(refused, cache):
    assert "add --yes" in refused("rm", NAME)
    assert (cache / "csuhan--Tar-1.5B" / "config.json").is_file()


@pytest.mark.parametrize("name", ["nano", "..", ".", "../models", "tar", "/", "csuhan--Tar-1.5B/language", ""])
def test_rm_touches_nothing_else(refused, cache, name):
    before = sorted(cache.parent.rglob("*"))
    assert "emoved" in refused("rm", name, "--yes")
    assert sorted(cache.parent.rglob("*")) == before


def test_rm_refuses_what_holds_files_of_somebody_else(refused, run, cache):
    notes = cache / "csuhan--Tar-1.5B" / "language" / "notes.txt"
    notes.write_text("mine")
    assert "'language/notes.txt'" in refused("rm", NAME, "--yes")
    notes.unlink()
    (cache / "csuhan--Tar-1.5B" / "README.md").write_text("the card that import writes")
    assert run("rm", NAME, "--yes")[0] == 0
    (cache / "pictures").mkdir()
    (cache / "pictures" / "cat.png").write_bytes(b"")
    assert "holds no model" in refused("rm", "pictures", "--yes")


def test_rm_never_follows_a_link(run, cache, tmp_path):
    outside = shutil.move(cache / "csuhan--Tar-1.5B", tmp_path / "outside")
    (cache / "csuhan--Tar-1.5B").symlink_to(outside)
    assert run("rm", NAME, "--yes")[0] == 0
    assert (outside / "language" / "model.safetensors").is_file()
    assert list(cache.iterdir()) == []


def test_a_link_inside_a_model_is_not_followed(run, cache, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    words = cache / "csuhan--Tar-1.5B" / "ta_tok" / "words.txt"
    words.unlink()
    words.symlink_to(outside / "precious")
    assert run("rm", NAME, "--yes")[0] == 0
    assert (outside / "precious").read_text() == "x"


def test_a_removal_that_is_broken_off_leaves_no_model(run, refused, cache, monkeypatch):
    from opentar.commands import models

    real = shutil.rmtree

    def fails(path, *args, **kwargs):
        if Path(path).exists():
            raise OSError("the power went")

    monkeypatch.setattr(models.shutil, "rmtree", fails)
    code, _, err = run("rm", NAME, "--yes")
    assert (code, "cannot remove" in err) == (2, True)
    assert set(listed(run)) == {"nano"}
    monkeypatch.setattr(models.shutil, "rmtree", real)
    run("rm", NAME, "--yes")
    assert list(cache.iterdir()) == []


def test_rm_takes_an_older_version_with_it(run, cache):
    shutil.copytree(cache / "csuhan--Tar-1.5B", cache / ".csuhan--Tar-1.5B.previous")
    assert run("rm", NAME, "--yes")[0] == 0
    assert list(cache.iterdir()) == []
