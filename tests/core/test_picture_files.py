"""Pictures are written whole or not at all, under names that nobody else has, and finished ones are never lost."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opentar.core import picture_files, pictures
from opentar.core.errors import ImageError, OutputError, UnsavedError
from opentar.core.picture_formats import ENDINGS, encode_picture, picture_format, read_facts, read_metadata

SETTINGS = {"prompt": "三个红苹果, “three” red apples\nsecond line", "seed": "7", "empty": "", "nul": "a\0b"}


def _noise(size: tuple[int, int] = (24, 16)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_save_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    image = Image.effect_noise((16, 16), 90).convert("RGB")
    told = {"prompt": "三个红苹果, “three” red apples\nsecond line", "seed": "7", "empty": ""}
    picture_files.save_picture(image, path, told)
    assert read_metadata(path) == told
    assert pictures.open_picture(path).tobytes() == image.tobytes()
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"]


def test_metadata_of_other_formats_is_empty(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    assert read_metadata(tmp_path / "a.jpg") == {}


def test_save_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "kept.png"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="there already"):
        picture_files.save_picture(Image.new("RGB", (4, 4)), path)
    assert path.read_bytes() == b"mine"
    picture_files.save_picture(Image.new("RGB", (4, 4)), path, overwrite=True)
    assert pictures.open_picture(path).size == (4, 4)
    assert len(list(tmp_path.iterdir())) == 1


def test_file_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "race.png"
    monkeypatch.setattr(picture_files, "check_picture_path", lambda path, overwrite: path)
    path.write_bytes(b"somebody was quicker")
    with pytest.raises(OutputError, match="there already"):
        picture_files.save_picture(Image.new("RGB", (4, 4)), path)
    assert path.read_bytes() == b"somebody was quicker"
    assert [file.name for file in tmp_path.iterdir()] == ["race.png"]


def test_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: object, target: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    picture_files.save_picture(Image.new("RGB", (4, 4)), tmp_path / "a.png")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["out.bmp", "out", "missing/out.png", ".", "nul\0.png", "x" * 252 + ".png"])
def test_names_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError) as caught:
        picture_files.save_picture(Image.new("RGB", (4, 4)), f"{tmp_path}/{name}")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        picture_files.save_picture(Image.new("RGB", (4, 4)), tmp_path / "file" / "out.png")


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that even root cannot write")
def test_unwritable_folder() -> None:
    with pytest.raises(OutputError, match="cannot write"):
        picture_files.save_picture(Image.new("RGB", (4, 4)), "/proc/out.png")


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the write fails half way."""
    (tmp_path / "old.png").write_bytes(b"old")
    script = (
        "import resource, sys; from PIL import Image; from opentar.core import picture_files\n"
        "from opentar.core.errors import OutputError\n"
        "image = Image.effect_noise((256, 256), 90)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: picture_files.save_picture(image, sys.argv[1], overwrite=True)\n"
        "except OutputError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", script, str(tmp_path / "old.png")], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("cannot write"), done.stderr
    assert (tmp_path / "old.png").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["old.png"]


@pytest.mark.parametrize("ending", [*ENDINGS, ".JPG", ".Png"])
def test_every_ending_has_its_format_and_tells_the_settings(tmp_path: Path, ending: str) -> None:
    path, image = tmp_path / f"out{ending}", _noise()
    picture_files.save_picture(image, path, SETTINGS)
    facts = read_facts(path)
    assert (facts.kind, facts.width, facts.height) == (ENDINGS[ending.lower()], 24, 16)
    assert facts.metadata == SETTINGS | {"nul": "a\N{REPLACEMENT CHARACTER}b"}
    with Image.open(path) as read:
        assert read.format == facts.kind
        away = np.abs(np.asarray(read.convert("RGB"), dtype=int) - np.asarray(image, dtype=int))
    # Noise is the hardest picture there is.
    assert away.mean() <= {"PNG": 0, "WEBP": 0, "JPEG": 4, "AVIF": 5}[facts.kind]


def test_png_is_the_same_to_the_byte_as_pillow_writes_it() -> None:
    from PIL.PngImagePlugin import PngInfo

    chunks, buffer = PngInfo(), io.BytesIO()
    chunks.add_itxt("prompt", "苹果")
    _noise().save(buffer, format="PNG", pnginfo=chunks)
    assert encode_picture(_noise(), "PNG", {"prompt": "苹果"}) == buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_a_text_longer_than_the_format_holds_costs_no_picture(tmp_path: Path, kind: str) -> None:
    long = {"seed": "7", "prompt": "apple " * 20_000}
    (tmp_path / "long").write_bytes(encode_picture(_noise(), kind, long))
    told = read_metadata(tmp_path / "long")
    assert told["seed"] == "7"
    if kind == "JPEG":
        assert told["prompt"].endswith("...")
        assert 20_000 < len(told["prompt"]) < 35_000
    else:
        assert told == long


