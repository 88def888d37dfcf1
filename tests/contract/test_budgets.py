"""Files and functions stay small, and no file is a room without a name of its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from sources import python_files, short, tree

FILE_LINES = 500
FUNCTION_LINES = 60
LONG_FUNCTION_LINES = 80
# The training step and the sampling loops may be longer: `file::function`.
LONG_FUNCTIONS: set[str] = set()
NAMELESS = {"util.py", "utils.py", "helper.py", "helpers.py", "misc.py", "common.py"}


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def test_files_stay_under_the_cap() -> None:
    lengths = {short(path): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    assert {name: length for name, length in lengths.items() if length > FILE_LINES} == {}


def test_functions_stay_short() -> None:
    too_long = []
    for path in python_files("src", "benchmarks"):
        for name, length in _functions(path):
            limit = LONG_FUNCTION_LINES if f"{short(path)}::{name}" in LONG_FUNCTIONS else FUNCTION_LINES
            if length > limit:
                too_long.append(f"{short(path)}::{name} has {length} lines, at most {limit}")
    assert too_long == []


def test_list_of_long_functions_is_not_stale() -> None:
    lengths = {f"{short(path)}::{name}": length for path in python_files("src") for name, length in _functions(path)}
    assert {name for name in LONG_FUNCTIONS if lengths.get(name, 0) <= FUNCTION_LINES} == set()


def test_no_file_without_a_name_of_its_own() -> None:
    assert [short(path) for path in python_files() if path.name in NAMELESS] == []
