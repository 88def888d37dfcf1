"""The model card says what the folder holds, belongs to people, and comes along when a model is saved."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sequences
from opentar import Tar
from opentar.checkpoints.hub.card import CARD, model_card, write_card
from opentar.checkpoints.model_folder import read_config, write_model
from opentar.core.errors import OutputError, WeightsError
from opentar.core.folder import folder_hash, verify
from opentar.image_to_tokens.ta_tok import TATok
from opentar.language.folder import load_language
from opentar.tokens_to_image.detokenizer import load_detokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = importlib.util.spec_from_file_location("opentar_tests_tiny", Path(__file__).parents[1] / "tiny.py")
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    return tiny.write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def test_the_card_names_parts_licences_use_and_data(model: Path) -> None:
    card = model_card(model)
    assert card.startswith("---\nlibrary_name: opentar\n")
    assert "license: apache-2.0\n---" in card
    parts = ["| `ta_tok/` |", "| `language/` |", "| `detok_diffusion/` |", "| `detok_ar/` |"]
    facts = ["144 (scale 0), 36 (scale 1), 16 (scale 2) codes out of 64", folder_hash(model), "| Apache-2.0 |"]
    ways = ["Tar.from_pretrained", "tar.generate", "opentar export qwen2", "none: the weights are random"]
    for text in ("# tiny", *parts, *facts, *ways):
        assert text in card, text


def test_a_card_of_imported_parts(model: Path, tmp_path: Path) -> None:
    config = read_config(model)
    config = dataclasses.replace(
        config,
        parts=("ta_tok", "language"),
        licence="part by part",
        part_licences={"ta_tok": "Apache-2.0", "language": "research | only"},
        sources={"ta_tok": ("someone/ta@1234/ta_tok.pth",)},
    )
    write_model(tmp_path / "reader", config, {part: model / part for part in config.parts})
    card = model_card(tmp_path / "reader")
    assert "license: other\n---" in card
    assert "research \\| only |" in card
    assert "`someone/ta@1234/ta_tok.pth`" in card
    assert "tar.generate" not in card
    assert "would need a de-tokenizer" in card


def test_saving_a_model_writes_a_whole_folder_with_its_card(model: Path, tmp_path: Path) -> None:
    tar = Tar.from_pretrained(model)
    tar.save_pretrained(tmp_path / "copy")
    card = (tmp_path / "copy" / CARD).read_text(encoding="utf-8")
    assert card == model_card(model)
    verify(tmp_path / "copy")
    copy = Tar.from_pretrained(tmp_path / "copy")
    assert copy.parts.hash == tar.parts.hash
    assert np.array_equal(copy.generate("a red apple", seed=3)[0], tar.generate("a red apple", seed=3)[0])


def test_a_card_that_somebody_wrote_is_kept(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "own")
    (tmp_path / "own" / CARD).write_text("mine", encoding="utf-8")
    write_card(tmp_path / "own")
    assert (tmp_path / "own" / CARD).read_text(encoding="utf-8") == "mine"
    verify(tmp_path / "own")
    Tar.from_pretrained(tmp_path / "own").save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / CARD).read_text(encoding="utf-8") == "mine"


def test_each_part_loads_alone(model: Path, tmp_path: Path) -> None:
    whole = Tar.from_pretrained(model)
    for part in ("ta_tok", "language", "detok_diffusion", "detok_ar"):
        shutil.copytree(model / part, tmp_path / part)
    ta_tok = TATok.from_folder(tmp_path / "ta_tok")
    codes = whole.encode(Image.new("RGB", (20, 20), "red"), 2).codes
    features = ta_tok.decode(torch.tensor(codes).reshape(1, -1))
    assert torch.equal(features, whole.parts.ta_tok.decode(torch.tensor(codes).reshape(1, -1)))
    language = load_language(tmp_path / "language")
    assert sequences.text(language.builder, "a dog") == sequences.text(whole.parts.language.builder, "a dog")
    for name in ("diffusion", "ar"):
        alone = load_detokenizer(tmp_path / f"detok_{name}").decode(features, seed=1)
        assert torch.equal(alone, whole.parts.detokenizer(name).decode(features, seed=1))


def test_what_stands_in_the_way_is_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = Tar.from_pretrained(model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not an empty folder"):
        tar.save_pretrained(tmp_path / "full")
    with pytest.raises(WeightsError):
        write_card(tmp_path / "full")
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match="free some space"):
        tar.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
