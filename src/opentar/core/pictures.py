"""Pictures in: files, bytes, file objects, arrays and PIL pictures become 8-bit RGB before any model sees them.

Everything that can be wrong with a picture is found here. The size is taken from the header, before decoding: 20 kB of
PNG can claim 13,000 x 13,000 pixels and ask for 839 MB. What each kind of file becomes stands in `docs/inputs.md`.
"""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import IO, Any

from PIL import Image

from opentar.core.config import plain_number
from opentar.core.errors import ImageError, ImageKindError, ImageSizeError, shown
from opentar.core.picture_arrays import is_array, picture_of
from opentar.core.picture_colour import from_lab, in_srgb
from opentar.core.picture_decoders import COMMON, HEIF, READ, STILL, heif_installed, is_heif
from opentar.core.picture_depth import INTEGER_MODES, eight_bit
from opentar.core.picture_metadata import Cleaned, only_the_picture, upright

Source = str | Path | bytes | IO[bytes] | Image.Image | Any
"""A path, the bytes of a file, an open binary file, a PIL picture or an array (`picture_arrays.picture_of`)."""
MAX_PIXELS = 40_000_000
MIN_SIDE = 2
MAX_FILE_BYTES = 128 << 20
MOST_FRAMES = 1000
"""Pages of a TIFF that are counted and can be chosen."""
MAX_TEXT_KIND_BYTES = 4 << 20
"""Largest XPM, and PBM, PGM or PPM written in digits: Pillow reads them in Python, some megabytes a second."""
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_SAMPLE_FORMAT, _UNSIGNED = 339, 1
_PNG_HEADER = b"IHDR"
_NESTED = (b"\0\0\1\0", b"\0\0\2\0", b"icns")
"""How ICO, CUR and ICNS begin: they hold whole PNG files, whose own headers Pillow believes."""


class FramesWarning(UserWarning):
    """A file holds several frames or pages, and one of them was read."""


def open_picture(source: Source, name: str = "the picture", frame: int | None = None) -> Image.Image:
    """The picture as 8-bit RGB in sRGB, turned as its EXIF says, transparent parts over white, fully decoded.

    Args:
        source: a path, the bytes of a picture file, a file open for reading bytes (read from where it stands, not
            closed), a PIL picture (which is not changed), or an array (see `picture_arrays.picture_of`).
        name: what errors call a picture that is no path.
        frame: which frame of an animation or page of a file, from 0; None is the first, with a FramesWarning where
            there are more.

    Raises:
        ImageError: missing, not a picture, damaged, under 2 pixels a side, or without such a frame.
        ImageSizeError: one of them, for more than 40 megapixels or 128 MiB.
        ImageKindError: one of them, for what no reader knows by its beginning.
    """
    frame = plain_number(frame)
    if frame is not None and (not isinstance(frame, int) or isinstance(frame, bool) or frame < 0):
        raise ImageError(f"frame {shown(frame)} does not exist; frames are counted from 0")
    if isinstance(source, Image.Image):
        return _checked_rgb(source, name, frame)
    if not isinstance(source, (str, Path, bytes, bytearray, memoryview)) and is_array(source):
        if frame:
            raise ImageError(f"{name} is an array and has one frame; leave frame out")
        return _checked_rgb(picture_of(source, name, MAX_PIXELS), name, None)
    name, content = _content(source, name)
    if not content:
        raise ImageError(f"{name} is empty; give a {COMMON} picture")
    cleaned = only_the_picture(content)
    with _header(cleaned.content, name) as image:
        return _checked_rgb(image, name, frame, cleaned)


