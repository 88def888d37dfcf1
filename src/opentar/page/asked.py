"""What the page asks a service for. Nothing here knows Gradio.

Everything takes a place in the service's queue. Whoever leaves a generator, or is cancelled, lets go of what it runs.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentar.checkpoints.settings import MAX_SEED, check_range
from opentar.core.errors import OpenTarError, PromptError
from opentar.drawing import Drawing, DrawOptions, settings_of
from opentar.engine.request import Choice, Codes, Request, Text
from opentar.language.prompt import Turn
from opentar.page.dialect import Codebook, Codebooks, Grid
from opentar.serve.drawing import drawings, settings_for
from opentar.serve.errors import api_error
from opentar.serve.events import Chosen, Code, Picture, Preview, Token
from opentar.serve.refused import LimitError
from opentar.serve.work import Choose, Draw, Say

if TYPE_CHECKING:
    from PIL import Image

    from opentar.checkpoints.settings import ModelConfig
    from opentar.serve.admission import Admission
    from opentar.serve.service import Service

PREVIEWS = 5
"""Looks at a picture while it is painted."""
MOST_PICTURES = 8
"""Pictures of one drawing."""
_EXCHANGES = 6
"""Questions and answers before the last question that are sent with it."""
_PAIRS = (("yes", "no"), ("是", "否"), ("是", "不是"), ("有", "没有"), ("对", "不对"))


@dataclass(frozen=True, kw_only=True)
class Spelled:
    """The codes of the first picture so far."""

    codes: tuple[int | None, ...]
    """Of the whole grid; None where none is drawn yet."""
    side: int
    """Codes in a row of the whole grid."""
    book: Codebook


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A picture as it stands while it is painted."""

    index: int
    picture: Image.Image


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A finished picture."""

    index: int
    picture: Image.Image
    codes: tuple[int, ...]
    seed: int
    prompt: str = ""
    left_out: tuple[str, ...] = ()
    """Words of the prompt that the model never learned."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer as far as it is said."""

    text: str
    confidence: float | None = None
    """How likely the model holds a yes or no, against its opposite; None before the end, and for other answers."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A question and its answer."""

    question: str
    answer: str


Source = bytes | tuple[int, ...]
"""A picture: its file, or its codes where it was drawn here."""


