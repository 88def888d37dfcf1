"""Many questions and pictures in one start, the words of a model, completion scripts."""

import io
import json
import shutil
import subprocess
import sys

import pytest

QUESTIONS = ("red?", "a dog on a background?")


def test_many_questions_in_one_start_are_answered_as_one_by_one(run, tiny_model, picture, tmp_path):
    (tmp_path / "asked.txt").write_text("\ufeff" + QUESTIONS[0] + "\n\n  " + QUESTIONS[1] + "\r\n", encoding="utf-8")
    alone = [run("ask", picture, one, "--model", tiny_model)[1].strip() for one in QUESTIONS]
    code, out, _ = run("ask", picture, "--questions", "asked.txt", "--model", tiny_model)
    assert code == 0
    assert out.splitlines() == [f"{one} {answer}" for one, answer in zip(QUESTIONS, alone, strict=True)]
    told = json.loads(run("ask", picture, picture, "--questions", "asked.txt", "--model", tiny_model, "--json")[1])
    assert [(row["image"], row["question"], row["answer"]) for row in told["answers"]] == [
        (str(picture), one, answer) for _ in range(2) for one, answer in zip(QUESTIONS, alone, strict=True)
    ]


def test_many_pictures_are_asked_one_by_one(run, tiny_model, picture, tmp_path):
    from PIL import Image

    Image.new("RGB", (30, 30), "red").save(tmp_path / "red.png")
    alone = [run("ask", name, "red?", "--model", tiny_model)[1] for name in (picture, "red.png")]
    out = run("ask", picture, "red.png", "red?", "--model", tiny_model)[1]
    assert out == f"{picture}: {alone[0]}red.png: {alone[1]}"
    also = run("ask", picture, "red?", "--also", "red.png", "--model", tiny_model)[1]
    told = json.loads(run("ask", picture, "red?", "--also", "red.png", "--model", tiny_model, "--json")[1])
    assert (told["answer"], told["also"]) == (also.strip(), ["red.png"])


def test_questions_from_stdin(run, tiny_model, picture, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(QUESTIONS).encode())))
    told = json.loads(run("ask", picture, "--questions", "-", "--model", tiny_model, "--json")[1])
    assert [row["question"] for row in told["answers"]] == list(QUESTIONS)


def test_asking_names_unknown_words(run, tiny_model, picture):
    code, _, err = run("ask", picture, "a red zeppelin?", "--model", tiny_model)
    assert code == 0
    assert "warning: tiny never learned 'zeppelin'; the answer may be wrong" in err


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "there is no question in 'asked.txt'"),
        (b"red?\n?!\n", "line 2 of the questions is '?!', which holds no word"),
        (b"\xff\xfe", "cannot read the questions in 'asked.txt' (it is not UTF-8 text)"),
        (None, "cannot read the questions in 'asked.txt' (No such file or directory)"),
    ],
)
def test_questions_that_cannot_be_asked(refused, tiny_model, picture, tmp_path, content, expected):
    if content is not None:
        (tmp_path / "asked.txt").write_bytes(content)
    assert expected in refused("ask", picture, "--questions", "asked.txt", "--model", tiny_model)


def test_a_picture_alone_is_no_question(refused, tiny_model, picture):
    assert "no question was given" in refused("ask", picture, "--model", tiny_model)
    assert "'-' is given 2 times" in refused("ask", "-", "--questions", "-", "--model", tiny_model)


def test_info_lists_the_words_of_nano(run):
    code, out, _ = run("info", "nano", "--words")
    assert code == 0
    assert "elephant 大象" in out and "to the left of 左边" in out and "light blue 浅蓝色" in out
    groups = json.loads(run("info", "nano", "--words", "--json")[1])["words"]
    assert sum(map(len, groups["things"].values())) == 301
    assert {"en": "apple", "plural": "apples", "zh": "苹果"} in groups["things"]["food-drink"]
    assert [row["en"] for row in groups["counts"]] == ["two", "three", "four"]
    assert len(groups["colours"]) == 11
    assert {"picture", "background"} <= set(groups["other"])
    assert "elephants" not in groups["other"]


def test_info_lists_the_words_of_another_model(run, tiny_model, tmp_path):
    groups = json.loads(run("info", tiny_model, "--words", "--json")[1])["words"]
    assert {row["en"] for rows in groups["things"].values() for row in rows} == {"apple", "dog"}
    assert {row["en"] for row in groups["colours"]} == {"red", "blue"}
    assert "background" in groups["other"]
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"known_words": []}))
    assert "does not list the words" in run("info", folder, "--words")[1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion_names_every_command(run, shell):
    from opentar.cli import build_app

    code, out, _ = run("completion", shell)
    assert code == 0
    for name in [name for name in build_app() if not name.startswith("-")] + ["qwen2", "sheet"]:
        assert name in out
    assert "detok-guidance" in out
    if shell == "bash":
        assert out.rstrip().endswith("complete -o default -F _opentar opentar")
        assert subprocess.run(["bash", "-n"], input=out, text=True, check=False).returncode == 0
    if shell == "zsh":
        assert "'*:Picture to read\\: PNG, JPEG, WebP, ...; - reads stdin.:_files'" in out


def test_completion_completes(run):
    """bash itself asks the script."""
    script = run("completion", "bash")[1]
    ask = 'COMP_WORDS=(opentar desc); COMP_CWORD=1; _opentar; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "describe"


def test_completion_loads_no_torch():
    code = "import sys; from opentar.cli import main; main(['completion', 'bash']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, "generate" in done.stdout) == (0, True)
