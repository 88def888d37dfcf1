"""Each kind of picture file is read or refused as the table says: frames, depths, colours, arrays, file objects."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from opentar.core import picture_decoders, pictures
from opentar.core.errors import ImageError
from opentar.core.picture_decoders import HEIF, LEFT_OUT, READ, is_heif
from opentar.core.picture_depth import white_of
from opentar.core.pictures import FramesWarning, open_picture


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def smooth(width: int = 24, height: int = 16) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    values = np.stack([columns * 10, rows * 15, 255 - columns * 10], -1)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def sun() -> bytes:
    image = smooth()
    pixels = np.asarray(image)[..., ::-1].tobytes()
    return struct.pack(">8I", 0x59A66A95, *image.size, 24, len(pixels), 1, 0, 0) + pixels


def xpm() -> bytes:
    rows = ",\n".join('"' + "ab" * 8 + '"' for _ in range(16))
    return f'/* XPM */\nstatic char *x[] = {{\n"16 16 2 1",\n"a c #ff0000",\n"b c #0000ff",\n{rows}\n}};\n'.encode()


def fits() -> bytes:
    cards = ["SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    2"]
    cards += ["NAXIS1  =                   16", "NAXIS2  =                   16", "END"]
    header = "".join(card.ljust(80) for card in cards).encode().ljust(2880)
    return header + bytes(range(256)).ljust(2880, b"\0")


def psd() -> bytes:
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 16, 16, 8, 3)
    return header + struct.pack(">III", 0, 0, 0) + struct.pack(">H", 0) + bytes(range(256)) * 3


def cur() -> bytes:
    content = bytearray(encoded(smooth(16, 16), "ICO", sizes=[(16, 16)], bitmap_format="bmp"))
    content[2] = 2
    return bytes(content)


def dcx() -> bytes:
    page = encoded(smooth(), "PCX")
    return struct.pack("<4I", 987654321, 16, 16 + len(page), 0) + page + page


HAND_MADE = {"SUN": sun, "XPM": xpm, "FITS": fits, "PSD": psd, "CUR": cur, "DCX": dcx}
LOSSY = {"JPEG", "AVIF", "WEBP", "JPEG2000"}


def sample(kind: str) -> bytes:
    """A small file of the kind."""
    if kind in HAND_MADE:
        return HAND_MADE[kind]()
    image = smooth(32, 32) if kind in ("ICO", "ICNS") else smooth()
    mode = {"MSP": "1", "XBM": "1", "GIF": "P"}.get(kind)
    return encoded(image.convert(mode) if mode else image, kind, **({"quality": 95} if kind in LOSSY else {}))


def read(source: object, **options: object) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return open_picture(source, **options)


def test_every_kind_that_pillow_knows_is_read_or_left_out_for_a_reason() -> None:
    Image.init()
    assert set(Image.OPEN) - {HEIF} == {*READ, *LEFT_OUT}
    assert not set(READ) & set(LEFT_OUT)


def test_the_table_for_users_names_what_the_code_reads(root: Path) -> None:
    text = (root / "docs" / "inputs.md").read_text(encoding="utf-8")
    for told in (*READ.values(), "HEIC"):
        assert f"| {told}" in text, told
    for kind in ("EPS", "PDF", "WMF", "TGA", "PCD", "HDF5"):
        assert kind in text, kind


@pytest.mark.parametrize("kind", sorted(READ))
def test_each_kind_is_read(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FramesWarning)
        image = open_picture(sample(kind))
    assert image.mode == "RGB"
    values = np.asarray(image)
    assert values.min() < 60 and values.max() > 190
    if kind not in HAND_MADE and kind not in ("MSP", "XBM", "GIF", "ICNS"):
        wanted = np.asarray(smooth(32, 32) if kind == "ICO" else smooth()).astype(int)
        assert np.abs(values - wanted).mean() < (9 if kind in (*LOSSY, "DDS") else 1), kind


@pytest.mark.parametrize("kind", ["EPS", "PDF", "TGA", "SPIDER", "BLP"])
def test_kinds_that_are_left_out(kind: str) -> None:
    image = smooth().convert("L") if kind == "SPIDER" else smooth()
    image = image.convert("P") if kind == "BLP" else image
    with pytest.raises(ImageError, match="is not a picture that OpenTar reads"):
        open_picture(encoded(image, kind))


def heic(brand: bytes = b"heic") -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + b"\0\0\0\0mif1" + brand + bytes(40)


def test_heic_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "heif_installed", lambda: False)
    with pytest.raises(ImageError, match=r"is a HEIC picture .* pip install 'opentar\[heif\]'"):
        open_picture(heic())
    assert not is_heif(encoded(smooth(), "AVIF"))
    assert not is_heif(b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif")


def test_heic_with_its_library() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    assert picture_decoders.heif_installed()
    buffer = io.BytesIO()
    pillow_heif.from_pillow(smooth(64, 64)).save(buffer, quality=90)
    assert is_heif(buffer.getvalue())
    difference = np.asarray(read(buffer.getvalue())).astype(int) - np.asarray(smooth(64, 64))
    assert np.abs(difference).mean() < 6
    with pytest.raises(ImageError, match=r"damaged|not a picture"):
        open_picture(buffer.getvalue()[:200])


FRAMES = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
MOVING = {
    "GIF": {"duration": 50}, "PNG": {"duration": 50}, "WEBP": {"duration": 50, "lossless": True},
    "TIFF": {}, "AVIF": {"duration": 50, "quality": 90},
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(MOVING))
def test_frames(kind: str) -> None:
    content = encoded(FRAMES[0], kind, save_all=True, append_images=FRAMES[1:], **MOVING[kind])
    with pytest.warns(FramesWarning, match=r"has 3 frames and the first is read; .*--frame.* 0 to 2"):
        first = open_picture(content)
    for number, wanted in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255))):
        made = read(content, frame=number)
        assert np.abs(np.array(made.getpixel((4, 4))) - wanted).max() < 12
        assert number or made.tobytes() == first.tobytes()
    with pytest.raises(ImageError, match="frame 3 does not exist; the picture has 3 frames, counted from 0"):
        open_picture(content, frame=3)


@pytest.mark.parametrize("frame", [-1, True, 1.5, "0"])
def test_what_is_no_frame(frame: object) -> None:
    with pytest.raises(ImageError, match="counted from 0"):
        open_picture(encoded(FRAMES[0], "PNG"), frame=frame)


def test_a_still_picture_has_one_frame() -> None:
    assert read(encoded(FRAMES[0], "PNG"), frame=0).size == (8, 8)
    with pytest.raises(ImageError, match="has one frame"):
        open_picture(encoded(FRAMES[0], "PNG"), frame=1)
    two = encoded(FRAMES[0], "MPO", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    assert read(two).size == (8, 8), "a phone's small copy is no frame"


def test_the_limit_holds_for_every_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100)
    content = encoded(FRAMES[0], "TIFF", save_all=True, append_images=[Image.new("RGB", (20, 20))])
    assert read(content, frame=0).size == (8, 8)
    with pytest.raises(ImageError, match="20x20 pixels; at most"):
        open_picture(content, frame=1)


@pytest.mark.parametrize("kind", ["ICO", "ICNS"])
def test_a_large_png_inside_a_small_icon(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.new("RGB", (256, 256)), kind)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 60_000)
    with pytest.raises(ImageError, match="256x256 pixels; at most"):
        open_picture(content)


def grey_tiff(values: np.ndarray, **tags: int) -> bytes:
    return encoded(Image.fromarray(values), "TIFF", tiffinfo={262: tags["photometric"]} if tags else {})


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.array([[0, 257], [32_896, 65_535]], np.uint16), [0, 1, 128, 255]),
        (np.array([[0, 2048], [1024, 4095]], np.uint16), [0, 128, 64, 255]),
        (np.array([[0, 512], [1, 1023]], np.uint16), [0, 128, 0, 255]),
        (np.array([[0, 100], [200, 255]], np.uint16), [0, 100, 200, 255]),
        (np.array([[0, 1 << 19], [0, (1 << 20) - 1]], np.int32), [0, 128, 0, 255]),
        (np.array([[-100, 27], [0, 155]], np.int32), [0, 127, 100, 255]),
        (np.array([[-(2**31), 2**31 - 1], [0, 0]], np.int32), [0, 255, 128, 128]),
        (np.array([[0, 0.5], [0.25, 1]], np.float32), [0, 128, 64, 255]),
        (np.array([[0, 0.5], [0.25, 0.25]], np.float32), [0, 128, 64, 64]),
        (np.array([[-10, 0], [5, 10]], np.float32), [0, 128, 191, 255]),
        (np.array([[np.nan, np.inf], [-np.inf, 0.5]], np.float32), [0, 255, 0, 128]),
        (np.array([[7, 7], [7, 7]], np.float32), [127, 127, 127, 127]),
        (np.array([[40_000, 40_000], [40_000, 40_000]], np.uint16), [156, 156, 156, 156]),
    ],
)
def test_grey_values_as_a_person_sees_them(values: np.ndarray, wanted: list[int]) -> None:
    for source in (Image.fromarray(values), grey_tiff(values)):
        image = read(source)
        found = [image.getpixel((x, y))[0] for y in range(2) for x in range(2)]
        assert np.abs(np.array(found) - wanted).max() <= 1, found


def test_depths() -> None:
    assert [white_of(span) for span in (0, 255, 256, 1023, 4095, 4096, 65_535, 65_536, 2**32 - 1)] == [
        255, 255, 1023, 1023, 4095, 16_383, 65_535, 2**20 - 1, 2**32 - 1,
    ]  # fmt: skip


def test_a_tiff_whose_zero_is_white() -> None:
    values = np.array([[0, 1000], [2000, 4095]], np.uint16)
    plain, turned = (read(grey_tiff(values, photometric=photometric)) for photometric in (1, 0))
    assert np.abs(np.asarray(plain).astype(int) + np.asarray(turned) - 255).max() <= 1


def test_fractions_without_a_finite_value() -> None:
    with pytest.raises(ImageError, match="no finite value"):
        open_picture(Image.fromarray(np.full((4, 4), np.nan, np.float32)))


def test_a_picture_of_lab() -> None:
    lab = ImageCms.profileToProfile(
        smooth(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert np.abs(np.asarray(read(lab)).astype(int) - np.asarray(smooth())).mean() < 4


ARRAYS = {
    "uint8": np.asarray(smooth()),
    "fractions": np.asarray(smooth()).astype(np.float32) / 255,
    "double": np.asarray(smooth()) / 255.0,
    "uint16": np.asarray(smooth()).astype(np.uint16) * 257,
}


@pytest.mark.parametrize("name", sorted(ARRAYS))
def test_arrays(name: str) -> None:
    array = ARRAYS[name]
    wanted = np.asarray(smooth())
    assert np.array_equal(np.asarray(read(array)), wanted)
    assert np.array_equal(np.asarray(read(array[..., 0])), np.repeat(wanted[..., :1], 3, -1))
    assert np.array_equal(np.asarray(read(array[..., :1])), np.repeat(wanted[..., :1], 3, -1))
    opaque = np.full((*array.shape[:2], 1), array.max(), array.dtype)
    assert np.array_equal(np.asarray(read(np.concatenate([array, opaque], -1))), wanted)
    if array.dtype != np.uint16:
        assert np.array_equal(np.asarray(read(torch.from_numpy(array.copy()))), wanted)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((3, 20, 20), np.uint8), r"channels first; transpose it: array.transpose\(1, 2, 0\)"),
        (np.zeros((20, 20, 2), np.uint8), r"shape \(20, 20, 2\); a picture has"),
        (np.zeros((2, 20, 20, 3), np.uint8), "a picture has"),
        (np.zeros(20, np.uint8), "a picture has"),
        (np.zeros((0, 20, 3), np.uint8), "empty"),
        (np.zeros((20, 20), np.int64), "of type int64; give uint8, uint16, or fractions"),
        (np.zeros((20, 20), bool), "of type bool"),
        (np.full((20, 20), 255.0), "values from 255 to 255; fractions must lie from 0 to 1"),
        (np.full((20, 20), -0.1), "values from -0.1"),
        (np.full((20, 20), np.nan), "holds NaN"),
        (np.zeros((1, 20), np.uint8), "at least 2x2"),
        (np.broadcast_to(np.uint8(0), (9000, 9000)), "9000x9000 pixels; at most 40 megapixels"),
        (torch.zeros(20, 20, requires_grad=True), "cannot be read as an array"),
    ],
)
def test_arrays_that_are_no_picture(array: object, told: str) -> None:
    with pytest.raises(ImageError, match=told) as caught:
        open_picture(array)
    assert "\n" not in str(caught.value)


def test_file_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    smooth().save(path)
    wanted = smooth().tobytes()
    with path.open("rb") as file:
        assert read(file).tobytes() == wanted
        assert not file.closed
    stream = io.BytesIO(b"before" + path.read_bytes())
    stream.seek(6)
    assert read(stream).tobytes() == wanted
    with path.open(encoding="latin-1") as text, pytest.raises(ImageError, match="not bytes; open the file with"):
        open_picture(text)
    stream.close()
    with pytest.raises(ImageError, match="cannot be read"):
        open_picture(stream)
    with pytest.raises(ImageError, match="is empty"):
        open_picture(io.BytesIO())
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 50)
    with path.open("rb") as file, pytest.raises(ImageError, match="larger than"):
        open_picture(file)


def profile(name: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


def swapped_profile() -> bytes:
    """sRGB with its red and blue primaries exchanged: a picture with it has red where its numbers say blue."""
    content = bytearray(profile("sRGB"))
    tags = {content[place : place + 4].decode(): place for place in range(132, 132 + 12 * content[131], 12)}
    red, blue = (content[tags[tag] + 4 : tags[tag] + 12] for tag in ("rXYZ", "bXYZ"))
    content[tags["rXYZ"] + 4 : tags["rXYZ"] + 12], content[tags["bXYZ"] + 4 : tags["bXYZ"] + 12] = blue, red
    text = content.find("sRGB".encode("utf-16-be"))
    content[text : text + 8] = "test".encode("utf-16-be")
    return bytes(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_profile_decides_what_colours_mean(kind: str) -> None:
    red = Image.new("RGB", (8, 8), (250, 10, 10))
    options = {"quality": 95} if kind in LOSSY else {}
    plain = read(encoded(red, kind, **options)).getpixel((4, 4))
    told = read(encoded(red, kind, icc_profile=swapped_profile(), **options)).getpixel((4, 4))
    assert plain[0] > 235 and plain[2] < 25
    assert told[2] > 235 and told[0] < 25
    same = encoded(smooth(), kind, icc_profile=profile("sRGB"), **options)
    assert read(same).tobytes() == read(encoded(smooth(), kind, **options)).tobytes()


def test_a_profile_and_transparency() -> None:
    layer = Image.new("RGBA", (8, 8), (250, 10, 10, 255))
    layer.putpixel((0, 0), (250, 10, 10, 0))
    image = read(encoded(layer, "PNG", icc_profile=swapped_profile()))
    assert image.getpixel((0, 0)) == (255, 255, 255) and image.getpixel((4, 4))[2] > 240


@pytest.mark.parametrize("broken", [b"nonsense", swapped_profile()[:200], bytes(6 << 20)], ids=["text", "cut", "large"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_profile_that_cannot_be_read_is_passed_over(kind: str, broken: bytes) -> None:
    wanted = read(encoded(smooth(), kind)).tobytes()
    if kind == "JPEG" and len(broken) > 1 << 20:
        broken = broken[: 255 * 65_000]
    assert read(encoded(smooth(), kind, icc_profile=broken)).tobytes() == wanted
