"""Captions of any number of pictures, in order: opened ahead in a thread, encoded in groups, said in batches.

```
names --one thread--> pixels --another, groups of ENCODED--> codes --engine, `batch_size` side by side--> captions
```
The results come in the order of the pictures. Held at a time are one decoded picture, the small pixels of those that
wait for the encoder, and codes and texts of a window of pictures: ten thousand take no more memory than a hundred.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Literal

import torch

from opentar import asking
from opentar.checkpoints.settings import MAX_ANSWER, MAX_PICTURES, check_range
from opentar.core.errors import ConfigError, ImageError, OpenTarError, shown
from opentar.core.memory import is_out_of_memory
from opentar.core.pictures import open_picture
from opentar.core.remarks import warn_caller
from opentar.engine.events import Done, Failed
from opentar.engine.request import Request, Text
from opentar.image_to_tokens.preprocess import check_fit, to_pixels
from opentar.pipeline import UnknownWordsWarning

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from opentar.asking import Picture
    from opentar.checkpoints.settings import ModelConfig
    from opentar.pipeline import Tar
    from opentar.vocab import Scale

BATCH = 32
"""Pictures whose captions are said side by side."""
ENCODED = 8
"""Pictures of one pass of the encoder; what more of them need falls out of the caches of a processor."""
LANGUAGES = ("en", "zh")
Opener = Callable[[], "Image.Image"]
"""Opens one picture; raises ImageError where it cannot."""


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What is said of one picture, or why nothing is."""

    index: int
    """Place of the picture, from 0."""
    text: str = ""
    """The caption."""
    width: int = 0
    """Of the picture as it is read, in pixels."""
    height: int = 0
    """The same."""
    error: OpenTarError | None = None
    """Why there is no caption."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is asked of every picture, checked."""

    question: str
    """As it is given to the model."""
    scale: Scale
    """The grid that pictures are read at."""
    fit: Literal["squash", "letterbox"]
    """How a picture becomes a square."""
    max_new_tokens: int
    """Longest caption."""


def question_of(config: ModelConfig, question: str | None = None, lang: str | None = None) -> str:
    """The question behind captions: the one given, or the describing one of the model in a language ("en", "zh").

    Raises ConfigError for both, or another language.
    """
    if lang is not None and lang not in LANGUAGES:
        raise ConfigError(f"lang is {shown(lang)}; choose {' or '.join(LANGUAGES)}")
    if question is None:
        return config.defaults.read.describe_zh if lang == "zh" else config.defaults.read.describe
    if lang is not None:
        raise ConfigError("a prompt and a language are given; the language is that of the prompt, so leave one out")
    return question


def settings_of(
    tar: Tar,
    question: str | None = None,
    lang: str | None = None,
    scale: int | None = None,
    fit: str | None = None,
    max_new_tokens: int | None = None,
) -> Settings:
    """The settings of a call; arguments and errors as in `captions`."""
    config, builder = tar.parts.config, tar.parts.builder
    defaults = config.defaults.read
    asked = question_of(config, question, lang)
    grid = tar.parts.vocab.scale(defaults.scale if scale is None else scale)
    # One picture of zeros: a question that does not fit is told before any picture is opened.
    asking.questions(b"", asked, None, tar.parts.vocab, defaults.scale)
    builder.prefix(builder.reading([[0] * grid.length], asked))
    if question is not None and (remark := tar.known_words.remark(builder.heard(question, "question"))):
        warn_caller(f"{config.name} never learned {remark}; the captions may be wrong", UnknownWordsWarning)
    most = defaults.max_new_tokens if max_new_tokens is None else max_new_tokens
    most = check_range("max_new_tokens", most, 1, MAX_ANSWER, whole=True)
    own = check_fit(config.fit if fit is None else fit)
    return Settings(
        question=asked, scale=grid, fit="letterbox" if own == "letterbox" else "squash", max_new_tokens=most
    )


def captions(
    tar: Tar,
    pictures: Iterable[Picture],
    *,
    question: str | None = None,
    lang: str | None = None,
    scale: int | None = None,
    fit: str | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = BATCH,
) -> Iterator[Caption]:
    """Say what is in each of any number of pictures; the results come one by one, in the order of the pictures.

    A picture that cannot be read gives a result with an `error`, and the others go on. The captions are those of
    `Tar.describe`, whatever the batch: rounding differs with the number of rows of a product, and could change a
    code or a word where two are closer than that, which has not been seen (docs/captioning.md).

    Args:
        tar: the model.
        pictures: paths, bytes of files, open files, PIL pictures or arrays; taken a window at a time. Of an animation
            the first frame is read.
        question: what is asked; None is the model's own describing question.
        lang: language of that question, "en" (None) or "zh".
        scale: index of the code grid, 0 (finest) to 2 (coarsest); None is the model's default.
        fit: "squash" or "letterbox"; None is the model's default.
        max_new_tokens: longest caption; None is the model's default.
        batch_size: captions said side by side, 1 to 1000; more is faster and takes more memory.

    Raises:
        PromptError: a question that is empty, wordless or too long.
        ConfigError: an unknown language, scale or fit, or a number out of range.
    """
    batch_size = check_range("batch_size", batch_size, 1, MAX_PICTURES, whole=True)
    settings = settings_of(tar, question, lang, scale, fit, max_new_tokens)
    openers = (partial(open_picture, picture, frame=0) for picture in pictures)
    return spoken(tar, openers, settings, batch_size)


