"""The files that the contract tests read: what git knows or would add, so that environments and outputs stay out."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_HIDDEN = {".git", ".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", "runs", "out"}


@cache
def files(*folders: str) -> tuple[Path, ...]:
    """Every file of the repository below `folders` (all when none is given)."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *folders]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        # An unpacked archive has no git; the same files are found by walking.
        found = [path for folder in folders or (".",) for path in (ROOT / folder).rglob("*")]
        listed = [str(path.relative_to(ROOT)) for path in found if not _HIDDEN & set(path.relative_to(ROOT).parts)]
    return tuple(sorted({ROOT / name for name in listed if name and (ROOT / name).is_file()}))


def python_files(*folders: str) -> list[Path]:
    """The Python files below `folders`; there must be some, or a test would pass on nothing."""
    found = [path for path in files(*folders) if path.suffix == ".py"]
    assert found, folders
    return found


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a Python file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def short(path: Path) -> str:
    """The path as it stands in the repository."""
    return path.relative_to(ROOT).as_posix()
