"""What somebody else wrote never reaches a terminal raw, and streams that are not there are no fault."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import opentar
from opentar import Tar, cli
from opentar.core.errors import ModelError, printable

HOSTILE = "evil\x1b]0;title\x07\x1b[31m\x9b2J\u202egnp.exe 苹果 🍎"
PYTHONPATH = str(Path(opentar.__file__).parents[1])


def test_printable_escapes_controls_and_keeps_writing():
    assert printable("苹果 🍎\tx\ny") == "苹果 🍎\tx\ny"
    assert printable("a\x1b[31m\x07\x9b\u202e\x7f") == r"a\x1b[31m\x07\x9b\u202e\x7f"


def raw(text: str) -> list[str]:
    """Characters that a terminal would act on."""
    return [character for character in text if character in HOSTILE and printable(character) != character]


@pytest.fixture
def hostile_model(tiny_model, tmp_path):
    """The tiny model with hostile words about itself, all hashes right."""
    from dataclasses import replace

    from opentar.checkpoints import model_folder

    config = replace(model_folder.read_config(tiny_model), name=HOSTILE, licence=HOSTILE, data=HOSTILE)
    parts = {part: tmp_path / "parts" / part for part in config.parts}
    for part, copy in parts.items():
        shutil.copytree(tiny_model / part, copy)
    words = parts["ta_tok"] / "words.txt"
    count = len(words.read_text(encoding="utf-8").splitlines())
    words.write_text("".join(f"{HOSTILE.replace(chr(10), '')}{index}\n" for index in range(count)), encoding="utf-8")
    model_folder.write_model(tmp_path / "hostile", config, parts)
    manifest = tmp_path / "hostile" / "ta_tok" / "manifest.json"
    from opentar.core.atomic import _write_manifest

    manifest.unlink()
    _write_manifest(tmp_path / "hostile" / "ta_tok")
    (tmp_path / "hostile" / "manifest.json").unlink()
    _write_manifest(tmp_path / "hostile")
    return tmp_path / "hostile"


def test_no_command_passes_controls_on(run, hostile_model, picture, tmp_path, monkeypatch):
    evil = tmp_path / f"{HOSTILE.replace('/', '')}.png"
    shutil.copy(picture, evil)
    said = f"answer {HOSTILE}"
    monkeypatch.setattr(Tar, "ask", lambda self, image, question, **named: [said] * len(question))
    monkeypatch.setattr(Tar, "describe", lambda self, *given, **named: said)
    calls = [
        ("info", hostile_model), ("tokens", evil, "--model", hostile_model), ("ask", evil, HOSTILE),
        ("describe", evil, evil), ("generate", HOSTILE, "--model", hostile_model), ("describe", HOSTILE),
        ("generate", "a dog", "--model", HOSTILE), (HOSTILE,), ("generate", "a", HOSTILE), ("info", HOSTILE),
        ("train", HOSTILE, "--out", "x"), ("generate", "a dog", f"--{HOSTILE}"), ("import", HOSTILE),
    ]  # fmt: skip
    for argv in calls:
        _, out, err = run(*argv)
        assert out or err
        assert raw(out + err) == [], argv
    code, out, _ = run("describe", evil, "--json")
    assert code == 0
    assert json.loads(out)["descriptions"][0]["description"] == said, "JSON keeps the true text"


@pytest.mark.parametrize("streams", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("argv", "codes"),
    [
        ("ask picture.png 'what?' --model model", {"<&-": 0, ">&-": 1, "2>&-": 0, "<&- >&- 2>&-": 1}),
        ("generate - --model model", {"<&-": 2, ">&-": 2, "2>&-": 2, "<&- >&- 2>&-": 2}),
        ("info nanoo", {"<&-": 2, ">&-": 2, "2>&-": 2, "<&- >&- 2>&-": 2}),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="closing streams takes a POSIX shell")
def test_closed_streams(tiny_model, picture, tmp_path, streams, argv, codes):
    (tmp_path / "model").symlink_to(tiny_model)
    # A stdin that is open and empty, unless the shell closes it.
    done = subprocess.run(
        f"exec '{sys.executable}' -m opentar {argv} {streams}", shell=True, cwd=tmp_path, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=100, check=False, env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )  # fmt: skip
    assert done.returncode == codes[streams], done.stderr
    assert "Traceback" not in done.stderr and "AttributeError" not in done.stderr
    if codes[streams] and "2>&-" not in streams:
        assert "error: " in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a child")
@pytest.mark.parametrize("delay", [0.06, 0.12, 0.2, 0.35, 0.6])
def test_ctrl_c_while_it_starts(tiny_model, tmp_path, delay):
    """From the moment on that the first line of ours runs; before it there is only the interpreter."""
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import opentar.__main__ as start; "
        "print('on', flush=True); sys.exit(start.main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "generate", "a dog", "--model", str(tiny_model)], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "on\n"
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=100)[1]
    assert "Traceback" not in said
    assert process.returncode in (130, 0), said


def test_without_a_home_the_cache_is_asked_for(run, monkeypatch):
    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    for name in ("OPENTAR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = run("pull", "csuhan/Tar-1.5B")
    assert code == 2
    assert "set HOME, or OPENTAR_CACHE" in err and err.count("\n") == 1


@pytest.mark.parametrize("wrong", [None, 3, b"nano", ["nano"], 1.5])
def test_what_is_no_name_of_a_model(wrong):
    with pytest.raises(ModelError, match=f"not by {type(wrong).__name__}"):
        Tar.from_pretrained(wrong)


def test_numbers_of_numpy_are_numbers(tiny_model):
    tar = Tar.from_pretrained(tiny_model)
    plain = tar.generate("a dog", seed=3, n=2, scale=2, steps=1, temperature=0.5)
    other = tar.generate(
        "a dog", seed=np.int64(3), n=np.uint8(2), scale=np.int32(2), steps=np.int16(1), temperature=np.float32(0.5)
    )
    assert [picture.tobytes() for picture in plain] == [picture.tobytes() for picture in other]
    assert plain[0].info == other[0].info
    assert tar.encode(plain[0], np.int64(1), words=np.int64(2)).scale.index == 1
    assert isinstance(tar.ask(Image.new("RGB", (9, 9)), "what?", max_new_tokens=np.int64(4)), str)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("generate", "a", "cat"), "quote the prompt: 'a cat'"),
        (("generate", "a", "cat", "--seed", "3"), "quote the prompt: 'a cat'"),
        (("generate", "--seed", "3", "a", "red", "cat"), "quote the prompt: 'a red cat'"),
        (("ask", "p.png", "how", "many?"), "quote the question: 'how many?'"),
    ],
)
def test_a_text_without_quotes(refused, argv, told):
    assert told in refused(*argv)


@pytest.mark.parametrize(
    ("argv", "kind", "code"),
    [
        (("generate", "a dog", "--model", "nanoo"), "ModelError", 2),
        (("generate", "a dog", "--sede", "1"), "UnknownOptionError", 2),
        (("describe", "missing.png"), "ImageError", 2),
        (("tokens",), "MissingArgumentError", 2),
    ],
)
def test_errors_as_json(run, argv, kind, code):
    given, out, err = run(*argv, "--json")
    told = json.loads(out)["error"]
    assert (given, told["type"], told["exit_code"]) == (code, kind, code)
    assert err == f"error: {told['message']}\n"


def commands(app, path=("opentar",)):
    """Every command and group with its path."""
    yield path, app
    for name in app:
        if not name.startswith("-"):
            yield from commands(app[name], (*path, name))


def test_every_usage_line_is_right(run):
    paths = [path for path, _ in commands(cli.build_app())]
    assert ("opentar", "export", "qwen2") in paths and len(paths) > 12
    for path in paths:
        code, out, _ = run(*path[1:], "--help")
        assert code == 0
        assert out.startswith(f"Usage: {' '.join(path)} "), out.splitlines()[0]
        assert max(map(len, out.splitlines())) <= 80
