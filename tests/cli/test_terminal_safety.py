"""What others wrote never reaches a terminal raw: names, licences, words and answers of models, file names, prompts."""

import json
import shutil
from dataclasses import replace

import pytest

from opentar import Tar, cli
from opentar.checkpoints import find, model_folder
from opentar.core.atomic import atomic_folder
from opentar.core.errors import printable, printable_line
from opentar.core.manifest import MANIFEST
from opentar.core.picture_formats import read_metadata

FORGED = "error: forged"
HOSTILE = f"evil\x1b]0;title\x07\x1b[31m\x9b2J\x85\u202egnp.exe\u2028苹果 🍎\n{FORGED}"


def test_printable_escapes_controls_and_keeps_writing():
    assert printable("苹果 🍎👩‍🚀\tx\ny") == "苹果 🍎👩‍🚀\tx\ny"
    assert printable("a\x1b[31m\x07\x9b\u202e\u2029\x7f\r") == r"a\x1b[31m\x07\x9b\u202e\u2029\x7f\r"
    assert printable_line("苹果\n🍎") == r"苹果\n🍎"


@pytest.fixture
def hostile_model(tiny_model, tmp_path):
    """The tiny model with hostile words about itself, all hashes right."""
    config = replace(
        model_folder.read_config(tiny_model),
        name=HOSTILE,
        licence=HOSTILE,
        data=HOSTILE,
        part_licences={"ta_tok": HOSTILE},
        known_words=("dog", HOSTILE),
    )
    count = len(model_folder.read_words(tiny_model))
    with atomic_folder(tmp_path / "ta_tok") as part:
        shutil.copytree(tiny_model / "ta_tok", part, dirs_exist_ok=True)
        (part / MANIFEST).unlink()
        words = "".join(f"{printable(HOSTILE).splitlines()[0]}\x1b[2J{index}\n" for index in range(count))
        (part / "words.txt").write_text(words, encoding="utf-8")
    parts = {part: tiny_model / part for part in config.parts} | {"ta_tok": tmp_path / "ta_tok"}
    model_folder.write_model(tmp_path / "hostile", config, parts)
    return tmp_path / "hostile"


def _leaves(app, path=()):
    names = [name for name in app if not name.startswith("-")]
    for name in names:
        yield from _leaves(app[name], (*path, name))
    if not names:
        yield path


def _calls(model, picture):
    """Calls of every command with hostile names; some do their work, some fail."""
    own = ("--model", model)
    return {
        ("demo",): [own, ("--model", HOSTILE)],
        ("generate",): [(HOSTILE, *own), ("a dog", "--model", HOSTILE), ("a", HOSTILE), ("--prompts", HOSTILE)],
        ("reconstruct",): [(picture, *own), (HOSTILE,), (picture, "--out", HOSTILE)],
        ("ask",): [(picture, HOSTILE, *own), (picture, picture, HOSTILE), (picture, "a", HOSTILE)],
        ("describe",): [(picture, picture), (HOSTILE,), (picture, f"--{HOSTILE}")],
        ("chat",): [(picture, *own), (HOSTILE,), ("--server", HOSTILE), ("--server", f"http://{HOSTILE}")],
        ("tokens",): [(picture, *own), (picture, "--scale", HOSTILE)],
        ("train",): [(HOSTILE, "--out", "x"), ("nano", "--out", "x", "--stage", HOSTILE)],
        ("eval",): [(HOSTILE,), (model, "--out", picture)],
        ("bench",): [(HOSTILE,), (model, "--works", HOSTILE), (model, "--plot", f"{HOSTILE}.gif")],
        ("import",): [(HOSTILE,), ("tar", "--llm", HOSTILE, "--ta-tok", HOSTILE, "--out", "y")],
        ("pull",): [(HOSTILE,), ("csuhan/Tar-1.5B", "--with", HOSTILE)],
        ("init",): [(HOSTILE, "--random", "--out", "y"), ("tar-1.5b", "--random", "--out", HOSTILE, "--dry-run")],
        ("info",): [(model,), (model, "--words"), (picture,), (HOSTILE,)],
        ("list",): [()],
        ("verify",): [(model,), (HOSTILE,), (model, "--hash", HOSTILE)],
        ("rm",): [(HOSTILE,)],
        ("completion",): [(HOSTILE,)],
        ("data", "sheet"): [("--split", HOSTILE), ("--out", HOSTILE)],
        ("export", "qwen2"): [(model, "--out", HOSTILE), (HOSTILE, "--out", "z")],
        ("export", "gguf"): [
            (model, "--out", HOSTILE),
            (HOSTILE, "--out", "z.gguf"),
            (model, "-o", "q", "--to", HOSTILE),
        ],
        ("caption",): [(HOSTILE, "--out", "c.jsonl"), (picture, "--out", f"{HOSTILE}.txt", "--model", model)],
        ("refine",): [(picture, "--model", model, "--out", HOSTILE), (HOSTILE,)],
        ("serve",): [("--model", HOSTILE), ("--host", HOSTILE)],
        ("ui",): [("--model", HOSTILE), ("--host", HOSTILE)],
        ("quantize",): [(model, "--to", HOSTILE, "--out", "q"), (HOSTILE, "--to", "int8", "--out", "q")],
    }


