"""A whole model: no file that its hash does not cover is ever read, and no other weights run under its hash."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from opentar import Tar
from opentar.checkpoints.find import find_model
from opentar.checkpoints.model_folder import read_config, write_model
from opentar.checkpoints.parts import ModelParts
from opentar.core.errors import OutputError, WeightsError
from opentar.core.folder import MANIFEST, folder_hash, load_part, save_part, verify
from opentar.image_to_tokens.ta_tok import TATok


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def _open(folder: Path) -> ModelParts:
    parts = ModelParts(folder, device="cpu")
    _ = parts.vocab, parts.language, parts.ta_tok, parts.words
    for name in parts.config.detokenizers:
        parts.detokenizer(name)
    return parts


def _edit(folder: Path, change: Callable[[dict], None]) -> None:
    content = json.loads((folder / MANIFEST).read_bytes())
    change(content["files"])
    (folder / MANIFEST).write_text(json.dumps(content))


def _words(model: Path) -> None:
    (model / "ta_tok" / "words.txt").write_text("other\n" * 64)


def _no_words_in_manifests(model: Path) -> None:
    _words(model)
    _edit(model / "ta_tok", lambda files: files.pop("words.txt", None))
    _edit(model, lambda files: files.pop("ta_tok/words.txt", None))


def _unlisted(name: str, content: str = "{}") -> Callable[[Path], None]:
    return lambda model: (model / name).write_text(content) and None


def _no_manifest_of_a_part(model: Path) -> None:
    (model / "detok_diffusion" / MANIFEST).unlink()


def _part_taken_out(model: Path) -> None:
    def change(files: dict) -> None:
        for name in [name for name in files if name.startswith("language/")]:
            del files[name]

    _edit(model, change)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "words changed": _words,
    "words taken out": _no_words_in_manifests,
    "an index": _unlisted("language/model.safetensors.index.json"),
    "a shard": _unlisted("ta_tok/model-00001-of-00002.safetensors"),
    "a canvas index": _unlisted("detok_ar/canvas/model.safetensors.index.json"),
    "another kind of de-tokenizer": _unlisted("detok_diffusion/model_index.json"),
    "a part without manifest": _no_manifest_of_a_part,
    "a part taken out of the manifest": _part_taken_out,
    "settings changed": _unlisted("detok_ar/config.json", '{"kind": "ar", "canvas": "vqgan"}'),
    "alphabet changed": _unlisted("language/config.json"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_nothing_is_read_that_the_manifests_do_not_cover(model: Path, name: str) -> None:
    _open(model)
    DAMAGE[name](model)
    with pytest.raises(WeightsError):
        _open(model)


@pytest.mark.parametrize("read", ["words", "vocab"])
def test_reading_one_thing_alone_is_verified_too(model: Path, read: str) -> None:
    _no_words_in_manifests(model)
    (model / "language" / "config.json").write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = ModelParts(model, device="cpu")
    with pytest.raises(WeightsError):
        getattr(parts, read)


def test_other_weights_never_run_under_the_old_hash(model: Path) -> None:
    """Weights and manifest of a part rewritten, as its own class does it: it loads, with a warning and a new hash."""
    before = _open(model).hash
    part = TATok.from_folder(model / "ta_tok")
    with torch.no_grad():
        part.in_linear.weight += 1
    part.save(model / "ta_tok")
    with pytest.warns(UserWarning, match="ta_tok changed since this model was put together; its hash is now"):
        parts = ModelParts(model, device="cpu")
    assert parts.hash != before
    assert parts.hash == folder_hash(model)
    assert torch.equal(parts.ta_tok.in_linear.weight, part.in_linear.weight)


def test_a_part_saved_again_while_the_model_is_open_is_refused(model: Path) -> None:
    parts = ModelParts(model, device="cpu")
    config, state = load_part(model / "ta_tok")
    save_part(model / "ta_tok", config, {name: tensor + 1 for name, tensor in state.items()})
    with pytest.raises(WeightsError, match="was changed while ta_tok was loaded; load the model again"):
        _ = parts.ta_tok


def test_things_of_others_beside_it_change_nothing(model: Path) -> None:
    before = _open(model).hash
    for name in ("notes.txt", "language/notes.txt", "detok_ar/canvas/cat.png", "README.md", "old/model.safetensors"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("mine")
    assert _open(model).hash == before
    verify(model)


def test_notes_are_no_part_of_a_model_made_of_parts(model: Path, tmp_path: Path) -> None:
    (model / "language" / "notes.txt").write_text("mine")
    config = read_config(model)
    write_model(tmp_path / "new", config, {part: model / part for part in config.parts})
    assert folder_hash(tmp_path / "new") == folder_hash(model)
    assert not (tmp_path / "new" / "language" / "notes.txt").exists()


def test_nano_and_its_hash_stay_what_they_were() -> None:
    """Pictures drawn before carry it."""
    assert Tar.from_pretrained("nano", device="cpu").parts.hash == folder_hash(find_model("nano")) == "dfcfb83c4584"


def test_a_model_in_the_current_folder(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model)
    tar = Tar.from_pretrained(".", device="cpu")
    assert tar.parts.hash == folder_hash(model)
    assert folder_hash(model / "language" / "..") == tar.parts.hash
    (tmp_path / "empty").mkdir()
    tar = Tar.from_pretrained(model, device="cpu")
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(OutputError, match=r"current folder.*name a new folder in it"):
        tar.save_pretrained(".")
    tar.save_pretrained("new")
    assert folder_hash(tmp_path / "empty" / "new") == tar.parts.hash


def test_a_save_killed_between_its_two_renames_is_found_by_its_path(model: Path) -> None:
    before = folder_hash(model)
    model.rename(model.with_name(f".{model.name}.previous"))
    assert Tar.from_pretrained(model, device="cpu").parts.hash == before
