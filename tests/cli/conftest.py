"""One tiny model for all tests of this folder."""

import importlib.util
import json
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


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the command in this process, in an empty folder: returns (exit code, stdout, stderr)."""
    from opentar.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*argv: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in argv])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """An ordinary picture: a gradient of 40 x 30 pixels."""
    from PIL import Image

    path = tmp_path / "picture.png"
    image = Image.new("RGB", (40, 30))
    image.putdata([(6 * x, 8 * y, 90) for y in range(30) for x in range(40)])
    image.save(path)
    return path


@pytest.fixture
def refused(run, tmp_path):
    """Run, check the form of the refusal and that nothing in the folder changed or came; returns the line."""

    def found():
        return {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")}

    def call(*argv, code=2):
        before = found()
        given, out, err = run(*argv)
        lines = err.splitlines()
        told = json.loads(out)["error"]["message"] if "--json" in argv else ""
        assert (given, bool(out)) == (code, "--json" in argv), err
        assert lines[0] == f"error: {told or lines[0].removeprefix('error: ')}"
        assert len(lines) == 1, err
        assert lines[0].startswith("error: ")
        assert "Traceback" not in err
        assert found() == before
        return lines[0]

    return call
