"""Every reference value against our classes; and the comparison itself: it finds new values and wrong ones."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference import CHECKS, Reference

from opentar.image_to_tokens.preprocess import to_pixels
from opentar.vocab import Vocab

pytestmark = [pytest.mark.parity, pytest.mark.timeout(600)]

COVERED = {
    "ta_tok": {"codes", "features before the bottleneck", "decoder", "codebook rows"},
    "llm": {
        "prompt of a drawing",
        "logits of a drawing",
        "greedy ids of a drawing",
        "constrained first code",
        "prompt of a reading",
        "logits of a reading",
        "greedy ids of a reading",
    },
    "ar": {
        "logits, conditional",
        "logits, unconditional",
        "first logits with guidance",
        "guided greedy codes, cached",
    },
    "vq": {"pixels", "codes"},
    "sana": {"latents", "pixels"},
    "sampling": {"what is kept", "probabilities", "pooling", "position table"},
}
"""What a folder of reference values must hold at least, or the tests would pass on nothing."""


@pytest.mark.parametrize(
    # 72 M weights on 256 x 256 pixels: about a minute on one core.
    "part",
    [pytest.param(part, marks=pytest.mark.slow) if part == "vq" else part for part in CHECKS],
)
def test_every_value_is_met(reference: Reference, part: str) -> None:
    if part == "sana":
        pytest.importorskip("diffusers")
    checks = list(CHECKS[part](reference))
    assert [check for check in checks if not check.right] == []
    assert COVERED[part] <= {check.what for check in checks if check.values}
    assert all(check.part == part for check in checks)


@pytest.fixture
def other(reference: Reference, tmp_path: Path) -> Reference:
    """A copy of the folder, to be changed."""
    folder = tmp_path / "other"
    shutil.copytree(reference.folder, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return Reference(folder, reference.out)


def rewrite(reference: Reference, stem: str, **values: np.ndarray) -> None:
    np.savez(reference.folder / f"{stem}.npz", **{**reference.values(stem), **values})


@torch.no_grad()
def test_other_pictures_and_scales_are_found(other: Reference) -> None:
    """Values of our own making, which must agree with themselves: what is tested is the search."""
    model = other.ta_tok()
    config = model.config
    vocab = Vocab(text_size=1, codebook_size=config.quantizer.codebook_size, grid_side=config.vision.grid_side)
    (other.folder / "pictures.json").write_text(json.dumps({"mine": [50, 90, 7]}))
    made = {}
    for name in ("mine", "any60x40"):
        pixels = to_pixels(Image.fromarray(other.picture(name)), config.vision.image_size)[None]
        made[f"{name}.aa1.p2.indices"] = model.encode(pixels, vocab.scale(1)).numpy()
        made[f"{name}.aa1.p2.margin"] = np.ones(vocab.scale(1).length, dtype=np.float32)
        features = model.task_features(model.features(pixels, vocab.scale(1)))
        made[f"{name}.aa1.p2.vq_feats"] = features.numpy()
    assert (other.picture("mine").shape, other.picture("any60x40").shape) == ((50, 90, 3), (60, 40, 3))
    rewrite(other, "ta_tok", **made)
    checks = {check.key: check for check in CHECKS["ta_tok"](other)}
    assert set(made) - set(checks) == {f"{name}.aa1.p2.margin" for name in ("mine", "any60x40")}
    assert all(check.right for check in checks.values())


def test_wrong_values_are_found(other: Reference) -> None:
    keys = {"ta_tok": "dec.indices", "sampling_pooling": "keep.", "llm": ".last_logits"}
    for stem, pattern in keys.items():
        values = other.values(stem)
        key = next(key for key in values if pattern in key)
        changed = values[key].copy()
        place = (0,) * changed.ndim
        changed[place] = not changed[place] if changed.dtype == bool else changed[place] + 1
        rewrite(other, stem, **{key: changed})
    wrong = [check.part for part in ("ta_tok", "sampling", "llm") for check in CHECKS[part](other) if not check.right]
    assert set(wrong) == {"ta_tok", "sampling", "llm"}


def test_ties_may_go_either_way(other: Reference) -> None:
    values = other.values("ta_tok")
    key = next(key for key in values if key.endswith(".indices"))
    codes, margin = values[key].copy(), values[f"{key.removesuffix('indices')}margin"].copy()
    codes[0, 3], margin[3] = (codes[0, 3] + 1) % 7, 1e-6
    rewrite(other, "ta_tok", **{key: codes, f"{key.removesuffix('indices')}margin": margin})
    check = next(check for check in CHECKS["ta_tok"](other) if check.key == key)
    assert check.right
    assert check.values == codes.size - int((margin < 1e-4).sum())


def test_the_benchmark_prints_the_table(other: Reference, root: Path, monkeypatch, capsys) -> None:
    path = root / "benchmarks" / "parity.py"
    spec = importlib.util.spec_from_file_location("opentar_parity_benchmark", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    arguments = ["parity.py", "--parity-dir", str(other.folder), "--parts", "sampling"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert bench.main() == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| sampling")]
    assert {row.split("|")[2].strip() for row in rows} == COVERED["sampling"]
    values = other.values("sampling_pooling")
    rewrite(other, "sampling_pooling", pool_out2=values["pool_out2"] + 1)
    assert bench.main() == 1
    assert "(too large)" in capsys.readouterr().out
