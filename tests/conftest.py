"""Shared by all tests: offline, quiet, one thread, nothing written outside a test's own folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before any library reads them: no test may reach a model hub or the user's own settings.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for _name in ("OPENTAR_CACHE", "OPENTAR_DEVICE", "OPENTAR_DEBUG", "OPENTAR_TERMINAL_PICTURES"):
    os.environ.pop(_name, None)

ROOT = Path(__file__).resolve().parents[1]
# Tests are imported without a package; what several folders share lies beside this file.
sys.path.insert(0, str(Path(__file__).parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--parity-dir DIR`: other reference values of the form of tests/parity."""
    parser.addoption("--parity-dir", default=None, help="folder with reference values for tests/parity")


@pytest.fixture
def root() -> Path:
    """The folder of the repository."""
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The cache of the test run is empty and its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENTAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests last; tests for a GPU only where there is one."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if item.get_closest_marker("gpu"):
                    item.add_marker(pytest.mark.skip(reason="no CUDA device"))
