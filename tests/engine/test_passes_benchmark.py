"""The benchmark of several codes a pass of the language model runs on nano and prints its rows."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest


def test_speed_counts_passes_and_compares_with_one_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    bench = importlib.import_module("lm_passes")
    words = ["speed", "nano", "--scale", "2", "--most", "5", "--modes", "one", "zipar 2", "--json"]
    monkeypatch.setattr(sys, "argv", ["lm_passes.py", *words])
    bench.main()
    one, zipar = json.loads(capsys.readouterr().out)
    # One code a pass is let go after five codes, a wave goes to its end.
    assert (one["passes"], one["codes"], zipar["passes"], zipar["codes"]) == (5, 5, 10, 16)
    assert one["ratio"] == 1 and zipar["ratio"] > 0
