"""Imports point one way; the contract itself stands in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_layers_hold_and_know_every_module(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run(
        [*command, "--cache-dir", str(tmp_path)], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "1 kept, 0 broken" in done.stdout
