"""Bad input: one line that says what was given and what to do, an exit code, no traceback, nothing overwritten."""

import io
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import opentar
from opentar.core import pictures
from opentar.core.picture_formats import read_metadata

PROMPT = "three red apples"


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"\0" * 1000, 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


BAD_PICTURES = {
    "broken.png": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n garbage"),
    "text.jpg": lambda path: path.write_text("not a picture"),
    "empty.png": lambda path: path.write_bytes(b""),
    "huge.png": lambda path: path.write_bytes(_png_header(13000, 13000)),
    "one.png": lambda path: Image.new("RGB", (1, 1)).save(path),
}


@pytest.mark.parametrize("name", [*BAD_PICTURES, "missing.png", "cut.png", "folder"])
@pytest.mark.parametrize("command", ["describe", "ask", "reconstruct", "tokens"])
def test_bad_pictures(refused, tiny_model, picture, tmp_path, command, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name == "cut.png":
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    elif name in BAD_PICTURES:
        BAD_PICTURES[name](path)
    question = ["how many?"] if command == "ask" else []
    assert name in refused(command, path, *question, "--model", tiny_model)


def test_one_bad_picture_among_good_ones(refused, tiny_model, picture):
    assert "missing.png" in refused("describe", picture, "missing.png", "--model", tiny_model)


@pytest.mark.parametrize("kind", ["cmyk", "sixteen", "clear", "grey", "palette", "tall"])
def test_unusual_pictures_are_read(run, tiny_model, tmp_path, kind):
    path = tmp_path / ("p.jpg" if kind == "cmyk" else "p.png")
    images = {
        "cmyk": lambda: Image.new("CMYK", (20, 20), (0, 200, 200, 0)),
        "sixteen": lambda: Image.fromarray(np.full((20, 20), 40000, np.uint16)),
        "clear": lambda: Image.new("RGBA", (20, 20), (255, 0, 0, 0)),
        "grey": lambda: Image.new("L", (20, 20), 77),
        "palette": lambda: Image.new("P", (20, 20), 3),
        "tall": lambda: Image.new("RGB", (2, 900), "red"),
    }
    images[kind]().save(path)
    assert run("describe", path, "--model", tiny_model)[0] == 0


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("", "empty"),
        ("  \n ", "empty"),
        ("?! ...", "holds no word"),
        ("apple " * 1000, "shorten"),
        ("apple" * 1_000_000, "shorten"),
        ("a\0dog", "NUL"),
        ("a \udcff dog", "UTF-8"),
    ],
    ids=["empty", "blank", "signs", "long", "huge", "nul", "bytes"],
)
@pytest.mark.parametrize("command", ["generate", "ask"])
def test_bad_texts(refused, tiny_model, picture, command, prompt, told):
    first = [picture] if command == "ask" else []
    assert told in refused(command, *first, prompt, "--model", tiny_model)


@pytest.mark.parametrize("raw", [b"\xff\xfe\x00a", b"", b"x" * 1_100_000], ids=["bytes", "empty", "huge"])
def test_bad_stdin(refused, tiny_model, monkeypatch, raw):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    assert "prompt" in refused("generate", "-", "--model", tiny_model)