def _raw(text):
    return [character for character in text if printable(character) != character]


def test_no_command_passes_controls_on(run, hostile_model, picture, tmp_path, monkeypatch):
    evil = tmp_path / f"{HOSTILE}.png"
    shutil.copy(picture, evil)
    cached = find.cached_model(HOSTILE)
    cached.parent.mkdir(parents=True)
    shutil.copytree(hostile_model, cached)
    monkeypatch.setattr(Tar, "ask", lambda self, image, question, **_: [HOSTILE] * len(question))
    monkeypatch.setattr(Tar, "describe", lambda self, *given, **_: HOSTILE)
    calls = _calls(hostile_model, evil)
    missing = set(_leaves(cli.build_app())) - set(calls)
    assert missing == set(), "give the new command hostile names too"
    for path, several in calls.items():
        for argv in several:
            _, out, err = run(*path, *argv)
            assert out or err or path == ("chat",), argv
            assert _raw(out + err) == [], (path, argv)
            if path[0] not in ("ask", "describe", "demo"):
                assert not any(line.startswith(FORGED) for line in (out + err).splitlines()), (path, argv)
    shutil.rmtree(cached)


def test_files_and_json_keep_the_true_text(run, hostile_model, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(Tar, "describe", lambda self, *given, **_: HOSTILE)
    assert json.loads(run("describe", picture, "--json")[1])["descriptions"][0]["description"] == HOSTILE
    assert json.loads(run("info", hostile_model, "--json")[1])["name"] == HOSTILE
    assert run("generate", HOSTILE, "--out", "a.png", "--model", hostile_model)[0] == 0
    assert read_metadata(tmp_path / "a.png")["model"] == HOSTILE


def test_an_answer_alone_keeps_its_lines(run, tiny_model, picture, monkeypatch):
    monkeypatch.setattr(Tar, "describe", lambda self, *given, **_: "one\ntwo")
    assert run("describe", picture, "--model", tiny_model)[1] == "one\ntwo\n"
    assert run("describe", picture, picture, "--model", tiny_model)[1].count("\n") == 2


def test_tracebacks_and_remarks_are_cleaned_too(run, tiny_model, monkeypatch):
    def broken(*given, **named):
        raise RuntimeError(HOSTILE)

    monkeypatch.setattr(Tar, "generate_iter", broken)
    for debug in ("0", "1"):
        monkeypatch.setenv("OPENTAR_DEBUG", debug)
        err = run("generate", "a dog", "--model", tiny_model)[2]
        assert ("Traceback" in err) == (debug == "1")
        assert _raw(err) == []
