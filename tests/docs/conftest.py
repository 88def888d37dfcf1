"""One tiny model for all tests of this folder."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model; do not change it."""
    # By its path: `tests` is no package, and another one of that name may be installed.
    spec = importlib.util.spec_from_file_location("opentar_tests_tiny", Path(__file__).parents[1] / "tiny.py")
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    return tiny.write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
