"""What stands beside the pixels does not decide whether a picture opens; damaged pixels still do."""

from __future__ import annotations

import io
import struct
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from test_picture_kinds import READ, encoded, read, sample, smooth, swapped_profile

from opentar.core.errors import ImageError
from opentar.core.pictures import open_picture

SIGNATURE = 8


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(content: bytes, extra: bytes) -> bytes:
    """A PNG with one more block behind its header."""
    return content[: SIGNATURE + 25] + extra + content[SIGNATURE + 25 :]


PNG = encoded(smooth(), "PNG")
BAD_CRC = chunk(b"tEXt", b"Comment\0hello")[:-1] + b"\0"
BESIDE = {
    "2 MB of text": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"node " * 500_000)),
    "64 MB of text": chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(bytes(64 << 20), 9)),
    "many texts": b"".join(chunk(b"tEXt", b"k%d\0" % number + b"v" * 1000) for number in range(3000)),
    "a wrong checksum": BAD_CRC,
    "a wrong checksum in what is kept": chunk(b"gAMA", struct.pack(">I", 45455))[:-1] + b"\0",
    "a profile of 8 MB": chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(8 << 20))),
    "a profile that is no deflate": chunk(b"iCCP", b"x\0\0nonsense"),
    "EXIF that is none": chunk(b"eXIf", b"nonsense"),
    "an unknown block": chunk(b"heRe", bytes(100)),
}


@pytest.mark.parametrize("name", sorted(BESIDE))
def test_what_stands_beside_the_pixels_of_a_png(name: str) -> None:
    assert read(with_chunk(PNG, BESIDE[name])).tobytes() == smooth().tobytes()