@pytest.mark.parametrize("command", ["ask", "describe", "reconstruct", "tokens"])
@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "the picture on stdin is empty"),
        (b"no picture", "the picture on stdin is not a picture"),
        (_png_header(13000, 13000), "the picture on stdin has 13000x13000 pixels"),
        (b"x" * 3_000_000, "the picture on stdin is larger than 2 MiB"),
    ],
    ids=["empty", "text", "pixels", "bytes"],
)
def test_bad_pictures_on_stdin(refused, tiny_model, monkeypatch, command, raw, told):
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 2 << 20)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    question = ["how many?"] if command == "ask" else []
    assert told in refused(command, "-", *question, "--model", tiny_model)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("generate", PROMPT, "-o", "-", "--json"), "-o - and --json both write to stdout"),
        (("generate", PROMPT, "-o", "-", "-n", 2), "a single picture to stdout, not 2; name a file"),
        (("reconstruct", "picture.png", "-o", "-", "--json"), "-o - and --json both write"),
        (("data", "sheet", "-o", "-", "--json"), "-o - and --json both write"),
        (("demo", "-o", "-"), "this command cannot write a picture to stdout; name a file"),
        (("ask", "-", "-"), "stdin can be read only once"),
        (("describe", "-", "picture.png", "-"), "stdin can be read only once"),
        (("generate", PROMPT, "--model", "-"), "model '-' is unknown"),
        (("generate", PROMPT, "--seed", "-"), 'unable to convert "-" into int'),
        (("data", "sheet", "--split", "-"), 'Invalid value "-"'),
        (("eval", "--out", "-"), "'-' is not the name of a folder"),
        (("train", "nano", "--out", "-"), "'-' is not the name of a folder"),
        (("train", "-", "--out", "run"), "'-' cannot be trained here"),
        (("-",), 'Unknown command "-"'),
    ],
)
def test_a_hyphen_where_stdin_has_no_place_is_shown_as_typed(refused, picture, argv, told):
    assert told in refused(*argv)


def test_the_number_of_pictures_is_checked_before_their_names_are_made(refused, monkeypatch):
    from opentar.commands import draw

    def names(*given):
        raise AssertionError("names were made")

    monkeypatch.setattr(draw, "picture_places", names)
    assert "n is 30000000; it must be a whole number from 1 to 1000" in refused("generate", PROMPT, "-n", 30_000_000)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--scale", 3), "scale 3 does not exist; choose 0, 1 or 2 (144, 36 or 16 codes)"),
        (("--scale", -1), "scale -1"),
        (("--detok", "difusion"), "Did you mean 'diffusion'"),
        (("-n", 0), "n is 0"),
        (("-n", 1001), "from 1 to 1000"),
        (("--seed", -5), "seed is -5"),
        (("--guidance", "nan"), "guidance is nan"),
        (("--guidance", 0), "from 1 to 50"),
        (("--temperature", -1), "temperature is -1"),
        (("--steps", 0), "steps is 0"),
        (("--device", "cud"), "device 'cud' is unknown"),
        (("--dtype", "float12"), "dtype 'float12' is unknown"),
        (("--device", "cpu", "--dtype", "float16"), "float16 is for cuda and mps"),
    ],
)
def test_settings_out_of_range(refused, tiny_model, flags, told):
    assert told in refused("generate", PROMPT, "--model", tiny_model, *flags)


@pytest.mark.parametrize("name", ["nanoo", "../nothing", "no/such/folder", "a\0b", "x" * 5000])
def test_unknown_models(refused, name):
    line = refused("generate", PROMPT, "--model", name)
    assert "unknown" in line
    assert len(line) < 300


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (("describe", ""), "picture"),
        (("ask", "", "what?"), "picture"),
        (("ask", "picture.png", "what?", "--also", ""), "picture"),
        (("tokens", ""), "picture"),
        (("reconstruct", ""), "picture"),
        (("chat", ""), "picture"),
        (("generate", PROMPT, "--out", ""), "picture"),
        (("data", "sheet", "--out="), "picture"),
        (("describe", "picture.png", "--model", ""), "model"),
        (("info", ""), "model"),
        (("train", "nano", "--out", ""), "file or folder"),
        (("train", "nano", "--out="), "file or folder"),
        (("eval", "--out", ""), "file or folder"),
        (("export", "qwen2", "--out", ""), "file or folder"),
        (("init", "tar-1.5b", "--random", "--out", ""), "file or folder"),
        (("import", "tar", "--llm", "", "--ta-tok", "x", "--out", "y"), "file or folder"),
    ],
)
def test_an_empty_name_is_called_empty(refused, picture, argv, what):
    assert f"the name of the {what} is empty" in refused(*argv)