def test_half_a_surrogate_pair_costs_no_picture(tmp_path: Path) -> None:
    for ending in ENDINGS:
        picture_files.save_picture(_noise(), tmp_path / f"a{ending}", {"prompt": "a\udc80b"})
        assert read_metadata(tmp_path / f"a{ending}") == {"prompt": "a?b"}


def test_transparent_parts_of_a_jpeg_are_white(tmp_path: Path) -> None:
    picture_files.save_picture(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), tmp_path / "a.jpg")
    assert Image.open(tmp_path / "a.jpg").getpixel((4, 4)) == (255, 255, 255)


def test_an_unknown_ending_names_the_four() -> None:
    for name in ("a.bmp", "a", "a.jpg.txt", ".png"):
        with pytest.raises(OutputError) as caught:
            picture_format(name)
        assert all(ending in str(caught.value) for ending in (".png", ".jpg", ".webp", ".avif"))


def test_a_format_that_pillow_was_built_without(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import features

    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    with pytest.raises(OutputError, match="has no AVIF"):
        picture_files.check_picture_path("a.avif")
    assert picture_format("a.webp") == "WEBP"


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_damaged_and_huge_texts_hide_no_others(tmp_path: Path) -> None:
    whole = encode_picture(_noise(), "PNG", {"seed": "7"})
    wrong = bytearray(_chunk(b"tEXt", b"wrong\0sum"))
    wrong[-1] ^= 1
    more = (
        _chunk(b"zTXt", b"bomb\0\0" + zlib.compress(bytes(64 << 20), 9))
        + _chunk(b"tEXt", b"no separator")
        + _chunk(b"iTXt", b"cut\0\1\0\0\0" + zlib.compress(b"x" * 99)[:9])
        + bytes(wrong)
        + _chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"{}" * 10**6))
        + _chunk(b"tEXt", b"Comment\0caf\xe9")
    )
    path = tmp_path / "a.png"
    for at in (33, len(whole) - 12):
        path.write_bytes(whole[:at] + more + whole[at:])
        assert read_metadata(path) == {"workflow": "{}" * 10**6, "Comment": "café", "seed": "7"}
    path.write_bytes(whole[:60] + b"\xff\xff\xff\xff")
    assert read_facts(path).width == 24