def test_a_large_profile_is_used_where_pillow_would_refuse_the_picture() -> None:
    padded = swapped_profile() + bytes(2 << 20)
    padded = struct.pack(">I", len(padded)) + padded[4:]
    red = encoded(Image.new("RGB", (8, 8), (250, 10, 10)), "PNG")
    body = b"x\0\0" + zlib.compress(padded)
    assert read(with_chunk(red, chunk(b"iCCP", body))).getpixel((4, 4))[2] > 240


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damaged_pixels_are_still_refused(damage: str) -> None:
    content = bytearray(encoded(Image.effect_noise((64, 64), 90), "PNG"))
    place = content.index(b"IDAT")
    if damage == "flip":
        content[place + 200] ^= 255
    else:
        del content[len(content) // 2 :]
    with pytest.raises(ImageError, match=r"damaged|not a picture"):
        open_picture(bytes(content))


def exif(entries: list[tuple[int, int, int, bytes]], order: str = "<", tail: bytes = b"") -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    rows = b"".join(struct.pack(f"{order}HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"Exif\0\0" + mark + struct.pack(f"{order}IH", 8, len(entries)) + rows + struct.pack(f"{order}I", 0) + tail


def turned(order: str = "<", value: int = 6) -> tuple[int, int, int, bytes]:
    return (0x0112, 3, 1, struct.pack(f"{order}HH", value, 0))


RATIONAL = (0x011A, 5, 1, struct.pack("<I", 1 << 30))
EXIFS = {
    "a rational outside of the block": (exif([RATIONAL, turned()]), True),
    "behind it": (exif([turned(), RATIONAL]), True),
    "a wrong count": (exif([turned(), (0x010F, 2, 1 << 30, b"abcd")]), True),
    "big-endian": (exif([turned(">")], ">"), True),
    "cut short behind the orientation": (exif([turned(), RATIONAL, RATIONAL])[:28], True),
    "cut short before it": (exif([RATIONAL, turned()])[:20], False),
    "an orientation of 77": (exif([turned(value=77)]), False),
    "an orientation that is text": (exif([(0x0112, 2, 1, b"6\0\0\0")]), False),
    "a directory elsewhere": (b"Exif\0\0II*\0" + struct.pack("<I", 1 << 31), False),
    "nothing": (b"Exif\0\0", False),
    "a thumbnail of nonsense": (exif([turned()], tail=bytes(3000)), True),
}


@pytest.mark.parametrize("name", sorted(EXIFS))
def test_exif_of_a_jpeg(name: str) -> None:
    block, turns = EXIFS[name]
    content = encoded(smooth(24, 16), "JPEG", quality=95)
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    xmp = b"\xff\xe1" + struct.pack(">H", 40) + b"http://ns.adobe.com/xap/1.0/\0<x".ljust(38, b"?")
    image = read(content[:2] + xmp + segment + content[2:])
    assert image.size == ((16, 24) if turns else (24, 16))
    plain = read(content)
    assert image.tobytes() == (plain.transpose(Image.Transpose.ROTATE_270) if turns else plain).tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_of_every_kind(kind: str, value: int) -> None:
    told = Image.Exif()
    told[0x0112] = value
    image = read(encoded(smooth(24, 16), kind, exif=told, **({"quality": 95} if kind in ("JPEG", "AVIF") else {})))
    moves = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }  # fmt: skip
    wanted = smooth(24, 16).transpose(moves[value]) if value > 1 else smooth(24, 16)
    assert image.size == wanted.size
    assert np.abs(np.asarray(image).astype(int) - np.asarray(wanted)).mean() < 6


@pytest.mark.parametrize("marker", [0xE1, 0xE2, 0xED, 0xFE])
def test_junk_in_the_blocks_of_a_jpeg(marker: int) -> None:
    content = encoded(smooth(), "JPEG")
    junk = bytes([0xFF, marker]) + struct.pack(">H", 65_535) + bytes(range(256)) * 255 + bytes(253)
    assert read(content[:2] + junk * 20 + content[2:]).tobytes() == read(content).tobytes()


def test_adobes_cmyk_stays_right() -> None:
    content = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    red, green, blue = read(content).getpixel((4, 4))
    assert red > 240 and green < 15 and blue < 15


def test_no_switch_of_pillow_is_touched() -> None:
    from PIL import ImageFile, PngImagePlugin

    before = (ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK, Image.MAX_IMAGE_PIXELS)
    seen: list[tuple[object, ...]] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.append((ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK, Image.MAX_IMAGE_PIXELS))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for name in ("2 MB of text", "a profile of 8 MB"):
            read(with_chunk(PNG, BESIDE[name]))
    finally:
        stop.set()
        watcher.join()
    assert set(seen) == {before}


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Bytes flipped, cut, doubled or overwritten with extreme numbers; most of it near the beginning."""
    made = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        place = int(len(made) * rng.random() ** 3) if made else 0
        match int(rng.integers(5)):
            case 0:
                made[place : place + 1] = bytes([int(rng.integers(256))])
            case 1:
                made[place : place + 4] = [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"][int(rng.integers(3))]
            case 2:
                del made[place : place + int(rng.integers(1, 40))]
            case 3:
                made[place:place] = made[place : place + int(rng.integers(1, 40))]
            case _:
                del made[max(place, 20) :]
    return bytes(made)


@pytest.mark.parametrize("kind", sorted({*READ, "HEIF"}))
def test_mutated_files_become_a_picture_or_one_line(kind: str) -> None:
    """300 files a kind, or as many as eight seconds allow; at least thirty."""
    if kind == "HEIF":
        pillow_heif = pytest.importorskip("pillow_heif")
        buffer = io.BytesIO()
        pillow_heif.from_pillow(smooth(64, 64)).save(buffer, quality=50)
        samples = [buffer.getvalue()]
    else:
        samples = [sample(kind)]
        if kind in ("PNG", "JPEG", "TIFF", "WEBP"):
            samples.append(encoded(smooth(), kind, icc_profile=swapped_profile()))
    rng, deadline, outcomes = np.random.default_rng(len(kind)), time.monotonic() + 8, []
    told: list[str] = []
    for number in range(300):
        content = mutated(samples[number % len(samples)], rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                image = open_picture(content)
                outcomes.append(True)
                assert image.mode == "RGB" and min(image.size) >= 2
            except ImageError as error:
                outcomes.append(False)
                told.append(str(error))
        if time.monotonic() > deadline:
            break
    assert len(outcomes) >= 30
    assert [line for line in told if "\n" in line or " at 0x" in line] == []
    assert not all(outcomes), "some mutations must break a file, or none reached the decoder"
