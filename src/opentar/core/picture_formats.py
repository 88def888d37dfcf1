"""The formats that pictures are written in, and what a picture file says about itself.

PNG has text chunks; JPEG, WebP and AVIF carry the same texts as one JSON object in the UserComment of their EXIF.
"""

from __future__ import annotations

import contextlib
import io
import json
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin, features

from opentar.core.errors import ImageError, ImageSizeError, OutputError, shown
from opentar.core.picture_decoders import READ
from opentar.core.pictures import MAX_FILE_BYTES, open_picture

ENDINGS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".avif": "AVIF"}
# WebP that loses anything also halves the resolution of colours, so it is written without loss.
_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 90, "subsampling": "4:4:4"},
}
_CODECS = {"JPEG": "jpg", "WEBP": "webp", "AVIF": "avif"}
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_UNICODE = b"UNICODE\0"
# One segment of a JPEG holds 65,533 bytes, some of which EXIF needs itself.
_JPEG_COMMENT_BYTES = 65_000
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_TEXT_BYTES = 4 << 20
_MAX_CHUNKS = 100_000


@dataclass(frozen=True, kw_only=True)
class PictureFacts:
    """What a picture file says about itself."""

    kind: str
    """Pillow's name of the format: PNG, JPEG, ..."""
    width: int
    """In pixels, as stored."""
    height: int
    """In pixels, as stored."""
    metadata: dict[str, str]
    """Prompt, seed and settings, or the texts that another program left; empty where there are none."""


def picture_format(path: str | Path) -> str:
    """Pillow's name of the format that the ending of `path` stands for, in any case of letters.

    Raises:
        OutputError: another ending, or a format that the installed Pillow cannot write.
    """
    kind = ENDINGS.get(Path(path).suffix.lower())
    if kind is None:
        raise OutputError(
            f"{shown(path)} does not end in .png, .jpg, .webp or .avif; the ending chooses the format: "
            f"use {shown(f'{path}.png')}"
        )
    if kind in _CODECS and not features.check(_CODECS[kind]):
        raise OutputError(f"{shown(path)} cannot be written: the installed Pillow has no {kind}; use a name with .png")
    return kind


