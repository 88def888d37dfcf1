"""`opentar verify`: everything is hashed; a difference is exit code 1 and one line."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from opentar.core.folder import folder_hash, load_part, save_part


@pytest.fixture
def model(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "copy")


def test_an_intact_model(run, model):
    digest = folder_hash(model)
    code, out, _ = run("verify", model)
    assert code == 0
    assert out.startswith("intact ") and digest in out
    code, out, err = run("verify", model, "--hash", digest.upper(), "--json")
    told = json.loads(out)
    assert (code, err, told["hash"], told["expected"], told["changed"]) == (0, "", digest, digest, [])
    assert told["files"] > 10 and told["bytes"] > 1000
    # A part by itself.
    assert run("verify", model / "language")[0] == 0


@pytest.mark.parametrize("name", ["config.json", "language/model.safetensors", "detok_ar/canvas/config.json"])
def test_damage_is_named(refused, model, name):
    content = bytearray((model / name).read_bytes())
    content[-1] ^= 1
    (model / name).write_bytes(content)
    assert name.rpartition("/")[2] in refused("verify", model, code=1)


def test_every_file_is_hashed_whatever_is_remembered(refused, run, model, monkeypatch):
    from opentar.core import remembered

    monkeypatch.setattr(remembered.Memory, "knows", lambda *_: True)
    weights = model / "language" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert run("info", model)[0] == 0
    assert "has changed since it was saved" in refused("verify", model, code=1)


def test_a_hash_that_was_written_down(refused, model):
    line = refused("verify", model, "--hash", "0123456789ab", code=1)
    assert folder_hash(model) in line and "not 0123456789ab" in line
    for wrong in ("", "xyz", "0123", "0123456789abcdef"):
        assert "12 hexadecimal digits" in refused("verify", model, "--hash", wrong)
    assert "is unknown" in refused("verify", "nanno")


def test_a_part_saved_again_is_told(refused, run, model):
    old = folder_hash(model)
    config, state = load_part(model / "language")
    extra = {"tokenizer.json": (model / "language" / "tokenizer.json").read_bytes()}
    save_part(model / "language", config, {name: torch.zeros_like(one) for name, one in state.items()}, extra=extra)
    digest = folder_hash(model)
    assert old != digest
    line = refused("verify", model, code=1)
    assert "language changed since" in line and f"--hash {digest}" in line
    refused("verify", model, "--hash", old, code=1)
    code, out, _ = run("verify", model, "--hash", digest)
    assert code == 0 and "changed  language since the model was put together" in out
    code, out, _ = run("info", model)
    assert code == 0 and "changed  language since the model was put together" in out and digest in out


def test_info_counts_the_models_own_files(run, model):
    before = json.loads(run("info", model, "--json")[1])
    (model / "language" / "notes.txt").write_text("mine" * 1000)
    (model / "language" / "old").mkdir()
    shutil.copy(model / "language" / "model.safetensors", model / "language" / "old" / "model.safetensors")
    assert json.loads(run("info", model, "--json")[1]) == before
    shutil.copy(model / "language" / "model.safetensors", model / "language" / "extra.safetensors")
    assert run("info", model)[0] == 1
