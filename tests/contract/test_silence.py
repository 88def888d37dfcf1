"""Importing is free of side effects, and asking for help is quick."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import opentar

_IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
"""
_HELP = """
import sys
from opentar.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
heavy = {"torch", "transformers", "diffusers", "tokenizers", "pyarrow", "accelerate", "scipy"}
print("LOADED", sorted(heavy & set(sys.modules)), "CODE", code or 0)
"""


def _modules() -> list[str]:
    found = pkgutil.walk_packages(opentar.__path__, "opentar.", onerror=_raise)
    return ["opentar", *(module.name for module in found if module.name != "opentar.__main__")]


def _raise(name: str) -> None:
    raise ImportError(f"{name} cannot be imported")


def _clean(script: str, arguments: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    """Run `script` in a new process with an empty home, working and temporary folder."""
    source = str(Path(opentar.__file__).parents[1])
    folders = ("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "LOCALAPPDATA")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OPENTAR", "PYTEST", "XDG"))}
    environment |= dict.fromkeys(folders, str(home)) | {"PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)


def test_every_module_imports_in_silence(tmp_path: Path) -> None:
    done = _clean(_IMPORT_ALL, _modules(), tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == ""
    assert done.stderr == ""
    # torch itself makes this empty folder when its compiler is imported, which transformers does.
    assert [path for path in tmp_path.rglob("*") if not path.name.startswith("torchinductor_")] == []


def test_importing_the_package_loads_no_torch(tmp_path: Path) -> None:
    script = "import opentar, sys; opentar.OpenTarError; dir(opentar); print('torch' in sys.modules)"
    assert _clean(script, [], tmp_path).stdout == "False\n"


def test_help_loads_no_torch(tmp_path: Path) -> None:
    commands = ["demo", "generate", "ask", "describe", "reconstruct", "tokens", "train", "eval", "info"]
    commands += ["import", "pull"]
    for arguments in (["--help"], ["--version"], *([command, "--help"] for command in commands)):
        done = _clean(_HELP, arguments, tmp_path)
        assert done.stdout.splitlines()[-1:] == ["LOADED [] CODE 0"], (arguments, done.stdout, done.stderr[-2000:])
    assert list(tmp_path.rglob("*")) == []


def test_python_m_opentar(tmp_path: Path) -> None:
    script = "import runpy, sys; sys.argv = ['opentar', '--version']; runpy.run_module('opentar', run_name='__main__')"
    done = _clean(script, [], tmp_path)
    assert opentar.__version__ in done.stdout, done.stderr
    assert done.returncode == 0