def spoken(tar: Tar, openers: Iterable[Opener], settings: Settings, batch_size: int = BATCH) -> Iterator[Caption]:
    """`captions` of whatever each of `openers` opens, in a thread of its own, with settings that are checked."""
    run = _Run(tar, iter(openers), settings, batch_size)
    try:
        while run.more():
            run.advance()
            yield from run.told()
    finally:
        run.close()


class _Place:
    """One picture on its way."""

    def __init__(self, index: int, pixels: Future[tuple[Tensor, int, int]]) -> None:
        self.index = index
        self.pixels: Future[tuple[Tensor, int, int]] | None = pixels
        """(3, S, S) float32, and the size of the picture; None when it is encoded."""
        self.size = (0, 0)
        self.caption: Caption | None = None


class _Run:
    """The work of one call."""

    def __init__(self, tar: Tar, openers: Iterator[Opener], settings: Settings, batch_size: int) -> None:
        self._parts, self._openers, self._settings = tar.parts, openers, settings
        # Nobody asks twice about a picture here.
        self._engine = tar.engine(batch_size, keep=False)
        self._grammar = Text(max_new_tokens=settings.max_new_tokens)
        self._side = tar.parts.ta_tok.config.vision.image_size
        self._group = max(1, batch_size // 2)
        """Pictures that are encoded and given to the engine together: reading many prompts in one pass is faster."""
        self._window = 4 * batch_size
        """Places from the first one without a caption: a long caption holds the others back, and then all wait."""
        # One thread: Pillow lets the others run while it decodes, and `warnings`, which it needs quiet, is not
        # made for several.
        self._reader = ThreadPoolExecutor(1, "opentar-pictures")
        # Beside the engine: both wait for memory often enough to share the cores well.
        self._encoder = ThreadPoolExecutor(1, "opentar-encoder")
        self._encoded: Future[list[tuple[_Place, list[int]]]] | None = None
        """The group that is on its way to the engine."""
        self._unread: deque[_Place] = deque()
        self._places: deque[_Place] = deque()
        self._asked: dict[int, _Place] = {}
        self._count = 0

    def more(self) -> bool:
        """Whether anything is left to do; looks ahead in the pictures as far as it may."""
        room = min(2 * self._group - len(self._unread), self._window - len(self._places))
        for opener in islice(self._openers, max(0, room)):
            place = _Place(self._count, self._reader.submit(_pixels, opener, self._side, self._settings.fit))
            self._count += 1
            self._unread.append(place)
            self._places.append(place)
        return bool(self._places)

    def advance(self) -> None:
        """Encode the next group beside the engine, hand it over when there is room, and let the engine do one step."""
        if self._encoded is None and self._unread:
            group = [self._unread.popleft() for _ in range(min(self._group, len(self._unread)))]
            self._encoded = self._encoder.submit(self._encode, group)
        room = len(self._asked) + self._group <= self._engine.batch
        if self._encoded is not None and room and (self._encoded.done() or not self._asked):
            for place, codes in self._encoded.result():
                turns = self._engine.builder.reading([codes], self._settings.question)
                self._asked[self._engine.submit(Request(turns=turns, grammar=self._grammar))] = place
            self._encoded = None
            return
        with torch.no_grad():
            events = self._engine.step()
        for event in events:
            if isinstance(event, Done):
                text = self._engine.builder.tokenizer.decode(list(event.ids)).strip()
                place = self._asked.pop(event.ticket)
                place.caption = Caption(index=place.index, text=text, width=place.size[0], height=place.size[1])
            elif isinstance(event, Failed):
                place = self._asked.pop(event.ticket)
                place.caption = Caption(index=place.index, error=event.error)

    def told(self) -> Iterator[Caption]:
        """Captions of the first places, up to one that has none yet."""
        while self._places and (caption := self._places[0].caption) is not None:
            self._places.popleft()
            yield caption

    def close(self) -> None:
        """Let go of what has not ended."""
        for ticket in self._asked:
            self._engine.cancel(ticket)
        # The reader first: the encoder waits for pixels, and those that are not opened any more end its wait.
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._encoder.shutdown(wait=True, cancel_futures=True)

    @torch.no_grad()
    def _encode(self, places: list[_Place]) -> list[tuple[_Place, list[int]]]:
        """Codes of pictures; those that cannot be read get their error. Runs in the encoder's thread."""
        read: list[tuple[_Place, Tensor]] = []
        for place in places:
            assert place.pixels is not None
            try:
                pixels_3SS, *size = place.pixels.result()
                place.size = (size[0], size[1])
                read.append((place, pixels_3SS))
            except OpenTarError as error:
                place.caption = Caption(index=place.index, error=error)
            place.pixels = None
        found: list[tuple[_Place, list[int]]] = []
        for start in range(0, len(read), ENCODED):
            group = read[start : start + ENCODED]
            pixels_B3SS = torch.stack([pixels_3SS for _, pixels_3SS in group]).to(self._parts.device)
            (codes_BN,) = self._parts.ta_tok.encode_scales(pixels_B3SS, (self._settings.scale,))
            found += zip([place for place, _ in group], codes_BN.tolist(), strict=True)
        return found


def _pixels(opener: Opener, side: int, fit: str) -> tuple[Tensor, int, int]:
    """Pixels (3, side, side) of one picture, and its width and height. Raises ImageError; runs in the reader."""
    try:
        picture = opener()
        return to_pixels(picture, side, fit), picture.width, picture.height
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or is_out_of_memory(error):
            raise ImageError("there is not enough memory to open this picture; make it smaller") from error
        raise
