"""Every command through the real entry point, on the tiny model."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opentar.core.picture_formats import read_metadata

PROMPT = "three red apples on a light blue background"


def test_generate_writes_a_picture_that_carries_its_settings(run, tiny_model, tmp_path):
    code, out, err = run("generate", PROMPT, "-o", "out.png", "--model", tiny_model, "--seed", 7, "--scale", 2)
    assert (code, out) == (0, "out.png\n")
    assert "warning" not in err
    assert Image.open(tmp_path / "out.png").size == (32, 32)
    metadata = read_metadata(tmp_path / "out.png")
    expected = {"prompt": PROMPT, "seed": "7", "index": "0", "scale": "2", "detok": "diffusion", "model": "tiny"}
    assert expected.items() <= metadata.items()
    assert {"guidance", "temperature", "model_hash", "version"} <= set(metadata)


def test_several_pictures_are_numbered_and_each_can_be_drawn_alone(run, tiny_model, tmp_path):
    assert run("generate", PROMPT, "-o", "out.png", "-n", 2, "--model", tiny_model)[1] == "out-0.png\nout-1.png\n"
    assert read_metadata(tmp_path / "out-1.png")["seed"] == "1"
    run("generate", PROMPT, "-o", "alone.png", "--seed", 1, "--model", tiny_model)
    pair = [np.asarray(Image.open(tmp_path / name), dtype=int) for name in ("out-1.png", "alone.png")]
    assert np.abs(pair[0] - pair[1]).max() <= 1


def test_without_out_the_next_free_name_is_taken(run, tiny_model, tmp_path):
    names = [run("generate", PROMPT, "--model", tiny_model)[1].strip() for _ in range(2)]
    assert names == ["opentar.png", "opentar-2.png"]


def test_overwrite_replaces(run, tiny_model, tmp_path):
    (tmp_path / "out.png").write_bytes(b"old")
    assert run("generate", PROMPT, "-o", "out.png", "--overwrite", "--model", tiny_model)[0] == 0
    assert Image.open(tmp_path / "out.png").size == (32, 32)


@pytest.mark.parametrize(
    "flags",
    [
        ("--seed", 5),
        ("--scale", 0),
        ("--temperature", 0),
        ("--guidance", 9),
        ("--detok-guidance", 30),
        ("--steps", 9),
        ("--detok", "ar"),
    ],
)
def test_each_flag_changes_the_picture(run, tiny_model, tmp_path, flags):
    run("generate", PROMPT, "-o", "plain.png", "--model", tiny_model)
    assert run("generate", PROMPT, "-o", "other.png", "--model", tiny_model, *flags)[0] == 0
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "other.png").read_bytes()
    first, second = (np.asarray(Image.open(tmp_path / name)) for name in ("plain.png", "other.png"))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("raw", [PROMPT.encode(), b"\xef\xbb\xbf" + PROMPT.encode() + b"\n"])
def test_prompt_from_stdin(run, tiny_model, tmp_path, monkeypatch, raw):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    assert run("generate", "-", "-o", "out.png", "--model", tiny_model)[0] == 0
    assert read_metadata(tmp_path / "out.png")["prompt"] == PROMPT


def test_unknown_words_are_named_on_stderr(run, tiny_model):
    code, out, err = run("generate", "three red zeppelins 斑马", "-o", "out.png", "--model", tiny_model)
    assert (code, out) == (0, "out.png\n")
    assert "warning: tiny never learned 'zeppelins', '斑马'" in err
    assert "no word of this text" in run("generate", "zeppelins", "-o", "b.png", "--model", tiny_model)[2]


def test_ask_and_describe(run, tiny_model, picture):
    code, out, _ = run("ask", picture, "how many apples?", "--model", tiny_model)
    assert (code, out.count("\n")) == (0, 1)
    code, out, _ = run("describe", picture, picture, "--model", tiny_model)
    assert code == 0
    assert [line.startswith(str(picture)) for line in out.splitlines()] == [True, True]


@pytest.mark.parametrize("command", ["ask", "describe", "tokens"])
def test_a_picture_on_stdin_is_read_as_from_its_file(run, tiny_model, picture, monkeypatch, command):
    question = ["how many apples?"] if command == "ask" else []
    expected = run(command, picture, *question, "--model", tiny_model)[1]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(picture.read_bytes())))
    assert run(command, "-", *question, "--model", tiny_model)[:2] == (0, expected)


def test_reconstruct_from_stdin(run, tiny_model, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(picture.read_bytes())))
    assert run("reconstruct", "-", "-o", "back.png", "--model", tiny_model)[:2] == (0, "back.png\n")
    run("reconstruct", picture, "-o", "from-file.png", "--model", tiny_model)
    first, second = (np.asarray(Image.open(tmp_path / name)) for name in ("back.png", "from-file.png"))
    assert np.array_equal(first, second)


def test_question_from_stdin(run, tiny_model, picture, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("有几个苹果？".encode())))
    told = json.loads(run("ask", picture, "-", "--model", tiny_model, "--json")[1])
    assert (told["question"], told["image"]) == ("有几个苹果？", str(picture))


def test_describe_holds_one_decoded_picture_at_a_time(run, tiny_model, picture, monkeypatch):
    import gc
    import weakref

    from opentar.core import pictures
    from opentar.pipeline import Tar

    opened, most, real = [], 0, pictures.open_picture

    def watched(source, *name):
        nonlocal most
        image = real(source, *name)
        opened.append(weakref.ref(image))
        gc.collect()
        most = max(most, sum(one() is not None for one in opened))
        return image

    monkeypatch.setattr(pictures, "open_picture", watched)
    monkeypatch.setattr(Tar, "describe", lambda self, image, **_: f"{image.width} wide")
    code, out, _ = run("describe", *[picture] * 5, "--model", tiny_model)
    assert (code, out.count("40 wide")) == (0, 5)
    # The one just opened, and the one before it that a name still holds.
    assert most <= 2


def test_refine_takes_prompt_and_seed_from_the_picture(run, tiny_model, tmp_path):
    own = ("--model", tiny_model)
    assert run("generate", "a dog", "--scale", 2, "--seed", 3, "-o", "coarse.png", *own)[0] == 0
    assert run("refine", "coarse.png", *own)[:2] == (0, "refined.png\n")
    code, out, _ = run("refine", "coarse.png", "--scale", 0, "--prompt", "", "-o", "plain.png", "--json", *own)
    assert code == 0 and "prompt" not in json.loads(out)["picture"]["settings"]
    settings = read_metadata(tmp_path / "refined.png")
    assert (settings["prompt"], settings["seed"], settings["scale"]) == ("a dog", "3", "1")
    assert run("generate", "a dog", "--scale", 1, "--seed", 3, "--coarse-first", "-o", "first.png", *own)[0] == 0
    assert np.array_equal(Image.open(tmp_path / "first.png"), Image.open(tmp_path / "refined.png"))


def test_reconstruct(run, tiny_model, picture, tmp_path):
    assert run("reconstruct", picture, "-o", "back.png", "--model", tiny_model, "--scale", 0)[:2] == (0, "back.png\n")
    assert read_metadata(tmp_path / "back.png")["scale"] == "0"


def test_tokens_prints_the_grid_with_words(run, tiny_model, picture):
    code, out, _ = run("tokens", picture, "--scale", 2, "--words", 2, "--model", tiny_model)
    assert code == 0
    assert out.startswith("scale 2: 4 x 4 = 16 codes\n")
    assert out.count("word") == 32


def test_info_names_licence_data_and_parts(run, tiny_model):
    code, out, _ = run("info", tiny_model)
    assert code == 0
    for expected in ("tiny", "Apache-2.0", "the weights are random", "ta_tok", "language", "detok_diffusion"):
        assert expected in out


def test_demo_never_overwrites(run, tiny_model, tmp_path):
    code, out, _ = run("demo", "--model", tiny_model)
    assert code == 0
    assert "opentar-demo.png" in out
    assert "It sees:" in out
    before = (tmp_path / "opentar-demo.png").read_bytes()
    assert "opentar-demo-2.png" in run("demo", "--model", tiny_model)[1]
    assert (tmp_path / "opentar-demo.png").read_bytes() == before


@pytest.mark.parametrize(
    ("argv", "keys"),
    [
        (("generate", PROMPT, "-n", 2), {"pictures", "seconds"}),
        (("demo",), {"picture", "description", "answers", "seconds", "prompt"}),
        (("ask", "PICTURE", "how many?"), {"answer", "question", "image", "seconds"}),
        (("describe", "PICTURE"), {"descriptions"}),
        (("reconstruct", "PICTURE"), {"picture", "source", "seconds"}),
        (("tokens", "PICTURE"), {"codes", "words", "scale", "image"}),
        (("info", "MODEL"), {"name", "hash", "parts", "licence", "data", "bytes"}),
    ],
)
def test_json_is_the_only_thing_on_stdout(run, tiny_model, picture, argv, keys):
    argv = [{"PICTURE": picture, "MODEL": tiny_model}.get(argument, argument) for argument in argv]
    model = [] if argv[0] == "info" else ["--model", tiny_model]
    code, out, _ = run(*argv, *model, "--json")
    assert code == 0
    assert keys <= set(json.loads(out))
    assert out.count("\n") == 1


def test_data_sheet(run, tmp_path):
    code, out, _ = run("data", "sheet", "-o", "sheet.png", "-n", 4, "--columns", 2, "--split", "val", "--json")
    assert code == 0
    told = json.loads(out)
    assert Image.open(tmp_path / "sheet.png").size == (told["width"], told["height"])
    assert len(told["captions"]) == 4
    before = (tmp_path / "sheet.png").read_bytes()
    assert run("data", "sheet", "-o", "sheet.png", "-n", 4, "--seed", 1)[0] == 2
    assert run("data", "sheet", "-o", "other.png", "-n", 4, "--columns", 2, "--split", "val", "--seed", 1)[0] == 0
    assert (tmp_path / "sheet.png").read_bytes() == before != (tmp_path / "other.png").read_bytes()


def test_eval_passes_its_flags_on_and_flattens_the_scores(run, tiny_model, tmp_path, monkeypatch):
    from opentar.nano import evaluate as nano

    given = {}

    def measure(tar, **settings):
        given.update(settings, model=tar.parts.config.name)
        return {"geneval": {"colors": 0.5}, "meta": {"seed": settings["seed"]}}

    monkeypatch.setattr(nano, "evaluate", measure)
    flags = ("--limit", 6, "--seed", 4, "--detok", "ar", "--scale", 2, "--out", "report", "--samples", 2, "--no-links")
    code, out, _ = run("eval", tiny_model, *flags, "--json")
    assert code == 0
    assert json.loads(out) == {"geneval.colors": 0.5, "meta.seed": 4}
    del given["progress"]
    assert given == {
        "model": "tiny", "limit": 6, "seed": 4, "detok": "ar", "scale": 2, "samples": 2, "links": False,
        "out_dir": Path("report"), "passes": None, "against": None,
    }  # fmt: skip


def test_train_names_the_stages_it_knows(run):
    code, out, err = run("train", "nano", "--out", "run", "--stage", "nonsense")
    assert (code, out) == (2, "")
    assert "'nonsense'" in err
    assert "teacher" in err


def test_scale_and_fit_of_reading_reach_the_model(run, tiny_model, picture):
    plain = json.loads(run("tokens", picture, "--json", "--model", tiny_model)[1])
    other = json.loads(run("tokens", picture, "--json", "--fit", "letterbox", "--model", tiny_model)[1])
    assert plain["codes"] != other["codes"]
    for flags in (("--fit", "letterbox"), ("--scale", 0)):
        again = run("reconstruct", picture, "-o", "a.png", "--overwrite", "--json", "--model", tiny_model, *flags)
        settings = json.loads(again[1])["picture"]["settings"]
        assert settings[flags[0].strip("-")] == str(flags[1])
    assert run("describe", picture, "--scale", 2, "--fit", "letterbox", "--model", tiny_model)[0] == 0


def test_questions_about_several_pictures(run, tiny_model, picture):
    more = ("--also", picture, "--also", picture)
    code, out, _ = run("ask", picture, "the same?", *more, "--json", "--model", tiny_model, "--fit", "squash")
    assert code == 0
    assert json.loads(out)["also"] == [str(picture)] * 2
    assert run("ask", picture, "the same?", *more, "--scale", 0, "--model", tiny_model)[0] == 0
    scales = ("--scale", 0, "--scale", 1, "--scale", 2)
    assert run("ask", picture, "the same?", *more, *scales, "--model", tiny_model)[0] == 0
    code, _, err = run("ask", picture, "the same?", *more, *scales[:4], "--model", tiny_model)
    assert (code, err) == (2, "error: 2 scales were given for 3 pictures; give one for all, or one for each\n")


@pytest.mark.parametrize(
    "command",
    [
        ("demo",),
        ("generate", "a dog"),
        ("reconstruct", "picture.png"),
        ("ask", "picture.png", "a dog?"),
        ("describe", "picture.png"),
        ("tokens", "picture.png"),
        ("eval", "nano"),
    ],
    ids=lambda command: command[0],
)
def test_every_command_that_loads_a_model_hands_on_device_and_type(run, picture, monkeypatch, command) -> None:
    from opentar.core.errors import ModelError
    from opentar.pipeline import Tar

    asked = []

    def refuse(name: str, **given: object) -> None:
        asked.append(given)
        raise ModelError("enough")

    monkeypatch.setattr(Tar, "from_pretrained", refuse)
    assert run(*command, "--device", "cpu", "--dtype", "bfloat16")[0] == 2
    assert asked == [{"device": "cpu", "dtype": "bfloat16", "engine": None}]
