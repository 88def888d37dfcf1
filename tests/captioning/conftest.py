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


@pytest.fixture(scope="session")
def tiny(tiny_model: Path):
    """The tiny model, loaded; it says the same of most pictures."""
    from opentar import Tar

    return Tar.from_pretrained(tiny_model, device="cpu")


@pytest.fixture(scope="session")
def tar():
    """Nano, loaded."""
    from opentar import Tar

    return Tar.from_pretrained("nano", device="cpu")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 40 pictures that differ, one of them damaged, in an empty current folder."""
    import numpy as np
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for number in range(40):
        Image.fromarray(rng.integers(0, 256, (8 + number, 12, 3), np.uint8)).save(folder / f"{number:02}.png")
    (folder / "07.png").write_bytes(b"no picture")
    return Path("photos")