class Asker:
    """Asks a service.

    Args:
        service: as the routes of the server use it.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self._books = Codebooks()

    @property
    def models(self) -> list[str]:
        """Names, the default first."""
        return list(self.service.shelf.entries)

    def config(self, model: str | None = None) -> ModelConfig:
        """The configuration of a model, in memory or not. Raises UnknownModelError."""
        return self.service.shelf.entry(model).config

    def abilities(self, model: str | None = None) -> tuple[str, ...]:
        """What a model can be asked for. Raises UnknownModelError."""
        return self.service.shelf.entry(model).abilities

    async def draw(
        self, model: str | None, prompt: str, n: int, seed: int, options: DrawOptions
    ) -> AsyncIterator[Spelled | Looked | Drawn]:
        """Pictures of a prompt with seeds that count up, as they come. Raises OpenTarError."""
        n = check_range("the number of pictures", n, 1, MOST_PICTURES, whole=True)
        seed = check_range("seed", seed, 0, MAX_SEED - MOST_PICTURES, whole=True)
        async with self.service.admit(model, n) as admission:
            served = admission.model
            settings = await settings_for(admission, options)
            left_out = tuple(served.tar.unknown_words(prompt)) if prompt.strip() else ()
            book = await self._book(admission)
            await admission.submit(drawings(served, prompt, n, seed, settings, PREVIEWS))
            side = served.vocab.scale(settings.scale).side
            codes: list[int | None] = [None] * side**2
            async for event in admission:
                match event:
                    case Code(index=0, code=code, place=place):
                        codes[place] = code
                        yield Spelled(codes=tuple(codes), side=side, book=book)
                    case Preview(index=index, picture=picture):
                        yield Looked(index=index, picture=picture)
                    case Picture(index=index, picture=picture, codes=drawn, seed=own):
                        yield Drawn(
                            index=index, picture=picture, codes=drawn, seed=own, prompt=prompt, left_out=left_out
                        )

    async def paint(
        self, model: str | None, grid: Grid, seed: int, detok: str | None = None
    ) -> AsyncIterator[Looked | Drawn]:
        """The picture of codes. Raises OpenTarError."""
        seed = check_range("seed", seed, 0, MAX_SEED, whole=True)
        async with self.service.admit(model) as admission:
            settings = await settings_for(admission, {"scale": grid.scale.index, "detok": detok})
            request = Request(turns=(), grammar=Codes(scale=grid.scale), seed=seed)
            drawing = Drawing(prompt="", heard="", request=request, index=0)
            admission.paint([Draw(drawing=drawing, settings=settings, previews=PREVIEWS)], [grid.codes])
            async for event in admission:
                match event:
                    case Preview(index=index, picture=picture):
                        yield Looked(index=index, picture=picture)
                    case Picture(index=index, picture=picture, codes=codes):
                        yield Drawn(index=index, picture=picture, codes=codes, seed=seed)

    async def grid(self, model: str | None, source: Source, scale: int | None = None) -> tuple[Grid, Codebook]:
        """The codes of a picture, and the codebook they are from. Raises OpenTarError."""
        async with self.service.admit(model) as admission:
            codes = await self._codes(admission, source, scale)
            vocab = admission.model.vocab
            return Grid(scale=vocab.scale_of_length(len(codes)), codes=codes), await self._book(admission)

    async def ask(
        self, model: str | None, source: Source, question: str | None, before: Sequence[Exchange] = ()
    ) -> AsyncIterator[Answer]:
        """The answer to a question about a picture, as it grows. None asks for a description. Raises OpenTarError."""
        said = ""
        async with self.service.admit(model) as admission:
            codes = await self._codes(admission, source, None)
            turns = self._turns(admission, codes, question, before)
            most = admission.model.config.defaults.read.max_new_tokens
            await admission.submit([Say(request=Request(turns=turns, grammar=Text(max_new_tokens=most)))])
            async for event in admission:
                if isinstance(event, Token) and event.text:
                    said += event.text
                    yield Answer(text=said)
        pair = pair_of(said)
        if pair is None:
            return
        async with self.service.admit(model) as admission:
            await admission.submit([Choose(request=Request(turns=turns, grammar=Choice(texts=pair)))])
            async for event in admission:
                if isinstance(event, Chosen) and math.isfinite(event.probabilities[0]):
                    yield Answer(text=said, confidence=event.probabilities[0])

    async def _codes(self, admission: Admission, source: Source, scale: int | None) -> tuple[int, ...]:
        if isinstance(source, tuple):
            return source
        most = self.service.limits.picture_bytes
        if len(source) > most:
            raise LimitError(f"the picture has {len(source)} bytes; at most {most} are taken")
        grid = None if scale is None else admission.model.vocab.scale(scale)
        return await admission.codes(source, grid, "the picture")

    def _turns(
        self, admission: Admission, codes: tuple[int, ...], question: str | None, before: Sequence[Exchange]
    ) -> list[Turn]:
        builder = admission.model.builder
        if question is None:
            return builder.reading([codes], admission.model.config.defaults.read.describe)
        if not question.strip():
            raise PromptError("the question is empty; write at least one word")
        asked = [*(one.question for one in before[-_EXCHANGES:]), question]
        turns = builder.reading([codes], asked[0])
        for one, following in zip(before[-_EXCHANGES:], asked[1:], strict=True):
            turns += [Turn("assistant", (one.answer,)), Turn("user", (builder.heard(following, "question"),))]
        return turns

    async def _book(self, admission: Admission) -> Codebook:
        model = admission.model
        parts = model.tar.parts
        # On the thread that encodes: of a large codebook it takes a moment, once.
        return await self.service.read(lambda: self._books.of(model, parts.ta_tok.codebook(), parts.words))


def pair_of(answer: str) -> tuple[str, str] | None:
    """An answer that is a yes or a no, and its opposite, in its own spelling; None for others."""
    plain = answer.strip().rstrip(".!。！").lower()
    for one, other in (*_PAIRS, *((b, a) for a, b in _PAIRS)):
        if plain == one:
            return answer.strip(), other.capitalize() if answer[:1].isupper() else other
    return None


def told(error: Exception) -> str:
    """What a reader of the page is told of an error; one that nobody foresaw goes to the log."""
    return str(error) if isinstance(error, OpenTarError) else api_error(error).message


def default_options(config: ModelConfig) -> tuple[int, float]:
    """Scale and guidance of a drawing where nothing is chosen."""
    settings = settings_of(config, {})
    return settings.scale, settings.guidance
