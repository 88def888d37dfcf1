"""The benchmark of several codes a pass runs, on a tiny transformer, and prints its rows."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from opentar.checkpoints import sizes


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "ar_passes.py"
    spec = importlib.util.spec_from_file_location("opentar_ar_passes", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sizes, "ar_lp", lambda codes: sizes.tar_tiny().ar)
    return module


def run(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["ar_passes.py", *words])
    bench.main()


def test_speed_counts_passes_and_compares_with_one_code(bench, monkeypatch, capsys) -> None:
    run(bench, monkeypatch, "speed", "--modes", "one", "zipar 2", "jacobi", "--json")
    rows = {row["mode"]: row for row in json.loads(capsys.readouterr().out)}
    assert {name: row["passes"] for name, row in rows.items() if name != "jacobi"} == {"one": 15, "zipar 2": 9}
    assert rows["one"]["ratio"] == 1
    assert [rows[name]["exact"] for name in ("one", "zipar 2", "jacobi")] == [True, False, True]
    assert all(row["seconds"] > 0 for row in rows.values())
    run(bench, monkeypatch, "speed", "--modes", "one")
    head, line, row = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("| mode | exact | passes |")
    assert line.count("|") == head.count("|") == row.count("|")


@pytest.mark.parametrize("words", [("--limit", "5"), ("--rounds", "0"), ("--modes", "two")])
def test_bad_arguments_are_refused(bench, monkeypatch, capsys, words) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(bench, monkeypatch, "quality", *words)
    assert stopped.value.code == 2
    assert words[0].removeprefix("--") in capsys.readouterr().err


def test_surprise_is_the_loss_of_the_guided_model(bench) -> None:
    from opentar.tokens_to_image.ar import ARConfig, ARTransformer

    model = ARTransformer(
        ARConfig(feature_size=4, codes=4, codebook_size=8, hidden_size=8, heads=2, guidance=1.0, temperature=1.0)
    )
    given, codes = torch.randn(2, 4, 4), torch.randint(8, (2, 4))
    assert torch.allclose(bench.surprise(model, given, codes).mean(), model.loss(given, codes), atol=1e-5)


def test_the_kernel_distance_tells_sets_apart(bench) -> None:
    rng = np.random.default_rng(0)
    one, same, other = rng.normal(size=(80, 8)), rng.normal(size=(80, 8)), rng.normal(1.0, size=(80, 8))
    assert abs(bench.kid(one, same)) < 0.2 < bench.kid(one, other)