def encode_picture(image: Image.Image, kind: str, metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a picture file.

    Args:
        image: any picture that PNG can hold; JPEG gets transparent parts over white.
        kind: a value of `ENDINGS`.
        metadata: keyword (1 to 79 Latin characters) -> any text. A JPEG has room for about 32,000 characters in all:
            a longer text is cut there and ends in "...".

    Raises:
        OutputError: the format cannot hold a picture of this size or mode.
    """
    texts = {key: _writable(text) for key, text in (metadata or {}).items()}
    options = dict(_OPTIONS[kind])
    if kind == "PNG":
        options["pnginfo"] = _chunks(texts)
    elif texts:
        exif = Image.Exif()
        exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = _comment(texts, _JPEG_COMMENT_BYTES if kind == "JPEG" else None)
        # As bytes: with no tags but those of its sub-folder, Pillow's AVIF takes the object for an empty one.
        options["exif"] = exif.tobytes()
    buffer = io.BytesIO()
    try:
        (open_picture(image) if kind == "JPEG" else image).save(buffer, format=kind, **options)
    # Encoders name neither their limits nor one kind of error: WebP stops at 16,383 pixels a side, JPEG at 65,535.
    except Exception as error:
        raise OutputError(f"{kind} cannot hold a picture of {image.width}x{image.height} ({image.mode})") from error
    return buffer.getvalue()


def read_metadata(path: str | Path) -> dict[str, str]:
    """What a picture file says of its making: prompt, seed, model, ...; empty where it says nothing.

    Raises ImageError where there is no picture. Texts that are damaged or over 4 MiB are left out.
    """
    return read_facts(path).metadata


def read_facts(path: str | Path) -> PictureFacts:
    """Format, size and metadata of a picture file, without decoding it. Raises ImageError as `read_metadata`."""
    name = shown(path)
    try:
        # A pipe or a device would block or never end.
        if not Path(path).is_file():
            raise ImageError(f"{name} is not a picture file; give the path of one")
        if Path(path).stat().st_size > MAX_FILE_BYTES:
            raise ImageSizeError(f"{name} is larger than {MAX_FILE_BYTES >> 20} MiB; give a smaller picture")
        content = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{name} cannot be read ({error.strerror}); check the name and its permissions") from error
    except ValueError as error:
        raise ImageError(f"{name} is not a file name; give the path of a picture") from error
    if content.startswith(_SIGNATURE) and len(content) >= 24:
        # Not with Pillow, which refuses the whole file for one text that is damaged or large.
        width, height = struct.unpack(">II", content[16:24])
        return PictureFacts(kind="PNG", width=width, height=height, metadata=_png_texts(content))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=sorted(READ)) as image:
                told = _told(image)
                return PictureFacts(kind=str(image.format), width=image.width, height=image.height, metadata=told)
    # Decoders raise nearly anything on hostile bytes; their texts hold addresses and are not passed on.
    except Exception as error:
        raise ImageError(f"{name} is not a picture that OpenTar reads") from error


def _writable(text: str) -> str:
    """NUL ends a field inside a chunk, and half a surrogate pair has no bytes: neither may cost a finished picture."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def _chunks(texts: Mapping[str, str]) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        chunks.add_itxt(key, text)
    return chunks


def _comment(texts: dict[str, str], most: int | None) -> bytes:
    """The UserComment of EXIF: a character code and the texts in it."""
    while True:
        comment = _UNICODE + json.dumps(texts, ensure_ascii=False).encode("utf-16-be")
        if most is None or len(comment) <= most:
            return comment
        longest = max(texts, key=lambda key: len(texts[key]))
        texts = texts | {longest: f"{texts[longest][: len(texts[longest]) * 3 // 4]}..."}


def _told(image: Image.Image) -> dict[str, str]:
    try:
        comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT, b"")
        if not isinstance(comment, bytes) or not comment.startswith(_UNICODE):
            return {}
        text = comment[len(_UNICODE) :].decode("utf-16-be")
    # Damaged EXIF says nothing; the picture beside it may be fine.
    except Exception:
        return {}
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    return {str(key): str(value) for key, value in told.items()} if isinstance(told, dict) else {"UserComment": text}


def _png_texts(content: bytes) -> dict[str, str]:
    """The texts of a PNG, wherever they stand in it; damaged ones are passed over."""
    texts: dict[str, str] = {}
    place = len(_SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if place + 12 > len(content):
            break
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + 8 + length
        if kind in (b"tEXt", b"zTXt", b"iTXt") and length <= _MAX_TEXT_BYTES and end + 4 <= len(content):
            body = content[place + 8 : end]
            if zlib.crc32(kind + body) == struct.unpack_from(">I", content, end)[0]:
                with contextlib.suppress(ValueError, zlib.error):
                    key, text = _png_text(kind, body)
                    texts[key] = text
        place = end + 4
    return texts


def _png_text(kind: bytes, body: bytes) -> tuple[str, str]:
    """Keyword and text of a chunk. Raises ValueError or zlib.error where it is damaged or too large."""
    key, rest = body.split(b"\0", 1)
    if kind == b"tEXt":
        return key.decode("latin-1"), rest.decode("latin-1")
    if kind == b"zTXt":
        return key.decode("latin-1"), _inflated(rest[1:]).decode("latin-1")
    _language, _translated, text = rest[2:].split(b"\0", 2)
    return key.decode("latin-1"), (_inflated(text) if rest[0] else text).decode("utf-8")


def _inflated(packed: bytes) -> bytes:
    inflater = zlib.decompressobj()
    text = inflater.decompress(packed, _MAX_TEXT_BYTES)
    if not inflater.eof:
        raise ValueError("the text is cut short or too large")
    return text
