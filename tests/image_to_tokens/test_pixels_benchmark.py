"""The benchmark of pixels runs on a tiny model and says what is the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def test_every_work_gives_rows(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("diffusers")
    path = Path(__file__).parents[2] / "benchmarks" / "pixels.py"
    from opentar.core import environment

    done = subprocess.run(
        [sys.executable, str(path), "--tiny", "--json", "--rounds", "1"],
        capture_output=True,
        text=True,
        check=False,
        env=environment.for_child(OPENTAR_CACHE=str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["work"].split(",")[0] for row in rows} == {
        "2 pictures to 144 codes each", "rows of 81 codes", "VQGAN", "SANA's autoencoder",
    }  # fmt: skip
    assert all(row["seconds"] > 0 and row["ratio"] > 0 for row in rows)
    exact = {"before", "torch float32", "openvino-float32", "asked for", "float32, channels last"}
    for row in rows:
        least = (1 if row["in"] == "share" else 100) if row["way"] in exact else (0.8 if row["in"] == "share" else 40)
        assert row["same"] >= least, row