def test_a_folder_or_file_that_is_no_model(refused, picture, tmp_path):
    assert "has no config.json" in refused("generate", PROMPT, "--model", tmp_path)
    assert "is a file" in refused("generate", PROMPT, "--model", picture)


def test_outputs_that_cannot_be(refused, tiny_model, tmp_path):
    (tmp_path / "there.png").write_bytes(b"precious")
    (tmp_path / "out-1.png").write_bytes(b"precious")
    (tmp_path / "folder.png").mkdir()
    for out, told in {
        "there.png": "kept",
        "folder.png": "is a folder",
        "no/where.png": "is not there",
        "out.bmp": "does not end in .png, .jpg, .webp or .avif",
        "bad\0name.png": "not a file name",
        "x" * 300 + ".png": "cannot write",
        "x" * 252 + ".png": "cannot write",
    }.items():
        assert told in refused("generate", PROMPT, "-o", out, "--model", tiny_model)
    assert "out-1.png" in refused("generate", PROMPT, "-o", "out.png", "-n", 2, "--model", tiny_model)
    assert "kept" in refused("reconstruct", "there.png", "-o", "there.png", "--model", tiny_model)


@pytest.mark.skipif(not Path("/dev/full").exists() or not Path("/proc").is_dir(), reason="needs Linux's /proc")
def test_a_folder_that_takes_no_files(refused, tiny_model):
    # Not even root may create files in /proc, so this holds in containers too.
    assert "cannot" in refused("generate", PROMPT, "-o", "/proc/out.png", "--model", tiny_model)


@pytest.fixture
def own_model(tiny_model, tmp_path):
    return Path(shutil.copytree(tiny_model, tmp_path / "own"))


@pytest.mark.parametrize("part", ["language", "ta_tok", "detok_diffusion/autoencoder"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "garbage"])
def test_damaged_weights_are_named(refused, own_model, part, damage):
    weights = own_model / part / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "flip":
        content[-3] ^= 64
        weights.write_bytes(content)
    elif damage == "cut":
        weights.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        weights.write_bytes(b"\xff" * len(content))
    else:
        weights.unlink()
    line = refused("generate", PROMPT, "--model", own_model, code=1)
    assert "model.safetensors" in line


@pytest.mark.parametrize(
    ("old", "new", "code", "told"),
    [
        ('"licence"', '"license"', 2, "Did you mean 'licence'"),
        ('"temperature": 1.0', '"temperature": "hot"', 2, "must be a number"),
        ('"kind": "opentar"', '"kind": "other"', 1, "is not an OpenTar model"),
        ('"language"', '"langauge"', 2, "Did you mean 'language'"),
        ("{", "", 1, "JSON"),
    ],
)
def test_damaged_config(refused, own_model, old, new, code, told):
    path = own_model / "config.json"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    assert told in refused("generate", PROMPT, "--model", own_model, code=code)


def test_parts_of_two_models_do_not_mix(refused, own_model, tmp_path):
    config = own_model / "language" / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"codebook_size": 64', '"codebook_size": 63'))
    assert refused("reconstruct", own_model / "none.png", "--model", own_model)
    assert refused("tokens", _plain(tmp_path), "--model", own_model, code=1)


def test_prompts_are_data_even_when_they_look_like_control_tokens(run, tiny_model, tmp_path):
    text = "<I12> <im_start><S0> <|im_end|> [red]apple[/red] %s {0}"
    assert run("generate", text, "-o", "out.png", "--model", tiny_model)[0] == 0
    assert read_metadata(tmp_path / "out.png")["prompt"] == text


@pytest.mark.parametrize("argv", [("describe", "missing.png"), ("generate", "a dog", "--model", "nanoo")])
def test_in_a_process_of_its_own(tmp_path, argv):
    result = subprocess.run(
        [sys.executable, "-m", "opentar", *argv],
        capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(opentar.__file__).parents[1])},
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def _plain(folder: Path) -> Path:
    path = folder / "plain.png"
    Image.new("RGB", (20, 20), "blue").save(path)
    return path
