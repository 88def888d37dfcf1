"""Usage lines, help pages, and what wrong usage is answered with."""

import json
import re

import pytest

from opentar import cli


def _commands(app, path=("opentar",)):
    """Every command and group with its path."""
    yield path
    for name in app:
        if not name.startswith("-"):
            yield from _commands(app[name], (*path, name))


PATHS = list(_commands(cli.build_app()))


def _page(run, path):
    code, out, err = run(*path[1:], "--help")
    assert (code, err) == (0, "")
    return out


def _panel(page, title):
    found = re.search(rf"^╭─ {title} ─+╮\n(.*?)^╰", page, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def test_all_commands_are_walked():
    assert {("opentar",), ("opentar", "export"), ("opentar", "export", "qwen2"), ("opentar", "generate")} < set(PATHS)


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_usage_names_the_command_and_its_arguments(run, path):
    page = _page(run, path)
    usage = page.splitlines()[0]
    assert usage.startswith(f"Usage: {' '.join(path)} ")
    rest = usage.removeprefix(f"Usage: {' '.join(path)} ")
    if _panel(page, "Commands"):
        assert rest == "COMMAND"
        return
    arguments = re.findall(r"^│ [* ]*([A-Z]+)  ", _panel(page, "Arguments"), re.MULTILINE)
    options = _panel(page, "Parameters")
    # A required option stands in the line with the kind of its value: --out PATH.
    required = {
        f"--{name} {kind}" for name, kind in re.findall(r"^│ +\*  --([a-z-]+)(?: -\w)? ([A-Z]+)", options, re.M)
    }
    named = re.findall(r"\b[A-Z]+\b", re.sub(r"--[a-z-]+ [A-Z]+|\[OPTIONS\]", "", rest))
    assert named == arguments
    assert all(one in rest for one in required)
    assert ("[OPTIONS]" in rest) == bool(options)


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_fits_80_columns_and_speaks_plainly(run, path):
    page = _page(run, path)
    assert max(map(len, page.splitlines())) <= 80
    for word in ("spell", "paint", "who ", "nonsense", "machine of"):
        assert word not in page.lower(), word
    # Descriptions stand in one column a panel.
    starts = {
        len(row) - len(row.lstrip("│ ")) for row in re.findall(r"^│ {10,}\S.*$", _panel(page, "Parameters"), re.M)
    }
    assert len(starts) <= 1


@pytest.mark.parametrize("path", [("generate",), ("export", "qwen2"), ()], ids=" ".join)
def test_help_is_a_command_too(run, path):
    assert run("help", *path) == run(*path, "--help")


def test_version(run):
    from opentar import __version__

    assert run("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("generate", "a", "cat"), "quote the prompt: 'a cat'"),
        (("generate", "a", "cat", "--seed", "3"), "quote the prompt: 'a cat'"),
        (("generate", "--seed", "3", "a", "red", "cat"), "quote the prompt: 'a red cat'"),
        (("ask", "p.png", "how", "many?"), "quote the question: 'how many?'"),
        (("describe", "my", "photo.png"), "quote the name: 'my photo.png'"),
        (("chat", "my", "photo.png"), "quote the name: 'my photo.png'"),
        (("train", "nano", "twice", "--out", "x"), "'twice' is one argument too many"),
    ],
)
def test_a_text_or_name_without_quotes(refused, picture, argv, told):
    picture.rename(picture.with_name("my photo.png"))
    assert told in refused(*argv)


@pytest.mark.parametrize(
    ("argv", "kind", "code"),
    [
        (("generate", "a dog", "--model", "nanoo"), "ModelError", 2),
        (("generate", "a dog", "--sede", "1"), "UnknownOptionError", 2),
        (("describe", "missing.png"), "ImageError", 2),
        (("tokens",), "MissingArgumentError", 2),
        (("nothing",), "UnknownCommandError", 2),
        (("export", "nothing"), "UnknownCommandError", 2),
        (("generate", "a", "dog"), "UnusedCliTokensError", 2),
        (("info", "."), "ModelError", 2),
    ],
)
def test_errors_as_json(run, argv, kind, code):
    given, out, err = run(*argv, "--json")
    told = json.loads(out)["error"]
    assert (given, told["type"], told["exit_code"]) == (code, kind, code)
    assert err == f"error: {told['message']}\n"


@pytest.mark.parametrize(
    ("argv", "where"),
    [
        (("generate", "a dog", "--sede", "1"), "opentar generate --help"),
        (("data", "sheet", "--split", "tset"), "opentar data sheet --help"),
        (("nothing",), "opentar --help"),
    ],
)
def test_wrong_usage_says_where_to_look(refused, argv, where):
    assert refused(*argv).endswith(f"See: {where}")
