"""The tiny published files of these tests, made once and copied where a test changes them."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from opentar.core.errors import OpenTarError, WeightsError

HERE = Path(__file__).resolve().parent
PARITY = HERE.parent / "parity"
sys.path.insert(0, str(HERE))


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"opentar_tests_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the published files of a tiny model; do not change them."""
    from published_files import write_files

    folder = tmp_path_factory.mktemp("published")
    ta_tok = _module(PARITY / "rebuild.py").write_checkpoint(PARITY, "ta_tok.pth", folder / "rebuilt")
    return write_files(folder / "files", PARITY, ta_tok)


@pytest.fixture
def own(published: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A function: name of a published file or folder -> path of a copy that a test may change."""

    def copied(name: str) -> Path:
        target = tmp_path / "own" / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (published / name).is_dir() else shutil.copyfile)(published / name, target)
        return target

    return copied


@pytest.fixture(autouse=True)
def tiny_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The AR de-tokenizers of these tests are smaller than any published one."""
    from published_files import SIZE, SIZE_NAME

    from opentar.tokens_to_image import published

    monkeypatch.setitem(published.SIZES, SIZE_NAME, SIZE)


@pytest.fixture
def refused(published: Path, tmp_path: Path) -> Callable[..., str]:
    """Import with some arguments changed; it must fail with an error of that kind and write nothing."""

    from opentar.checkpoints.convert.importing import import_tar

    def call(kind: type[OpenTarError] = WeightsError, **changes: Any) -> str:
        given = {"llm": published / "Tar-1.5B", "ta_tok": published / "ta_tok.pth"} | changes
        with pytest.raises(kind) as caught:
            import_tar(tmp_path / "out", **given)
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / ".out.partial").exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return call
