"""Where the reference values lie: here, or in the folder that `--parity-dir` or OPENTAR_PARITY_DIR names."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest tests/parity --parity-dir DIR`; pytest sees the option only when this folder is named."""
    parser.addoption("--parity-dir", default=None, help="folder with other reference values of the same kind")


@pytest.fixture(scope="session")
def parity_dir(pytestconfig: pytest.Config) -> Path:
    """Folder with weights.json and the .npz files."""
    given = pytestconfig.getoption("--parity-dir", default=None) or os.environ.get("OPENTAR_PARITY_DIR")
    return Path(given) if given else HERE


@pytest.fixture(scope="session")
def rebuild() -> ModuleType:
    """The module rebuild.py; tests are no package, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("opentar_parity_rebuild", HERE / "rebuild.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def checkpoint(
    rebuild: ModuleType, parity_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A function: name of a published file -> path of the rebuilt tiny one, written once a session."""
    out = tmp_path_factory.mktemp("published")

    def path_of(name: str) -> Path:
        return out / name if (out / name).exists() else rebuild.write_checkpoint(parity_dir, name, out)

    return path_of
