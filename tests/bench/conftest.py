"""One tiny model for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from opentar.bench.facts import Facts, facts_of


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model; do not change it."""
    return tiny.write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def facts(tiny_model: Path) -> Facts:
    """What is known of the tiny model before it is loaded."""
    return facts_of(tiny_model)
