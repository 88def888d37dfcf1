"""Bad pictures get one line; odd ones become the right RGB; nothing that was there is overwritten."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opentar.core import pictures
from opentar.core.errors import ImageError


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, depth: int, colour: int, rows: bytes, before: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = _chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + before + data + _chunk(b"IEND", b"")


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _frames() -> list[Image.Image]:
    return [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]


def _refused(source: object, *words: str) -> None:
    with pytest.raises(ImageError) as caught:
        pictures.open_picture(source)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert " at 0x" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP"])
def test_reads_every_allowed_format(kind: str) -> None:
    image = Image.new("RGB", (5, 4), (255, 0, 0))
    options = {"lossless": True} if kind == "WEBP" else {}
    read = pictures.open_picture(_encoded(image, kind, **options))
    assert read.mode == "RGB"
    assert read.size == (5, 4)
    assert read.getpixel((2, 2)) == (255, 0, 0)


def test_path_bytes_and_pil_give_the_same(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    path = tmp_path / "a picture.png"
    image.save(path)
    expected = image.tobytes()
    for source in (path, str(path), path.read_bytes(), image):
        assert pictures.open_picture(source).tobytes() == expected


def test_huge_png_is_refused_from_its_header() -> None:
    """20 kB claim 169 megapixels; the refusal must come before 169 MB are decoded."""
    side = 13_000
    content = _png(side, side, 1, 0, bytes((side // 8 + 1) * side))
    assert len(content) < 30_000
    script = (
        "import sys; from opentar.core import pictures; from opentar.core.errors import ImageError\n"
        "content = sys.stdin.buffer.read()\n"
        "pictures.Image.init()\n"
        "import resource; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: pictures.open_picture(content)\n"
        "except ImageError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    if sys.platform == "win32":
        return _refused(content, "13000x13000", "40 megapixels")
    done = subprocess.run([sys.executable, "-c", script], input=content, capture_output=True, check=True)
    message, grown = done.stdout.decode().splitlines()
    assert "13000x13000" in message
    assert "40 megapixels" in message
    assert int(grown) < 40_000, "kilobytes: the picture was decoded"
    assert done.stderr == b""


def test_header_far_over_pillows_own_limit() -> None:
    _refused(_png(60_000, 60_000, 1, 0, b"\0"), "megapixels")


def test_just_over_and_just_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100)
    assert pictures.open_picture(Image.new("RGB", (10, 10))).size == (10, 10)
    _refused(Image.new("RGB", (10, 11)), "10x11")


def test_too_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    Image.effect_noise((64, 64), 90).save(path)
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 1000)
    _refused(path, "large.png", "MiB")
    _refused(path.read_bytes(), "MiB")


def test_phone_jpeg_with_a_second_picture_is_read() -> None:
    content = _encoded(Image.new("RGB", (8, 8), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    assert pictures.open_picture(content).size == (8, 8)


def test_cmyk_jpeg() -> None:
    content = _encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    red, green, blue = pictures.open_picture(content).getpixel((4, 4))
    assert red > 240
    assert green < 15
    assert blue < 15


def test_sixteen_bit_grey_keeps_its_range() -> None:
    values = [0, 257, 32_896, 65_535]
    row = b"\0" + struct.pack(">4H", *values)
    image = pictures.open_picture(_png(4, 2, 16, 0, row * 2))
    assert [image.getpixel((x, 1))[0] for x in range(4)] == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I"])
def test_sixteen_bit_grey_is_rounded_in_bands_of_little_memory(mode: str) -> None:
    values = np.arange(1_500 * 1_001, dtype=np.int64).reshape(1_001, 1_500) % 65_536
    if mode == "I":
        image = Image.fromarray(values.astype(np.int32))
    else:
        order = ">u2" if mode == "I;16B" else "<u2"
        image = Image.frombytes(mode, (1_500, 1_001), values.astype(order).tobytes())
    tracemalloc.start()
    read = pictures.open_picture(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(np.asarray(read)[..., 1], (values + 128) // 257)
    # One copy of all values in 64 bits, as numpy counts by default, would take 12 MB.
    assert peak < 6_000_000


def test_sixteen_bit_colour() -> None:
    row = b"\0" + struct.pack(">6H", 65_535, 0, 0, 0, 65_535, 32_896)
    image = pictures.open_picture(_png(2, 2, 16, 2, row * 2))
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert image.getpixel((1, 0)) == (0, 255, 128)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_goes_over_white(mode: str) -> None:
    clear = Image.new(mode, (4, 4), (0, 0, 0, 0) if mode == "RGBA" else (0, 0))
    assert pictures.open_picture(_encoded(clear, "PNG")).getpixel((0, 0)) == (255, 255, 255)


def test_half_transparent_is_mixed() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    red, green, blue = pictures.open_picture(_encoded(image, "PNG")).getpixel((0, 0))
    assert red == 255
    assert green == blue == 127


def test_palette_with_a_transparent_colour() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    read = pictures.open_picture(_encoded(image, "PNG", transparency=1))
    assert read.getpixel((0, 0)) == (255, 0, 0)
    assert read.getpixel((3, 3)) == (255, 255, 255)


def test_exif_turn_is_obeyed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert pictures.open_picture(_encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)).size == (4, 8)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_too_small(size: tuple[int, int]) -> None:
    _refused(_encoded(Image.new("RGB", size), "PNG"), f"{size[0]}x{size[1]}", "2x2")


def test_smallest_accepted() -> None:
    assert pictures.open_picture(_encoded(Image.new("RGB", (2, 2)), "PNG")).size == (2, 2)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_truncated(kind: str, share: float) -> None:
    content = _encoded(Image.effect_noise((64, 64), 90).convert("RGB"), kind)
    _refused(content[: int(len(content) * share)], "picture")


def test_text_file_with_a_picture_name(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_text("I am a cat")
    _refused(path, "cat.png", "PNG, JPEG, WebP, AVIF, TIFF, GIF or BMP")


def test_missing_folder_empty_and_addresses(tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    _refused(tmp_path / "none.png", "there is no picture", "none.png")
    _refused(tmp_path, "is a folder")
    _refused(empty, "empty.png", "is empty")
    _refused(b"", "is empty")
    _refused("https://example.org/cat.png", "is an address", "download")
    _refused("data:image/png;base64,AAAA", "is an address")
    _refused("nul\0name.png", "picture")
    _refused("x" * 5000, "...")
    _refused(None, "NoneType")
    _refused(7, "int")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    _refused(tmp_path / "pipe.png", "not an ordinary file")


def test_name_with_control_characters_stays_one_harmless_line(tmp_path: Path) -> None:
    _refused(tmp_path / "a\nb\x1b[31m.png", r"\n", r"\x1b")


def test_given_picture_is_not_changed() -> None:
    image = Image.new("RGB", (4, 4), "red")
    pictures.open_picture(image).putpixel((0, 0), (0, 0, 0))
    assert image.getpixel((0, 0)) == (255, 0, 0)
