"""Documents say what is so: commands parse, Python runs, paths exist, links resolve, tables agree with the code."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from opentar.cli import build_app
from opentar.commands.options import STDIN

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
# What a shell line may start with besides our own commands.
_KNOWN = {"curl", "echo", "pip", "tensorboard"}


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _blocks(name: str, language: str) -> list[str]:
    return [body for kind, body in _BLOCK.findall(_text(name)) if kind == language]


def _prose(name: str) -> str:
    """The document without code blocks and HTML comments."""
    return re.sub(r"<!--.*?-->", "", _BLOCK.sub("", _text(name)), flags=re.DOTALL)


def _calls(line: str) -> list[list[str]]:
    """The commands of a shell line: comments dropped, pipes cut, no redirection to a file."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    calls: list[list[str]] = [[]]
    for token in lexer:
        if token in ("|", "&&", ";"):
            calls.append([])
        else:
            calls[-1].append(token)
    return [call[: call.index(">")] if ">" in call else call for call in calls if call]


def _shell_calls(name: str) -> list[list[str]]:
    lines = "".join(_blocks(name, "sh")).replace("\\\n", " ").splitlines()
    return [call for line in lines for call in _calls(line)]


def _rows(name: str, heading: str) -> list[list[str]]:
    """Cells of the first table under a heading, without its head."""
    section = re.split(r"^#{1,6} ", _text(name).split(f"## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert len(lines) > 2, heading
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def _ticked(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _parse(arguments: list[str]) -> None:
    tokens = [STDIN if token == "-" else token for token in arguments]
    build_app().parse_args(tokens, exit_on_error=False, print_error=False)


def _targets() -> set[str]:
    phony = re.search(r"^\.PHONY: (.+)$", _text("Makefile"), re.MULTILINE)
    assert phony is not None
    return set(phony[1].split())


def test_the_parser_refuses_what_is_wrong() -> None:
    """Else the next test would pass on anything."""
    from cyclopts import CycloptsError

    for wrong in (["ask"], ["generate", "a dog", "--bogus"], ["bogus"], ["train", "nano"]):
        with pytest.raises(CycloptsError):
            _parse(wrong)
    assert _calls('echo "a | b" | opentar generate -  # why') == [["echo", "a | b"], ["opentar", "generate", "-"]]
    assert _calls("opentar generate a -o - > a.png") == [["opentar", "generate", "a", "-o", "-"]]


@pytest.mark.parametrize("name", NAMES)
def test_every_shell_line_is_known(name: str) -> None:
    for call in _shell_calls(name):
        match call:
            case ["opentar", *arguments]:
                _parse(arguments)
            case ["make", target, *_]:
                assert target in _targets(), call
            case ["python", script, *_] if script.endswith(".py"):
                assert (ROOT / script).is_file(), call
            case [program, *_]:
                assert program in _KNOWN, f"{name}: {call}"


def test_the_command_line_is_shown_at_all() -> None:
    shown = {call[1] for name in NAMES for call in _shell_calls(name) if call[0] == "opentar"}
    assert shown == {name for name in build_app() if not name.startswith("-")}


def _help_options(command: list[str]) -> set[str]:
    page = io.StringIO()
    build_app().help_print(command, console=Console(file=page, width=300, color_system=None))
    # An option stands at the start of its row; the texts beside it may speak of others.
    rows = re.findall(r"^│ [* ]*(--.*?)  ", page.getvalue(), re.MULTILINE)
    return {option for row in rows for option in _OPTION.findall(row)}


def _leaves() -> list[str]:
    app = build_app()
    names = [name for name in app if not name.startswith("-")]
    below = {name: [sub for sub in app[name] if not sub.startswith("-")] for name in names}
    return [leaf for name in names for leaf in ([f"{name} {sub}" for sub in below[name]] or [name])]


def test_cli_page_has_every_command_in_full() -> None:
    assert set(re.findall(r"^## opentar (.+)$", _text("docs/cli.md"), re.MULTILINE)) == set(_leaves())
    for leaf in _leaves():
        documented = {option for row in _rows("docs/cli.md", f"opentar {leaf}") for option in _ticked(row[0])}
        assert documented == _help_options(leaf.split()), leaf


def test_environment_table_names_real_variables() -> None:
    code = _text("src/opentar/core/environment.py")
    named = [name for row in _rows("docs/cli.md", "Environment") for name in _ticked(row[0])]
    assert [name for name in named if f'"{name}"' not in code] == []


@pytest.mark.parametrize("name", [name for name in NAMES if _blocks(name, "python")])
def test_python_blocks_run(name: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace a document, in an empty folder, with the tiny model in nano's place."""
    monkeypatch.chdir(tmp_path)
    # A module of its own: dataclasses and pickles of a snippet look theirs up by name.
    namespace: dict[str, object] = {"__name__": "opentar_document"}
    for number, block in enumerate(_blocks(name, "python"), 1):
        code = block.replace('"nano"', repr(str(tiny_model)))
        exec(compile(code, f"{name}, Python block {number}", "exec"), namespace)


def test_readme_has_the_api_in_six_lines() -> None:
    block = _blocks("README.md", "python")[0]
    assert 'Tar.from_pretrained("nano")' in block
    assert len([line for line in block.splitlines() if line.strip()]) == 6


@pytest.mark.parametrize("name", ["README.md", "docs/architecture.md"])
def test_map_of_the_code_is_true(name: str) -> None:
    paths = [_ticked(row[0])[0] for row in _rows(name, "Map of the code")]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [path for path in paths if path.endswith("/") != (ROOT / path).is_dir()] == []


def test_map_of_the_code_is_whole() -> None:
    """Everything directly below the package stands in the map; models/ holds weights, not code."""
    mapped = {_ticked(row[0])[0].rstrip("/") for row in _rows("docs/architecture.md", "Map of the code")}
    package = ROOT / "src" / "opentar"
    there = {path for path in package.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert {path.relative_to(ROOT).as_posix() for path in there if path.name != "__init__.py"} - mapped == set()


@pytest.mark.parametrize("name", NAMES)
def test_paths_in_the_text_exist(name: str) -> None:
    paths = [path for path in _ticked(_prose(name)) if re.match(r"(src|tests|benchmarks|docs)/[\w./]*$", path)]
    # The weights are made by training and may not be there yet.
    assert [path for path in paths if not (ROOT / path).exists() and "/models/" not in path] == []


@pytest.mark.parametrize("name", NAMES)
def test_links_resolve(name: str) -> None:
    for target in _LINK.findall(_prose(name)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        other = (ROOT / name).parent / path if path else ROOT / name
        assert other.exists(), f"{name}: {target}"
        if anchor:
            headings = re.findall(r"^#{1,6} (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{name}: {target}"


def test_documents_link_one_another() -> None:
    linked = {Path(target).name for target in _LINK.findall(_prose("README.md"))}
    assert {Path(name).name for name in NAMES} - {"README.md"} <= linked


def test_table_of_stages_agrees_with_the_code() -> None:

    from opentar.nano.steps import recipe_of

    told = {}
    for stage, needs, gates, _ in _rows("docs/train.md", "Stages and gates"):
        numbers = [float(number) for number in re.findall(r"` ([\d.]+)", gates)]
        told[_ticked(stage)[0]] = (tuple(_ticked(needs)), tuple(zip(_ticked(gates), numbers, strict=True)))
    real = {
        name: (step.needs, tuple((gate.score, gate.at_least) for gate in step.gates))
        for name, step in recipe_of("nano").steps.items()
    }
    assert told == real


def test_bundled_marks_come_in_pairs() -> None:
    """What stands between them is true only where the weights are part of the package."""
    text = _text("README.md")
    assert re.findall(r"<!-- (/?bundled) -->", text) in ([], *(["bundled", "/bundled"] * n for n in range(1, 9)))
    outside = re.sub(r"<!-- bundled -->.*?<!-- /bundled -->", "", text, flags=re.DOTALL)
    if "<!-- bundled -->" in text:
        assert "the bundled model" not in outside.lower()


def test_first_picture_benchmark_prints_its_table(tiny_model: Path, tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "first_picture.py"
    command = [sys.executable, str(script), "--model", str(tiny_model), "--runs", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in rows[2:]] == ["1", "worst", "limit"]
    first, following, answer, peak = (float(cell) for cell in rows[2][1:])
    assert first > following > 0
    assert answer > 0
    assert peak > 0 or sys.platform == "win32"


_ANSWERED = re.compile(r'^opentar (?:ask|describe) (\w+)\.png(?: "([^"]+)")? +# (.+)$', re.MULTILINE)
_DRAWN = {"apples": ("three red apples on a light blue background", 0), "car": ("a purple car", 1)}


def test_answers_in_the_documents_are_those_of_nano() -> None:
    """Each example with an answer beside it is asked about the picture that the documents draw under that name."""
    from opentar import Tar

    tar = Tar.from_pretrained("nano")
    pictures = {name: tar.generate(prompt, seed=seed)[0] for name, (prompt, seed) in _DRAWN.items()}
    told = [found for name in NAMES for block in _blocks(name, "sh") for found in _ANSWERED.findall(block)]
    assert len(told) >= 8
    for name, question, answer in told:
        said = tar.ask(pictures[name], question) if question else tar.describe(pictures[name])
        assert said == answer, question
    written = "".join(_blocks("README.md", "python") + _blocks("README.md", "sh"))
    assert all(prompt in written for prompt, _ in _DRAWN.values())
    code = re.findall(
        r"print\(tar\.(ask|describe)\(.*?(?:\"([^\"]+)\")?\)\)  # (.+)$", _blocks("README.md", "python")[0], re.M
    )
    assert len(code) == 2
    for kind, question, answer in code:
        said = tar.ask(pictures["apples"], question) if kind == "ask" else tar.describe(pictures["apples"])
        assert said == answer
