"""Habits that research code loses: each forbidden thing has one place or none."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from sources import files, python_files, short, tree

ENVIRONMENT = "src/opentar/core/environment.py"
# Written in pieces, or this file would be its own finding.
_MACHINE_PATHS = re.compile(r"(?<![\w.])/(ro)ot/|(?<![\w.])/(wo)rk/|/(ho)me/\w|/(Us)ers/\w|[A-Z]:\\+(Us)ers", re.ASCII)
_TEXT = {".py", ".md", ".toml", ".txt", ".json", ".yaml", ".yml", ".ps1", ".cfg", ".tsv", ".csv", ""}


def _names(node: ast.AST) -> str:
    """`os.environ.get` of an attribute chain, an empty string for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        front = _names(node.value)
        return f"{front}.{node.attr}" if front else ""
    return ""


def _imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def test_environment_is_read_in_one_module() -> None:
    asks = {"os.environ", "os.getenv", "os.putenv", "os.environb"}
    offenders = [
        short(path)
        for path in python_files("src")
        if asks & ({_names(node) for node in ast.walk(tree(path))} | _imported(path)) and short(path) != ENVIRONMENT
    ]
    assert offenders == []


def test_no_pickles() -> None:
    """The exception of the pickle module may be named (torch.load raises it), its reader and writer may not."""
    modules = {"cPickle", "dill", "joblib", "shelve", "marshal"}
    calls = {f"pickle.{name}" for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler")}
    offenders = []
    for path in python_files("src"):
        imported = _imported(path)
        if imported & (modules | calls) or calls & {_names(node) for node in ast.walk(tree(path))}:
            offenders.append(short(path))
    assert offenders == []


def test_torch_load_takes_weights_only() -> None:
    offenders = []
    for path in python_files("src"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and _names(node.func) == "torch.load":
                safe = [word.value for word in node.keywords if word.arg == "weights_only"]
                if not (safe and isinstance(safe[0], ast.Constant) and safe[0].value is True):
                    offenders.append(f"{short(path)}:{node.lineno}")
    assert offenders == []


def test_no_remote_code_and_no_loose_loading() -> None:
    offenders = []
    for path in python_files("src"):
        for call in (node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)):
            loads = isinstance(call.func, ast.Attribute) and call.func.attr == "load_state_dict"
            for word in call.keywords:
                value = word.value.value if isinstance(word.value, ast.Constant) else None
                if (word.arg == "trust_remote_code" and value) or (loads and word.arg == "strict" and value is False):
                    offenders.append(f"{short(path)}:{call.lineno} {word.arg}")
    assert offenders == []


def test_no_bare_except() -> None:
    handlers = [(path, node) for path in python_files("src") for node in ast.walk(tree(path))]
    bare = [f"{short(p)}:{n.lineno}" for p, n in handlers if isinstance(n, ast.ExceptHandler) and n.type is None]
    assert bare == []


def test_no_path_of_one_machine() -> None:
    offenders = []
    for path in files():
        if path.suffix in _TEXT and path.stat().st_size < 2_000_000:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            offenders += [f"{short(path)}:{n}" for n, line in enumerate(lines, 1) if _MACHINE_PATHS.search(line)]
    assert offenders == []


def test_the_pattern_of_machine_paths_finds_them() -> None:
    for line in ("cd /ro" + "ot/x", "x='/wo" + "rk/main'", "C:\\Us" + "ers\\me", "/ho" + "me/me"):
        assert _MACHINE_PATHS.search(line), line
    assert not _MACHINE_PATHS.search("src/network/main.py and a/work/b")


def test_every_module_says_what_it_is() -> None:
    assert [short(path) for path in python_files("src") if not ast.get_docstring(tree(path))] == []


def test_public_functions_are_documented() -> None:
    missing = []
    for path in python_files("src"):
        for node in tree(path).body:
            named = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
            if named and not ast.get_docstring(node):
                missing.append(f"{short(path)}::{node.name}")
    assert missing == []


def _callbacks(module: ast.Module) -> list[str]:
    """Every spelled-out type of a callback that counts steps, whether it gets a name or stands at a parameter."""
    kinds = ("Callable[[int, int], None]", "Callable[[str, int, int], None]")
    texts = [ast.unparse(node) for node in ast.walk(module) if isinstance(node, ast.Subscript)]
    return [text for text in texts if text.endswith(kinds)]


def test_progress_has_one_type_of_callback() -> None:
    """All else imports `Progress` and `Count`."""
    found = {short(path) for path in python_files("src") if _callbacks(tree(path))}
    assert found == {"src/opentar/core/progress.py"}


def test_every_way_to_spell_a_callback_is_found() -> None:
    for line in (
        "Step = Callable[[int, int], None]",
        "Step: TypeAlias = Callable[[str, int, int], None]",
        "Step = collections.abc.Callable[[int, int], None]",
        "def work(step: Callable[[int, int], None] | None) -> None: ...",
    ):
        assert len(_callbacks(ast.parse(line))) == 1, line
    assert _callbacks(ast.parse("Note = Callable[[str], None]")) == []
