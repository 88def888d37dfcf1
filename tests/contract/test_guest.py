"""Nano is a guest: without its folder the library imports, and a model of the same kinds of parts draws and reads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_WITHOUT = """
import importlib, pkgutil, sys, pathlib
import opentar
assert opentar.__file__.startswith(sys.argv[1]), opentar.__file__
names = [module.name for module in pkgutil.walk_packages(opentar.__path__, "opentar.")]
assert not any(name.startswith("opentar.nano") for name in names)
for name in names:
    if name != "opentar.__main__":
        importlib.import_module(name)
sys.path.insert(0, sys.argv[2])
import tiny
folder = tiny.write_tiny_model(pathlib.Path(sys.argv[1]) / "model")
tar = opentar.Tar.from_pretrained(folder)
picture = tar.generate("three red apples", seed=1)[0]
print(picture.size, type(tar.ask(picture, "how many?")).__name__, len(names))
"""


def test_the_library_works_without_nano(root: Path, tmp_path: Path) -> None:
    source = root / "src" / "opentar"
    shutil.copytree(source, tmp_path / "opentar", ignore=shutil.ignore_patterns("nano", "models", "__pycache__"))
    assert not (tmp_path / "opentar" / "nano").exists()
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, str(tmp_path), str(root / "tests")], capture_output=True, text=True,
        check=False, timeout=250, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    size, kind, count = done.stdout.rsplit(" ", 2)
    assert (size, kind) == ("(32, 32)", "str") and int(count) > 100


def test_only_the_command_line_knows_nano(root: Path) -> None:
    package = root / "src" / "opentar"
    knows = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "opentar.nano" in path.read_text(encoding="utf-8") and "nano" not in path.relative_to(package).parts
    ]
    assert sorted(knows) == ["commands/data.py", "commands/quantize.py", "commands/words.py", "commands/work.py"]


def test_tests_of_the_library_need_no_nano(root: Path) -> None:
    """What tests of a library folder import is of the library: they pass where nano is deleted."""
    folders = ("core", "nn", "language", "image_to_tokens", "tokens_to_image", "engine", "train", "eval", "checkpoints")
    paths = [path for folder in folders for path in (root / "tests" / folder).rglob("*.py")]
    assert len(paths) > 40
    assert [path.name for path in paths if "opentar.nano" in path.read_text(encoding="utf-8")] == []
