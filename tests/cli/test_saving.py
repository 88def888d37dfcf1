"""What was drawn or said is never lost: names taken meanwhile, folders that went, full disks, Ctrl-C, many prompts."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opentar import drawing, pipeline
from opentar.commands import draw
from opentar.core.picture_formats import read_metadata

PROMPT = "three red apples on a light blue background"
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")


def _names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@pytest.fixture
def while_drawing(monkeypatch):
    """Let something happen after each batch is drawn, before any of it is saved."""

    def install(event):
        real = drawing.paint

        def painted(*given):
            pictures = real(*given)
            event()
            return pictures

        for module in (drawing, pipeline):
            monkeypatch.setattr(module, "paint", painted)

    return install


@pytest.fixture
def no_model(monkeypatch):
    """A command that loads a model fails."""

    def load(*given):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(draw, "load", load)


def test_a_free_name_taken_meanwhile_is_followed_by_the_next(run, tiny_model, tmp_path, while_drawing):
    while_drawing(lambda: (tmp_path / "opentar.png").write_bytes(b"a neighbour's"))
    code, out, err = run("generate", PROMPT, "--model", tiny_model)
    assert (code, out) == (0, "opentar-2.png\n")
    assert "warning" not in err
    assert (tmp_path / "opentar.png").read_bytes() == b"a neighbour's"
    assert read_metadata(tmp_path / "opentar-2.png")["prompt"] == PROMPT


@pytest.mark.parametrize("command", ["generate", "reconstruct", "demo", "data"])
def test_a_name_that_was_asked_for_and_is_taken_meanwhile(
    run, tiny_model, tmp_path, picture, while_drawing, command, monkeypatch
):
    def taken():
        (tmp_path / "out.png").write_bytes(b"mine")

    while_drawing(taken)
    argv = {"generate": [PROMPT], "reconstruct": [picture], "demo": [], "data": ["sheet", "-n", 1]}[command]
    argv += ["-o", "out.png", "--json"] + ([] if command == "data" else ["--model", tiny_model])
    if command == "data":
        from opentar.eval import sheet

        real = sheet.contact_sheet
        monkeypatch.setattr(sheet, "contact_sheet", lambda *given: (taken(), real(*given))[1])
    code, out, err = run(command, *argv)
    assert code == 1
    line = "warning: 'out.png' cannot be written (it is there already); the picture is saved as 'out-2.png'"
    assert line in err.splitlines()
    told = json.loads(out)
    told = told["pictures"][0] if command == "generate" else told.get("picture", told)
    assert {"path": "out-2.png", "asked": "out.png", "reason": "it is there already"}.items() <= told.items()
    assert (tmp_path / "out.png").read_bytes() == b"mine"
    assert Image.open(tmp_path / "out-2.png").format == "PNG"


def test_one_of_a_set_moves_and_the_rest_stay(run, tiny_model, tmp_path, while_drawing):
    while_drawing(lambda: (tmp_path / "opentar-1.png").write_bytes(b"mine"))
    code, out, err = run("generate", PROMPT, "-n", 3, "--scale", 2, "--model", tiny_model)
    assert (code, out) == (0, "opentar-0.png\nopentar-1-2.png\nopentar-2.png\n")
    assert "'opentar-1.png' cannot be written (it is there already); the picture is saved as 'opentar-1-2.png'" in err
    assert [read_metadata(name)["seed"] for name in out.split()] == ["0", "1", "2"]


def test_a_folder_that_goes_while_drawing(run, tiny_model, tmp_path, while_drawing):
    (tmp_path / "there").mkdir()
    while_drawing((tmp_path / "there").rmdir)
    code, out, err = run("generate", PROMPT, "-o", "there/out.jpg", "--model", tiny_model)
    assert (code, out) == (1, "out.jpg\n")
    assert "cannot be written (No such file or directory); the picture is saved as 'out.jpg'" in err
    assert read_metadata("out.jpg")["prompt"] == PROMPT


def test_a_picture_that_can_be_written_nowhere_is_an_error(run, tiny_model, tmp_path, while_drawing, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    while_drawing((tmp_path / "here").rmdir)
    with monkeypatch.context() as patched:
        patched.setattr("tempfile.tempdir", str(tmp_path / "gone"))
        code, out, err = run("generate", PROMPT, "--model", tiny_model)
    os.chdir(tmp_path)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: 'opentar.png' cannot be written (No such file or directory), nor")


@pytest.mark.slow
def test_four_started_together_keep_all_their_pictures(tiny_model, tmp_path):
    command = [sys.executable, "-m", "opentar", "generate", PROMPT, "--model", str(tiny_model)]
    started = [
        subprocess.Popen([*command, "--seed", str(seed)], cwd=tmp_path, stdout=subprocess.PIPE) for seed in range(4)
    ]
    said = [process.communicate()[0].decode().strip() for process in started]
    assert [process.returncode for process in started] == [0] * 4
    assert sorted(said) == _names(tmp_path) == ["opentar-2.png", "opentar-3.png", "opentar-4.png", "opentar.png"]
    assert {read_metadata(path)["seed"] for path in tmp_path.iterdir()} == {"0", "1", "2", "3"}


def test_each_batch_is_saved_when_it_is_drawn_and_ctrl_c_keeps_it(
    run, tiny_model, tmp_path, while_drawing, monkeypatch
):
    monkeypatch.setattr(draw, "_BATCH", 2)
    seen = []

    def stop_at_the_third():
        seen.append(_names(tmp_path))
        if len(seen) == 3:
            raise KeyboardInterrupt

    while_drawing(stop_at_the_third)
    code, out, err = run("generate", PROMPT, "-n", 7, "-o", "out.webp", "--scale", 2, "--model", tiny_model)
    drawn = [f"out-{index}.webp" for index in range(4)]
    assert (code, out.split()) == (130, drawn)
    assert seen == [[], drawn[:2], drawn]
    assert _names(tmp_path) == drawn
    assert err.splitlines()[-2:] == ["4 of 7 pictures are saved", "interrupted"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a single thread")
def test_ctrl_c_while_a_batch_is_saved_waits_for_its_end(run, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(draw, "_BATCH", 3)
    real = draw.save

    def interrupted(output, image, place):
        os.kill(os.getpid(), signal.SIGINT)
        return real(output, image, place)

    monkeypatch.setattr(draw, "save", interrupted)
    before = signal.getsignal(signal.SIGINT)
    code, _, err = run("generate", PROMPT, "-n", 5, "--scale", 2, "--model", tiny_model)
    assert (code, _names(tmp_path)) == (130, [f"opentar-{index}.png" for index in range(3)])
    assert "3 of 5 pictures are saved" in err
    assert signal.getsignal(signal.SIGINT) is before


def test_memory_does_not_grow_with_the_number_of_pictures(run, tiny_model, monkeypatch):
    """Without JSON nothing is kept of a picture once it is saved."""
    import gc
    import weakref

    monkeypatch.setattr(draw, "_BATCH", 2)
    pictures, most, real = [], 0, draw.save

    def watched(output, image, place):
        nonlocal most
        pictures.append(weakref.ref(image))
        gc.collect()
        most = max(most, sum(one() is not None for one in pictures))
        return real(output, image, place)

    monkeypatch.setattr(draw, "save", watched)
    assert run("generate", PROMPT, "-n", 10, "--scale", 2, "--model", tiny_model)[0] == 0
    assert len(pictures) == 10
    # A batch, and the last picture of the one before.
    assert most <= 4


def test_pictures_in_every_format_tell_info_what_they_are(run, tiny_model, tmp_path):
    for name in ("a.png", "b.JPG", "c.jpeg", "d.webp", "e.avif"):
        assert run("generate", "三个红苹果", "-o", name, "--seed", 7, "--model", tiny_model)[:2] == (0, f"{name}\n")
        told = json.loads(run("info", name, "--json")[1])
        assert told["format"] == {"b": "JPEG", "c": "JPEG"}.get(name[0], name[2:].upper())
        assert (told["path"], told["width"], told["height"]) == (name, 32, 32)
        assert {"prompt": "三个红苹果", "seed": "7", "model": "tiny"}.items() <= told["settings"].items()
        code, out, _ = run("info", name)
        assert code == 0
        assert ["prompt", "三个红苹果"] in [line.split() for line in out.splitlines()]


def test_info_of_other_files(run, refused, picture, tmp_path):
    assert run("info", picture)[:2] == (0, f"{picture}  (PNG, 40 x 30)\nsays nothing of its making\n")
    (tmp_path / "notes.txt").write_text("notes")
    assert "'notes.txt' is not a picture" in refused("info", "notes.txt")
    from opentar.core.picture_files import save_picture

    save_picture(Image.new("RGB", (8, 8)), tmp_path / "evil.png", {"prompt": "a\x1b[31mb\nc"})
    assert run("info", "evil.png")[1].splitlines()[1:] == ["prompt  a\\x1b[31mb\\nc"]


def test_a_picture_to_stdout_is_nothing_but_the_picture(tiny_model, tmp_path, picture, capfdbinary, monkeypatch):
    from opentar.cli import main

    monkeypatch.chdir(tmp_path)
    for argv in (["generate", PROMPT], ["reconstruct", str(picture)]):
        assert main([*argv, "-o", "-", "--model", str(tiny_model)]) == 0
        sent = capfdbinary.readouterr().out
        assert _names(tmp_path) == ["picture.png"]
        main([*argv, "-o", "file.png", "--model", str(tiny_model)])
        assert sent == (tmp_path / "file.png").read_bytes()
        (tmp_path / "file.png").unlink()
        capfdbinary.readouterr()
    assert main(["data", "sheet", "-n", "1", "-o", "-"]) == 0
    assert Image.open(io.BytesIO(capfdbinary.readouterr().out)).format == "PNG"


def test_a_picture_is_not_sent_to_a_terminal(refused, monkeypatch, no_model):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    assert "which is a terminal; redirect it: -o - > picture.png" in refused("generate", PROMPT, "-o", "-")


@needs_full
def test_a_picture_that_stdout_refuses_is_saved(run, tiny_model, tmp_path, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, _, err = run("generate", PROMPT, "-o", "-", "--model", tiny_model)
    assert code == 1
    assert "stdout cannot be written (No space left on device); the picture is saved as 'opentar.png'" in err
    assert read_metadata(tmp_path / "opentar.png")["prompt"] == PROMPT


@needs_full
@pytest.mark.parametrize("flags", [(), ("--json",)])
@pytest.mark.parametrize("argv", [("ask", "PICTURE", "how many?"), ("describe", "PICTURE", "PICTURE"),
                                  ("tokens", "PICTURE"), ("generate", PROMPT, "-n", 3), ("info",)])  # fmt: skip
def test_what_stdout_refuses_is_on_stderr(run, tiny_model, picture, tmp_path, monkeypatch, argv, flags):
    argv = [picture if argument == "PICTURE" else argument for argument in argv]
    model = [tiny_model] if argv[0] == "info" else ["--model", tiny_model]
    plain = run(*argv, *model, *flags)
    for path in tmp_path.glob("opentar*"):
        path.unlink()
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, _, err = run(*argv, *model, *flags)
    *lines, last = err.splitlines()
    told = "error: stdout cannot be written (No space left on device); the result was printed to stderr instead"
    assert (code, last) == (1, told)
    if flags:
        assert json.loads(lines[-1]).keys() == json.loads(plain[1]).keys()
    else:
        assert all(line in lines for line in plain[1].splitlines())
    if argv[0] == "generate":
        assert len(list(tmp_path.glob("opentar-?.png"))) == 3


@needs_full
def test_a_process_with_a_full_stdout_ends_with_one_line_and_one(tiny_model):
    command = [sys.executable, "-m", "opentar", "info", str(tiny_model), "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (1, 2)
    assert json.loads(lines[0])["name"] == "tiny"


def test_prompts_of_a_file(run, tiny_model, tmp_path):
    (tmp_path / "prompts.txt").write_bytes("\ufeffred apples\r\n\r\n# a remark\r\n  三个红苹果 \n".encode())
    common = ("--prompts", "prompts.txt", "--seed", 3, "--scale", 2, "--model", tiny_model, "--json")
    told = json.loads(run("generate", *common, "-n", 2, "-o", "out.png")[1])
    assert [one["path"] for one in told["pictures"]] == [f"out-{index}.png" for index in range(4)]
    settings = [read_metadata(f"out-{index}.png") for index in range(4)]
    assert [(one["prompt"], one["seed"]) for one in settings] == [
        ("red apples", "3"), ("red apples", "4"), ("三个红苹果", "3"), ("三个红苹果", "4")
    ]  # fmt: skip
    run("generate", "三个红苹果", "--seed", 4, "--scale", 2, "-o", "alone.png", "--model", tiny_model)
    pair = [np.asarray(Image.open(name), dtype=int) for name in ("out-3.png", "alone.png")]
    assert np.abs(pair[0] - pair[1]).max() <= 1
    (tmp_path / "folder").mkdir()
    told = json.loads(run("generate", *common, "-o", "folder")[1])
    assert [one["path"] for one in told["pictures"]] == ["folder/opentar-0.png", "folder/opentar-1.png"]
    told = json.loads(run("generate", *common, "-o", "folder")[1])
    assert [one["path"] for one in told["pictures"]] == ["folder/opentar-2-0.png", "folder/opentar-2-1.png"]


def test_prompts_of_stdin(run, tiny_model, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"red apples\n")))
    code, out, _ = run("generate", "--prompts", "-", "--scale", 2, "--model", tiny_model)
    assert (code, out) == (0, "opentar-0.png\n")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "'prompts.txt' holds no prompt; write one per line"),
        (b"\n# only this\n", "holds no prompt"),
        (b"a cat\n\n?!\n", "line 3 of 'prompts.txt': the prompt holds no word"),
        (b"a cat\n\xff\xfe\n", "line 2 of 'prompts.txt' is not UTF-8 text"),
        (b"a cat\n" * 10_001, "more than 10000 prompts"),
        (None, "'prompts.txt' is not a file of prompts"),
    ],
)
def test_bad_prompts_are_refused_before_the_model_is_loaded(refused, tmp_path, no_model, content, told):
    if content is not None:
        (tmp_path / "prompts.txt").write_bytes(content)
    assert told in refused("generate", "--prompts", "prompts.txt")


def test_one_source_of_prompts(refused, tmp_path, no_model):
    (tmp_path / "prompts.txt").write_text("a cat\n" * 101)
    assert "takes a PROMPT or --prompts FILE, and both are given" in refused(
        "generate", "a cat", "--prompts", "prompts.txt"
    )
    assert "neither is given" in refused("generate")
    assert "101 prompts with n 1000 make 101000 pictures" in refused("generate", "--prompts", "prompts.txt", "-n", 1000)
    assert "not 101" in refused("generate", "--prompts", "prompts.txt", "-o", "-")


def test_a_prompt_that_is_too_long_is_named(refused, tiny_model, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n" + "apple " * 3000)
    assert "prompt 2 of 2: " in refused("generate", "--prompts", "prompts.txt", "--model", tiny_model)


@pytest.mark.parametrize("name", ["there.png", "no/where.png", "x" * 252 + ".png", "out.bmp", "folder.png"])
def test_what_can_be_known_before_is_refused_before_the_model_is_loaded(refused, tmp_path, no_model, name):
    (tmp_path / "there.png").write_bytes(b"mine")
    (tmp_path / "folder.png").mkdir()
    refused("generate", PROMPT, "-o", name)