def _content(source: object, name: str) -> tuple[str, bytes]:
    """What errors call the file, and its bytes."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return name, bytes(source)
    if isinstance(source, (str, Path)):
        return shown(source), _file_bytes(source)
    if not hasattr(source, "read"):
        kind = type(source).__name__
        raise ImageError(
            f"a picture cannot be read from a {kind}; give a path, the bytes of a file, an open binary file, an array "
            "or a PIL picture"
        )
    given = getattr(source, "name", None)
    name = shown(given) if isinstance(given, str) else name
    content = b""
    try:
        # A pipe or a socket gives what it has, in several reads.
        while len(content) <= MAX_FILE_BYTES:
            part = source.read(MAX_FILE_BYTES + 1 - len(content))
            if not isinstance(part, bytes):
                raise ImageError(f"{name} gives {type(part).__name__}, not bytes; open the file with mode 'rb'")
            if not part:
                break
            content += part
    except ImageError:
        raise
    # Whatever a file object of somebody's own raises; its text may hold an address.
    except Exception as error:
        reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        raise ImageError(f"{name} cannot be read ({reason}); open it for reading bytes") from error
    return name, content


def _file_bytes(source: str | Path) -> bytes:
    name = shown(source)
    if not str(source).strip():
        raise ImageError(f"the name of the picture is empty; give the path of a {COMMON} file")
    if str(source).lower().startswith(("http:", "https:", "ftp:", "file:", "data:")):
        raise ImageError(f"{name} is an address; OpenTar reads files only: download the picture and give its path")
    try:
        path = Path(source)
        if path.is_dir():
            raise ImageError(f"{name} is a folder; give the path of one {COMMON} picture in it")
        if not path.exists():
            raise ImageError(f"there is no picture {name}; give the path of a {COMMON} file")
        # A pipe or a device would block or never end.
        if not path.is_file():
            raise ImageError(f"{name} is not an ordinary file; give the path of a {COMMON} picture")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ImageSizeError(f"{name} is larger than {MAX_FILE_BYTES >> 20} MiB; give a smaller picture")
        return path.read_bytes()
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(f"{name} cannot be read ({error.strerror}); check the name and its permissions") from error
    except ValueError as error:
        raise ImageError(f"{name} is not a file name; give the path of a {COMMON} picture") from error


def _header(content: bytes, name: str) -> Image.Image:
    """Open without decoding. Pillow's own size check only warns or has a far larger limit; both become one line."""
    if len(content) > MAX_FILE_BYTES:
        raise ImageSizeError(f"{name} is larger than {MAX_FILE_BYTES >> 20} MiB; give a smaller picture")
    kinds = list(READ)
    if is_heif(content):
        if not heif_installed():
            raise ImageError(
                f"{name} is a HEIC picture and pillow-heif is not installed; install it with: pip install "
                "'opentar[heif]', or save the picture as JPEG"
            )
        kinds = [HEIF]
    if content[:4] in _NESTED:
        # Pillow decodes an ICO when it opens it.
        _check_nested(content, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=kinds)
    except Image.DecompressionBombError as error:
        raise ImageSizeError(f"{name} is far over {MAX_PIXELS // 10**6} megapixels; give a smaller picture") from error
    # Decoders raise nearly anything on hostile bytes; their texts hold addresses and are not passed on.
    except Exception as error:
        raise ImageKindError(f"{name} is not a picture that OpenTar reads; give a {COMMON} file") from error
    if (image.format == "XPM" or content[:2] in (b"P1", b"P2", b"P3")) and len(content) > MAX_TEXT_KIND_BYTES:
        limit = MAX_TEXT_KIND_BYTES >> 20
        raise ImageSizeError(f"{name} is a picture in text of more than {limit} MiB; save it as PNG")
    return image


def _check_nested(content: bytes, name: str) -> None:
    """The size in every header of a PNG file inside another one: it decides what is decoded, not the outer one."""
    place = content.find(_PNG_HEADER)
    while place >= 0:
        start = place + len(_PNG_HEADER)
        if len(content) >= start + 8:
            width, height = struct.unpack(">II", content[start : start + 8])
            _check_size((width, height), name)
        place = content.find(_PNG_HEADER, start)


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 10**6
        raise ImageSizeError(
            f"{name} has {width}x{height} pixels; at most {limit} megapixels are read: make it smaller"
        )


