"""Pictures of requests: data URLs in, size checks first, codes out; those that are known are not computed again."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch

from opentar.core.errors import ImageError
from opentar.core.pictures import open_picture
from opentar.engine.pixels import encode_picture
from opentar.serve.refused import LimitError, PictureUrlError

if TYPE_CHECKING:
    from opentar.serve.models import ServedModel
    from opentar.vocab import Scale

_HEAD = re.compile(r"data:(image/[a-z0-9.+-]{1,40})?;base64,", re.IGNORECASE)
_LONGEST_HEAD = 80


def picture_of_url(url: str, most: int, param: str) -> bytes:
    """The bytes of a picture in a data URL. Nothing is ever fetched and no file is ever read.

    Args:
        url: as a request gave it.
        most: largest number of bytes; looked at before anything is decoded.
        param: where it stood, for errors.

    Raises:
        PictureUrlError: an address, a path, or anything that is no data URL.
        LimitError: too large.
        ImageError: damaged base64, or nothing in it.
    """
    kind = url[:_LONGEST_HEAD].split(":", 1)[0].strip().lower() if ":" in url[:_LONGEST_HEAD] else ""
    if kind in ("http", "https"):
        raise PictureUrlError(
            "this server fetches no pictures from addresses; send the picture itself: data:image/png;base64,..."
        )
    head = _HEAD.match(url[:_LONGEST_HEAD])
    if head is None:
        raise PictureUrlError("no file is read here; a picture is given as a data URL: data:image/png;base64,...")
    length = (len(url) - head.end()) * 3 // 4
    if length > most + 2:
        raise LimitError(f"the picture has about {length} bytes; at most {most} are taken", param)
    try:
        content = base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("the picture is no valid base64") from error
    if not content:
        raise ImageError("the picture is empty")
    return content


class KnownCodes:
    """Codes of pictures that were drawn or encoded here, by the sha256 of their files; the oldest go first.

    Whoever has the bytes of a picture could encode it himself, so that nothing is given away by it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[str, str, int | None], tuple[int, ...]] = OrderedDict()
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def drawn(self, model: str, content: bytes, codes: tuple[int, ...]) -> None:
        """Remember what a picture that is given out was made of."""
        self._put((model, _digest(content), None), codes)

    def codes(self, model: ServedModel, content: bytes, scale: Scale | None, name: str) -> tuple[int, ...]:
        """Codes of the file of a picture on a grid; None takes what it was drawn with, else the model's default.

        Raises ImageError, which calls the picture `name`.
        """
        digest = _digest(content)
        drawn = self._get((model.tar.parts.hash, digest, None)) if scale is None else None
        grid = model.vocab.scale(model.config.defaults.read.scale) if scale is None else scale
        key = (model.tar.parts.hash, digest, grid.index)
        known = drawn or self._get(key)
        if known:
            self.hits += 1
            return known
        self.misses += 1
        # The first of an animation's frames, without a remark.
        picture = open_picture(content, name, frame=0)
        with torch.no_grad():
            codes_1N = encode_picture(model.tar.parts, picture, (grid,), None)[0]
        codes = tuple(codes_1N[0].tolist())
        self._put(key, codes)
        return codes

    def _get(self, key: tuple[str, str, int | None]) -> tuple[int, ...] | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _put(self, key: tuple[str, str, int | None], codes: tuple[int, ...]) -> None:
        with self._lock:
            self._kept[key] = codes
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
