"""Where the reference values lie: here, or in the folder that `--parity-dir` or OPENTAR_PARITY_DIR names."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
# Makes `reference` and `rebuild` importable: tests are imported without a package (import mode importlib).
sys.path.insert(0, str(HERE))

from reference import Reference  # noqa: E402 (after the path)


@pytest.fixture(scope="session")
def parity_dir(pytestconfig: pytest.Config) -> Path:
    """Folder with weights.json and the .npz files."""
    given = pytestconfig.getoption("--parity-dir") or os.environ.get("OPENTAR_PARITY_DIR")
    return Path(given) if given else HERE


@pytest.fixture(scope="session")
def reference(parity_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The reference values; checkpoints are rebuilt once a session."""
    return Reference(parity_dir, tmp_path_factory.mktemp("published"))
