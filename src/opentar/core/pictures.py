"""Picture files in. Everything that can be wrong with a picture is found here, before any model sees it.

The size is taken from the header, before decoding: 20 kB of PNG can claim 13,000 x 13,000 pixels and ask for 839 MB.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from opentar.core.errors import ImageError, shown

MAX_PIXELS = 40_000_000
MIN_SIDE = 2
MAX_FILE_BYTES = 128 << 20
# Named one by one: PSD, EPS and TIFF decoders have a long history of faults and nobody draws with them here.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_ALLOWED = "PNG, JPEG, WebP, GIF or BMP"
_BAND_PIXELS = 1 << 18
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def open_picture(source: str | Path | bytes | Image.Image, name: str = "the picture") -> Image.Image:
    """The picture as 8-bit RGB, turned as its EXIF says, transparent parts over white, fully decoded.

    Args:
        source: a path, the bytes of a picture file, or a PIL picture (which is not changed).
        name: what errors call a picture that is no path.

    Raises:
        ImageError: missing, not a picture, damaged, animated, over 40 megapixels or under 2 pixels a side.
    """
    if isinstance(source, Image.Image):
        return _checked_rgb(source, name)
    if isinstance(source, bytes):
        content = source
    elif isinstance(source, (str, Path)):
        name, content = shown(source), _file_bytes(source)
    else:
        kind = type(source).__name__
        raise ImageError(f"a picture cannot be read from a {kind}; give a path, the bytes of a file or a PIL picture")
    if not content:
        raise ImageError(f"{name} is empty; give a {_ALLOWED} picture")
    with _header(content, name) as image:
        return _checked_rgb(image, name)


def _file_bytes(source: str | Path) -> bytes:
    name = shown(source)
    if str(source).lower().startswith(("http:", "https:", "ftp:", "file:", "data:")):
        raise ImageError(f"{name} is an address; OpenTar reads files only: download the picture and give its path")
    try:
        path = Path(source)
        if path.is_dir():
            raise ImageError(f"{name} is a folder; give the path of one {_ALLOWED} picture in it")
        if not path.exists():
            raise ImageError(f"there is no picture {name}; give the path of a {_ALLOWED} file")
        # A pipe or a device would block or never end.
        if not path.is_file():
            raise ImageError(f"{name} is not an ordinary file; give the path of a {_ALLOWED} picture")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ImageError(f"{name} is larger than {MAX_FILE_BYTES >> 20} MiB; give a smaller picture")
        return path.read_bytes()
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(f"{name} cannot be read ({error.strerror}); check the name and its permissions") from error
    except ValueError as error:
        raise ImageError(f"{name} is not a file name; give the path of a {_ALLOWED} picture") from error


def _header(content: bytes, name: str) -> Image.Image:
    """Open without decoding. Pillow's own size check only warns or has a far larger limit; both become one line."""
    if len(content) > MAX_FILE_BYTES:
        raise ImageError(f"{name} is larger than {MAX_FILE_BYTES >> 20} MiB; give a smaller picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is far over {MAX_PIXELS // 10**6} megapixels; give a smaller picture") from error
    # Decoders raise nearly anything on hostile bytes; their texts hold addresses and are not passed on.
    except Exception as error:
        raise ImageError(f"{name} is not a picture that OpenTar reads; give a {_ALLOWED} file") from error


def _checked_rgb(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 10**6
        raise ImageError(f"{name} has {width}x{height} pixels; at most {limit} megapixels are read: make it smaller")
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name} has {width}x{height} pixels; at least {MIN_SIDE}x{MIN_SIDE} are needed")
    try:
        # MPO is a phone's JPEG with a second, smaller copy inside; the first picture is the picture.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise ImageError(f"{name} is animated; give a single picture, for example one frame saved as PNG")
        image.load()
        return _rgb(ImageOps.exif_transpose(image), name)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{name} is damaged or cut short; get the file again") from error


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        return _eight_bit(image).convert("RGB")
    if image.mode == "F":
        raise ImageError(f"{name} holds floating-point values; convert it to 8-bit RGB first")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey values 0 to 65535 as 0 to 255, rounded; Pillow's convert("L") clips at 255 and gives white."""
    grey = Image.new("L", image.size)
    # Band by band: of the largest picture, one array of numbers wide enough to count in takes hundreds of megabytes.
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        values = np.clip(np.asarray(band, dtype=np.int32), 0, 65535)
        grey.paste(Image.fromarray(((values + 128) // 257).astype(np.uint8)), (0, top))
    return grey