def test_what_other_programs_write(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "a cat\nSteps: 20".encode("utf-16-be")
    _noise().save(tmp_path / "a.jpg", exif=exif)
    assert read_metadata(tmp_path / "a.jpg") == {"UserComment": "a cat\nSteps: 20"}
    _noise().save(tmp_path / "b.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_metadata(tmp_path / "b.jpg") == {}
    for name, content in {"c.png": b"no picture", "d.png": b"", "e.avif": b"\0\0\0\x20ftypavif"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match="is not a picture that OpenTar reads"):
            read_metadata(tmp_path / name)
    for name in (tmp_path, tmp_path / "missing.png", "nul\0.png", "https://example.org/a.png"):
        with pytest.raises(ImageError, match=r"is not a (picture file|file name)"):
            read_metadata(name)


def test_a_name_as_long_as_the_file_system_takes_is_saved(tmp_path: Path) -> None:
    """241 to 255 bytes: the hidden name that it is written under must not be longer."""
    for length in (241, 255):
        path = tmp_path / ("x" * (length - 4) + ".png")
        picture_files.save_picture(_noise(), path)
        kept = picture_files.keep_picture(_noise(), path)
        assert kept.path == tmp_path / ("x" * 100 + "-2.png")
        kept.path.unlink()
    assert len(_names(tmp_path)) == 2


def test_a_link_that_leads_nowhere_is_there_already(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone")
    with pytest.raises(OutputError, match="there already"):
        picture_files.check_picture_path(tmp_path / "a.png")


def test_names_are_claimed_once_by_threads_and_processes(tmp_path: Path) -> None:
    """Four processes of four threads start together; all sixteen pictures stay, each under a name of its own."""
    program = (
        "import sys, threading; from pathlib import Path; from PIL import Image\n"
        "from opentar.core.picture_files import keep_picture\n"
        "start, found = threading.Barrier(4), []\n"
        "def keep(number):\n"
        "    image = Image.new('RGB', (4, 4), (int(sys.argv[2]), number, 0))\n"
        "    start.wait()\n"
        "    found.append(str(keep_picture(image, Path(sys.argv[1]) / 'opentar.png').path))\n"
        "sys.stdin.read()\n"
        "threads = [threading.Thread(target=keep, args=(number,)) for number in range(4)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "print('\\n'.join(found))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    processes = [
        subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    said: list[str] = []
    for process in processes:
        assert process.stdout is not None
        with process.stdout:
            said += process.stdout.read().split()
        assert process.wait() == 0
    assert _names(tmp_path) == sorted(["opentar.png", *(f"opentar-{number}.png" for number in range(2, 17))])
    assert sorted(said) == sorted(str(path) for path in tmp_path.iterdir())
    colours = {Image.open(path).getpixel((0, 0)) for path in tmp_path.iterdir()}
    assert colours == {(process, thread, 0) for process in range(4) for thread in range(4)}


def test_threads_without_hard_links_claim_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: object, target: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    keep = [threading.Thread(target=picture_files.keep_picture, args=(_noise(), tmp_path / "a.png")) for _ in range(6)]
    for thread in keep:
        thread.start()
    for thread in keep:
        thread.join()
    assert _names(tmp_path) == sorted(["a.png", *(f"a-{number}.png" for number in range(2, 7))])
    assert all(Image.open(path).size == (24, 16) for path in tmp_path.iterdir())


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A folder to save into, the current folder and the temporary one, each by itself."""
    made = {name: tmp_path / name for name in ("asked", "current", "temporary")}
    for folder in made.values():
        folder.mkdir()
    monkeypatch.chdir(made["current"])
    monkeypatch.setattr(tempfile, "tempdir", str(made["temporary"]))
    return made


def _vanish(folder: Path) -> None:
    """What holds for root too: a file stands where the folder was."""
    folder.rmdir()
    folder.touch()


@pytest.mark.parametrize(
    ("lost", "found"), [((), "asked"), (("asked",), "current"), (("asked", "current"), "temporary")]
)
def test_a_finished_picture_goes_to_the_next_place_that_takes_it(
    places: dict[str, Path], lost: tuple[str, ...], found: str
) -> None:
    for name in lost:
        places[name].rmdir()
    kept = picture_files.keep_picture(_noise(), places["asked"] / "out.webp", SETTINGS)
    assert kept.path.name == "out.webp"
    assert bool(kept.reason) == bool(lost)
    assert _names(places[found]) == ["out.webp"]
    assert read_metadata(places[found] / "out.webp")["seed"] == "7"


def test_only_where_nothing_can_be_written_a_picture_is_lost(places: dict[str, Path]) -> None:
    for folder in places.values():
        folder.rmdir()
    with pytest.raises(UnsavedError, match="No such file or directory"):
        picture_files.keep_picture(_noise(), places["asked"] / "out.png")


def test_the_next_free_name_beside_it(places: dict[str, Path]) -> None:
    folder = places["asked"]
    for name in ("out.png", "out-2.png"):
        (folder / name).write_bytes(b"mine")
    kept = picture_files.keep_picture(_noise(), folder / "out.png")
    assert (kept.path, kept.reason) == (folder / "out-3.png", "it is there already")
    (folder / "sub.png").mkdir()
    kept = picture_files.keep_picture(_noise(), folder / "sub.png", overwrite=True)
    assert (kept.path, kept.reason) == (folder / "sub-2.png", "Is a directory")
    kept = picture_files.keep_picture(_noise(), folder / "out.png", overwrite=True)
    assert (kept.path, kept.reason) == (folder / "out.png", "")
    assert (folder / "out-2.png").read_bytes() == b"mine"


def test_allowed_overwriting_holds_only_where_it_was_asked(places: dict[str, Path]) -> None:
    (places["current"] / "out.png").write_bytes(b"mine")
    places["asked"].rmdir()
    kept = picture_files.keep_picture(_noise(), places["asked"] / "out.png", overwrite=True)
    assert _names(places["current"]) == ["out-2.png", "out.png"]
    assert kept.path == Path("out-2.png")
    assert (places["current"] / "out.png").read_bytes() == b"mine"


def test_what_a_format_cannot_hold_becomes_a_png(places: dict[str, Path]) -> None:
    kept = picture_files.keep_picture(Image.new("RGB", (17_000, 2)), places["asked"] / "wide.webp", {"seed": "7"})
    assert kept.path == places["asked"] / "wide.png"
    assert "WEBP cannot hold a picture of 17000x2" in kept.reason
    assert read_metadata(kept.path) == {"seed": "7"}


@pytest.mark.skipif(sys.platform != "linux", reason="needs a device that is always full")
@pytest.mark.parametrize("links", [True, False])
def test_a_full_disk_keeps_the_picture_elsewhere_and_leaves_nothing_behind(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Writes below the folder end in /dev/full, so the error is the kernel's own."""
    real: Callable[..., object] = Path.open

    def full(path: Path, *given: object, **named: object) -> object:
        if path.parent == places["asked"]:
            real(path, *given, **named).close()
            return real(Path("/dev/full"), "wb")
        return real(path, *given, **named)

    monkeypatch.setattr(Path, "open", full)
    kept = picture_files.keep_picture(_noise(), places["asked"] / "out.png")
    assert (kept.path, kept.reason) == (Path("out.png"), "No space left on device")
    assert _names(places["asked"]) == []
    assert _names(places["current"]) == ["out.png"]
