"""What stands beside the pixels of a file must not decide whether it opens.

Texts, thumbnails and damaged or oversized blocks are taken out before Pillow sees the file; orientation and colour
profile stay where they can be read. Nothing here touches pixels, and what is not understood is left as it is: then
Pillow decides. Switching off Pillow's own limits instead would switch them off for every thread of the process.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import NamedTuple

from PIL import Image

MAX_PROFILE_BYTES = 4 << 20
"""Largest colour profile that is used; those of real devices have some kB, of printers up to 2 MB."""
MAX_TEXT_BYTES = 1 << 20
"""What is read of a text beside the pixels, where an orientation may stand in it."""
_XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"\']|>)\s*([1-8])\b")
_PNG = b"\x89PNG\r\n\x1a\n"
# Pixels, palette, transparency and animation: everything else of a PNG is told apart or left out.
_PNG_KEPT = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"gAMA", b"cHRM", b"sRGB"}
_JPEG_TEXTS = {*range(0xE3, 0xEE), 0xEF, 0xFE}
"""Application blocks and comments, but for JFIF (E0), Adobe's (EE: it says what CMYK means), EXIF and profiles."""
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Cleaned(NamedTuple):
    """A file without the blocks that could keep it from opening, and what was in them."""

    content: bytes
    """the file"""
    profile: bytes | None = None
    """colour profile of a PNG"""
    orientation: int | None = None
    """1 to 8, where the blocks told it; None leaves it to Pillow"""


def only_the_picture(content: bytes) -> Cleaned:
    """`content` without the blocks that could keep it from opening."""
    if content.startswith(_PNG):
        return _png(content)
    if content.startswith(b"\xff\xd8"):
        return _jpeg(content)
    return Cleaned(content)


def upright(image: Image.Image, orientation: int | None = None) -> Image.Image:
    """The picture turned as its EXIF says, or as `orientation` does; EXIF that cannot be read turns nothing."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1) if orientation is None else orientation)
    # EXIF is somebody's binary; Pillow fails on it in a dozen ways.
    except Exception:
        return image
    return image.transpose(turn) if turn is not None else image


def _png(content: bytes) -> Cleaned:
    parts, place, profile, orientation = [_PNG], len(_PNG), None, None
    while place + 8 <= len(content):
        size, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        end = place + 12 + size
        if end > len(content):
            # Cut short: Pillow says so, if it is the pixels that are missing.
            parts.append(content[place:] if kind in _PNG_KEPT else b"")
            break
        block = content[place:end]
        intact = zlib.crc32(block[4:-4]) == int.from_bytes(block[-4:], "big")
        critical = not kind[0] & 0x20
        if critical or (kind in _PNG_KEPT and intact):
            parts.append(block)
        elif intact:
            body = block[8:-4]
            profile = _png_profile(body) if kind == b"iCCP" else profile
            found = _orientation(body) if kind == b"eXIf" else _told_in_text(kind, body)
            # EXIF comes before what a text says about it.
            orientation = found if found is not None and (kind == b"eXIf" or orientation is None) else orientation
        place = end
        if kind == b"IEND":
            break
    return Cleaned(b"".join(parts), profile, orientation)


def _told_in_text(kind: bytes, body: bytes) -> int | None:
    """The orientation in a text of a PNG: XMP, or EXIF as ImageMagick writes it, in hexadecimal digits."""
    keyword, _, rest = body.partition(b"\0")
    if kind not in (b"iTXt", b"zTXt", b"tEXt") or len(body) > MAX_TEXT_BYTES:
        return None
    text = _plain_text(kind, rest)
    if keyword == b"XML:com.adobe.xmp":
        return _in_xmp(text)
    if keyword in (b"Raw profile type exif", b"Raw profile type APP1"):
        digits = b"".join(text.split()[2:])
        try:
            return _orientation(bytes.fromhex(digits.decode("ascii")).removeprefix(b"Exif\0\0"))
        except ValueError:
            return None
    return None


def _plain_text(kind: bytes, rest: bytes) -> bytes:
    """The text of a block, whose keyword has been read; empty where it cannot be read."""
    packed = kind == b"zTXt" or (kind == b"iTXt" and rest[:1] == b"\1")
    text = rest[1:] if kind == b"zTXt" else rest[2:].split(b"\0", 2)[-1] if kind == b"iTXt" else rest
    if not packed:
        return text
    try:
        return zlib.decompressobj().decompress(text, MAX_TEXT_BYTES)
    except zlib.error:
        return b""


def _in_xmp(text: bytes) -> int | None:
    """The orientation of an XMP packet."""
    found = _XMP_ORIENTATION.search(text[:MAX_TEXT_BYTES])
    return int(found[1]) if found else None


def _png_profile(body: bytes) -> bytes | None:
    """The profile of an iCCP block: name, a zero, the method, deflated bytes. None where it cannot be used."""
    _, zero, rest = body.partition(b"\0")
    if not zero or rest[:1] != b"\0":
        return None
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(rest[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return None if inflater.unconsumed_tail else profile


def _jpeg(content: bytes) -> Cleaned:
    parts, place, profile, told = [content[:2]], 2, 0, dict[str, int | None]()
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:
            # Fill bytes may stand before a marker.
            place += 1
            continue
        size = int.from_bytes(content[place + 2 : place + 4], "big")
        end = place + 2 + size
        if marker in (0xDA, 0xD9) or size < 2 or end > len(content) or 0xD0 <= marker <= 0xD8:
            break
        body, segment = content[place + 4 : end], content[place:end]
        if marker == 0xE1:
            segment = b""
            if body.startswith(b"Exif\0\0"):
                told.setdefault("exif", _orientation(body[6:]))
            elif body.startswith(_XMP_MARK):
                told.setdefault("xmp", _in_xmp(body))
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
            profile += len(body)
            segment = segment if profile <= MAX_PROFILE_BYTES else b""
        elif marker in _JPEG_TEXTS or (marker == 0xE2 and not body.startswith(b"MPF\0")):
            segment = b""
        parts.append(segment)
        place = end
    orientation = told.get("exif") or told.get("xmp")
    return Cleaned(b"".join([*parts, content[place:]]), orientation=orientation)


def _orientation(tiff: bytes) -> int | None:
    """The orientation, 1 to 8, in the first directory of an EXIF block, whatever else in it is damaged."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return None
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return None
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for index in range(count):
        place = start + 2 + 12 * index
        if place + 12 > len(tiff):
            return None
        tag, kind, number = struct.unpack_from(f"{order}HHI", tiff, place)
        if tag == _ORIENTATION:
            # Two bytes by the standard, four in the files of some programs.
            width = {3: "H", 4: "I"}.get(kind)
            value = struct.unpack_from(f"{order}{width}", tiff, place + 8)[0] if width and number == 1 else 0
            return value if 1 <= value <= 8 else None
    return None
