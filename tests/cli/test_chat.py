"""`opentar chat`: one start, many lines; what fails is told and ends nothing."""

import io
import sys

import pytest

PROMPT = "three red apples"


@pytest.fixture
def chat(run, tiny_model, monkeypatch):
    """Run with lines on stdin: returns (exit code, stdout, stderr)."""

    def call(*lines, pictures=(), **options):
        raw = b"".join(line if isinstance(line, bytes) else line.encode() + b"\n" for line in lines)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        return run("chat", *pictures, "--model", tiny_model, *flags)

    return call


def test_it_answers_as_ask_does(chat, run, tiny_model, picture):
    alone = [run("ask", picture, question, "--model", tiny_model)[1] for question in ("red?", "a dog?")]
    code, out, _ = chat("red?", "", "a dog?", pictures=[picture])
    assert (code, out) == (0, "".join(alone))
    code, out, _ = chat(f"/open {picture}", "red?")
    assert (code, out) == (0, f"{picture}: 40 x 30\n{alone[0]}")
    together = run("ask", picture, "red?", "--also", picture, "--model", tiny_model)[1]
    assert chat("red?", pictures=[picture, picture])[1] == together


def test_what_it_draws_is_saved_and_asked_about(chat, run, tiny_model, tmp_path):
    code, out, _ = chat(f"/draw {PROMPT}", "red?", "/seed 7", f"/draw {PROMPT}", f"/draw {PROMPT}", "red?", seed=3)
    assert code == 0
    names = [line for line in out.splitlines() if line.endswith(".png")]
    assert names == ["opentar.png", "opentar-2.png", "opentar-3.png"]
    for name, seed in zip(names, (3, 7, 8), strict=True):
        run("generate", PROMPT, "--seed", seed, "-o", "alone.png", "--overwrite", "--model", tiny_model)
        assert (tmp_path / name).read_bytes() == (tmp_path / "alone.png").read_bytes()
    answers = [run("ask", name, "red?", "--model", tiny_model)[1].strip() for name in (names[0], names[2])]
    assert [out.splitlines()[place] for place in (1, 4)] == answers


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("red?", "there is no picture yet; draw one with /draw PROMPT"),
        ("/drwa a dog", "'/drwa' is unknown; the commands are /draw, /open, /seed, /help, /quit. Did you mean 'draw'?"),
        ("/draw", "/draw needs a prompt"),
        ("/draw ?!", "holds no word"),
        ("/open", "/open needs the name"),
        ("/open nothing.png", "there is no picture 'nothing.png'"),
        ("/seed x", "/seed 'x' is not a whole number"),
        ("/seed 99999999999999999999", "seed is 99999999999999999999"),
        (b"\xff\xfe\n", "not UTF-8"),
    ],
)
def test_an_error_is_one_line_and_ends_nothing(chat, line, expected):
    code, out, err = chat(line, "/help")
    assert code == 0
    assert err.startswith("error: ")
    assert expected in err
    assert len(err.splitlines()) == 1
    assert "/quit" in out


def test_an_interrupt_ends_the_work_and_not_the_talk(chat, picture, monkeypatch):
    from opentar.pipeline import Tar

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Tar, "ask", interrupted)
    code, out, err = chat("red?", "/help", pictures=[picture])
    assert (code, "interrupted" in err, "/draw PROMPT" in out) == (0, True, True)


def test_quit_leaves_at_once(chat):
    assert chat("/quit", "/help")[:2] == (0, "")


def test_what_it_begins_with_is_checked_first(refused, tiny_model):
    assert "there is no picture" in refused("chat", "nothing.png", "--model", tiny_model)
    assert "where the questions come from" in refused("chat", "-", "--model", tiny_model)
    assert "seed is -1" in refused("chat", "--seed", -1, "--model", tiny_model)


def test_closed_stdin_is_the_end(run, tiny_model, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert run("chat", "--model", tiny_model)[:2] == (0, "")