def _checked_rgb(image: Image.Image, name: str, frame: int | None, beside: Cleaned | None = None) -> Image.Image:
    _check_size(image.size, name)
    try:
        with warnings.catch_warnings():
            # Of Pillow, about what it repaired by itself.
            warnings.simplefilter("ignore")
            _choose_frame(image, name, frame)
            # Pages of one file differ in size, and a tile may be larger than its page.
            _check_size(image.size, name)
            if image.format == "TIFF":
                _check_size((_tag(image, _TILE_WIDTH), _tag(image, _TILE_LENGTH)), name)
            image.load()
            _check_size(image.size, name)
            profile = (beside.profile if beside else None) or image.info.get("icc_profile")
            made = _rgb(upright(image, beside.orientation if beside else None), name, profile)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{name} is damaged or cut short; get the file again") from error
    if min(made.size) < MIN_SIDE:
        width, height = made.size
        raise ImageError(f"{name} has {width}x{height} pixels; at least {MIN_SIDE}x{MIN_SIDE} are needed")
    if frame is None:
        _tell_of_frames(image, name)
    return made


def _frames(image: Image.Image) -> int:
    """How many frames there are, counted up to MOST_FRAMES + 1: the pages of a TIFF are a chain that must be walked."""
    if image.format in STILL or not getattr(image, "is_animated", False):
        return 1
    if image.format != "TIFF":
        return int(getattr(image, "n_frames", 1))
    here, count = image.tell(), 1
    try:
        while count <= MOST_FRAMES:
            image.seek(count)
            count += 1
    except EOFError:
        pass
    image.seek(here)
    return count


def _choose_frame(image: Image.Image, name: str, frame: int | None) -> None:
    if frame is None:
        return
    count = _frames(image)
    if frame >= count:
        told = "one frame" if count == 1 else f"{count} frames"
        if count > MOST_FRAMES:
            told = f"more than {MOST_FRAMES}, of which those are read"
        raise ImageError(f"frame {frame} does not exist; {name} has {told}, counted from 0")
    if count > 1:
        image.seek(frame)


def _tell_of_frames(image: Image.Image, name: str) -> None:
    try:
        count = _frames(image)
    # To count them, Pillow walks through a file whose first frame was sound; what comes behind it may not be.
    except Exception:
        return
    if count > 1:
        many = f"more than {MOST_FRAMES}" if count > MOST_FRAMES else str(count)
        last = min(count, MOST_FRAMES) - 1
        warnings.warn(
            f"{name} has {many} frames and the first is read; choose another with frame (--frame), 0 to {last}",
            FramesWarning,
            stacklevel=4,
        )


def _tag(image: Image.Image, number: int) -> int:
    """A whole number of a TIFF's directory, 0 where it has none."""
    value = getattr(image, "tag_v2", {}).get(number, 0)
    return int(value[0] if isinstance(value, tuple) else value)


def _rgb(image: Image.Image, name: str, profile: bytes | None) -> Image.Image:
    if image.mode in INTEGER_MODES or image.mode == "F":
        inverted = image.format == "TIFF" and _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO and _has_tag(image)
        unsigned = image.mode == "I" and image.format == "TIFF" and _tag(image, _SAMPLE_FORMAT) in (0, _UNSIGNED)
        return eight_bit(image, name, inverted=inverted, unsigned=unsigned).convert("RGB")
    if image.mode == "LAB":
        return from_lab(image)
    if profile:
        # The colours of a palette, and a colour that stands for transparency, become pixels first.
        clear = image.has_transparency_data
        whole = image.convert("RGBA" if clear else "RGB") if clear or image.mode == "P" else image
        image = in_srgb(whole, profile)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _has_tag(image: Image.Image) -> bool:
    return _PHOTOMETRIC in getattr(image, "tag_v2", {})
