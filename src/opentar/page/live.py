"""Moving pictures: frames of a file, and which of them are worth a caption.

Animated GIF and WebP are read by Pillow. Films need the decoder of the extra `video`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image

from opentar.core.errors import ConfigError, ImageError
from opentar.core.picture_formats import encode_picture
from opentar.core.pictures import MAX_PIXELS, open_picture

MOST_FRAMES = 200
"""Frames of one file that are looked at."""
_FILMS = (b"\x1aE\xdf\xa3", b"OggS", b"FLV\x01")
_PICTURES_IN_BOXES = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture of several."""

    second: float
    """When it is shown, from the beginning."""
    picture: Image.Image | None = None
    """RGB; None where only the file is there."""
    file: bytes | None = None
    """The file of the picture, where there is one."""

    @property
    def content(self) -> bytes:
        """As a file."""
        if self.file is not None:
            return self.file
        assert self.picture is not None, "a frame is a picture or a file"
        return encode_picture(self.picture, "PNG")


@dataclass
class Watcher:
    """Tells which frames show something new: those whose codes differ from the last ones that did in enough cells.

    Args:
        tolerance: share of the cells that may differ in a frame that shows nothing new, 0 to 1. Cameras are noisy.
    """

    tolerance: float = 0.0
    seen: int = 0
    """Frames so far."""
    skipped: int = 0
    """Those of them that showed nothing new."""
    _last: tuple[int, ...] = field(default=(), repr=False)

    def is_new(self, codes: tuple[int, ...]) -> bool:
        """Whether a frame of these codes is worth a caption. It is remembered if so."""
        self.seen += 1
        alike = len(codes) == len(self._last)
        changed = sum(1 for a, b in zip(codes, self._last, strict=True) if a != b) if alike else len(codes)
        if alike and changed <= self.tolerance * len(codes):
            self.skipped += 1
            return False
        self._last = codes
        return True


def frames(content: bytes, every: float = 0.5) -> Iterator[Frame]:
    """Frames of a film or an animation, at most MOST_FRAMES, `every` seconds one. A still picture is one frame.

    Raises:
        ImageError: it is no picture and no film, or damaged.
        ConfigError: it is a film, and the decoder is not installed.
    """
    if _is_film(content):
        yield from _of_film(content, every)
        return
    # The first frame passes all checks of a picture; the others have its size.
    first = open_picture(content, "the file", frame=0)
    yield Frame(second=0.0, picture=first)
    with Image.open(io.BytesIO(content)) as image:
        count = getattr(image, "n_frames", 1)
        if first.width * first.height * min(count, MOST_FRAMES) > MAX_PIXELS * 8:
            raise ImageError("the animation is too large; give fewer or smaller frames")
        second, shown, given = 0.0, 0.0, 1
        # WebP tells how long a frame is shown when it is decoded.
        image.load()
        for number in range(1, count):
            second += image.info.get("duration", 100) / 1000
            image.seek(number)
            image.load()
            if second - shown >= every - 1e-6 and given < MOST_FRAMES:
                shown, given = second, given + 1
                yield Frame(second=second, picture=open_picture(image.convert("RGB"), "the file"))


def _is_film(content: bytes) -> bool:
    """By its first bytes: MP4 and its kin, Matroska and WebM, AVI, Ogg, Flash."""
    if content[4:8] == b"ftyp":
        return content[8:12] not in _PICTURES_IN_BOXES
    if content[:4] == b"RIFF":
        return content[8:12] == b"AVI "
    return content.startswith(_FILMS)


def _of_film(content: bytes, every: float) -> Iterator[Frame]:
    try:
        import av
    except ModuleNotFoundError as error:
        raise ConfigError(
            "films need a decoder that is not installed: pip install 'opentar[video]'. Animated GIF and WebP work "
            "without it, and so does the camera"
        ) from error
    try:
        with av.open(io.BytesIO(content)) as film:
            if not film.streams.video:
                raise ImageError("there is no picture in this file; give a film")
            wanted, given = 0.0, 0
            for decoded in film.decode(video=0):
                second = float(decoded.time or 0.0)
                if decoded.width * decoded.height > MAX_PIXELS:
                    raise ImageError("the film is larger than 40 megapixels; give a smaller one")
                if second + 1e-6 >= wanted:
                    wanted, given = second + every, given + 1
                    yield Frame(second=second, picture=decoded.to_image().convert("RGB"))
                if given >= MOST_FRAMES:
                    return
    except av.error.FFmpegError as error:
        raise ImageError("the film cannot be read; give MP4, WebM, GIF or WebP") from error
