"""What stands beside the pixels of a file must not decide whether it opens.

Texts, thumbnails and damaged or oversized blocks are taken out before Pillow sees the file; orientation and colour
profile stay where they can be read. Nothing here touches pixels, and what is not understood is left as it is: then
Pillow decides. Switching off Pillow's own limits instead would switch them off for every thread of the process.
"""

from __future__ import annotations

import struct
import zlib

from PIL import Image

MAX_PROFILE_BYTES = 4 << 20
"""Largest colour profile that is used; those of real devices have some kB, of printers up to 2 MB."""
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


def only_the_picture(content: bytes) -> tuple[bytes, bytes | None]:
    """A file without the blocks that could keep it from opening; the colour profile of a PNG is one, and beside it."""
    if content.startswith(_PNG):
        return _png(content)
    if content.startswith(b"\xff\xd8"):
        return _jpeg(content), None
    return content, None


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says; EXIF that cannot be read turns nothing."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    # EXIF is somebody's binary; Pillow fails on it in a dozen ways.
    except Exception:
        return image
    return image.transpose(turn) if turn is not None else image


def _png(content: bytes) -> tuple[bytes, bytes | None]:
    parts, place, profile = [_PNG], len(_PNG), None
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
        if critical or (kind in _PNG_KEPT and intact) or (kind == b"eXIf" and intact):
            parts.append(block)
        elif kind == b"iCCP" and intact:
            profile = _png_profile(block[8:-4])
        place = end
        if kind == b"IEND":
            break
    return b"".join(parts), profile


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


def _jpeg(content: bytes) -> bytes:
    parts, place, profile = [content[:2]], 2, 0
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
            segment = _exif_segment(body)
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
            profile += len(body)
            segment = segment if profile <= MAX_PROFILE_BYTES else b""
        elif marker in _JPEG_TEXTS or (marker == 0xE2 and not body.startswith(b"MPF\0")):
            segment = b""
        parts.append(segment)
        place = end
    return b"".join([*parts, content[place:]])


def _exif_segment(body: bytes) -> bytes:
    """An APP1 segment that holds the orientation of this one and nothing else; nothing where it has none."""
    orientation = _orientation(body[6:]) if body.startswith(b"Exif\0\0") else None
    if orientation is None:
        return b""
    entry = struct.pack("<HHIHH", _ORIENTATION, 3, 1, orientation, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    return b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif


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
        tag, kind, number, value = struct.unpack_from(f"{order}HHIH", tiff, place)
        if tag == _ORIENTATION:
            return value if kind == 3 and number == 1 and 1 <= value <= 8 else None
    return None
