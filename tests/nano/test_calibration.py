"""Weights of 4 bits chosen by what nano is given lose less of what it computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import opentar
from opentar.checkpoints.convert.quantizing import CALIBRATED, quantize_model
from opentar.checkpoints.parts import ModelParts
from opentar.core.errors import DataError
from opentar.core.folder import verify
from opentar.language.folder import load_language
from opentar.language.model import TarLanguageModel
from opentar.nano.calibration import sequences

NANO = Path(opentar.__file__).parent / "models" / "nano"


@pytest.mark.parametrize("to", CALIBRATED)
def test_calibrated_weights_give_nearer_outputs(to: str, tmp_path: Path) -> None:
    parts = ModelParts(NANO, device="cpu")
    given = sequences(parts, ids=1500, seed=5)
    kept, seen = given[:4], given[4:]
    steps: list[tuple[str, int, int]] = []
    quantize_model(NANO, tmp_path / "plain", to)
    quantize_model(NANO, tmp_path / "out", to, lambda *step: steps.append(step), calibration=seen)
    verify(tmp_path / "out")
    done = [(count, total) for name, count, total in steps if name == "language"]
    assert done[-1][0] == done[-1][1] and [count for count, _ in done] == list(range(1, len(done) + 1))

    def told(name: str) -> object:
        return json.loads((tmp_path / name / "language" / "config.json").read_text())["quantized"]

    assert told("out") == told("plain")
    exact = parts.language.model
    plain, chosen = (load_language(tmp_path / name / "language", "packed").model for name in ("plain", "out"))

    def lost(model: TarLanguageModel) -> float:
        with torch.no_grad():
            pairs = [(exact.hidden(torch.tensor([ids])), model.hidden(torch.tensor([ids]))) for ids in kept]
        return sum(float((one - other).norm() / one.norm()) for one, other in pairs) / len(pairs)

    assert lost(chosen) < 0.9 * lost(plain)


def test_a_text_file_stands_in_for_our_texts(tmp_path: Path) -> None:
    parts, path = ModelParts(NANO, device="cpu"), tmp_path / "text.txt"
    path.write_text("A cat sits on a mat. " * 40)
    own, from_file = sequences(parts, ids=600), sequences(parts, path, ids=600)
    words = parts.builder.tokenizer.encode(path.read_text())
    assert from_file[:2] == own[:2] and from_file[2] == words[:512] != own[2]
    assert 600 <= sum(map(len, own)) < 1800
    path.write_text("")
    with pytest.raises(DataError, match="holds no text"):
        sequences(parts, path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="give a text file in UTF-8"):
        sequences(parts, path)
