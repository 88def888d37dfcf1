"""OpenTar's side, through `Tar` and its engine as everybody calls them, and what its works need at least."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from opentar.bench import engines
from opentar.bench.cost import (
    LanguageCost,
    Stage,
    ar_stages,
    encoder_stages,
    fewest_passes,
    number_bytes,
    transformer_flops,
)
from opentar.bench.counted import count_flops
from opentar.bench.engines import Way
from opentar.bench.rows import Measured
from opentar.bench.sides import Side, touch
from opentar.bench.work import NEXT_PROMPT, PROMPT, QUESTION, TOKENS, Work
from opentar.engine.events import CodeDrawn, Failed
from opentar.engine.request import Codes, Request, Sampling, Text
from opentar.nn.quantized import QuantizedLinear
from opentar.tokens_to_image.passes import OF_LANGUAGE

if TYPE_CHECKING:
    from PIL.Image import Image

    from opentar.engine.engine import Engine
    from opentar.tokens_to_image.passes import Passes

_PROMPT_IDS = 40
"""Ids of a short prompt with its template, for the costs: they hardly hang on it."""


class Ours(Side):
    """A model on one engine.

    Args:
        way: the model and its engine (engines.py).
        device: cpu, cuda, mps; None is the best there is.
    """

    def __init__(self, way: Way, device: str | None) -> None:
        self.way = way
        self.tar = engines.load(way, device)
        self.parts = self.tar.parts
        self._engines: dict[int, Engine] = {}
        self._counted: dict[str, tuple[float, float]] = {}
        self._encoder_flops: float | None = None
        self._shown: Image | None = None

    def aim(self, passes: str | None, code_passes: str | None) -> None:
        """Draw so many codes a pass from now on."""
        self.way = dataclasses.replace(self.way, passes=passes, code_passes=code_passes)

    def engine(self, batch: int = 1) -> Engine:
        """The engine for so many requests at once; kept, as a server keeps it."""
        if batch not in self._engines:
            self._engines[batch] = self.tar.engine(batch)
        return self._engines[batch]

    def encode(self, picture: Image, scale: int) -> list[int]:
        """Codes of a picture."""
        return [code for row in self.tar.encode(picture, scale, words=0).codes for code in row]

    def answer(self, codes: list[int], tokens: int) -> int:
        """Answer a question about a picture; returns the length of the prompt."""
        engine = self.engine()
        turns = engine.builder.reading([codes], QUESTION)
        engine.results([Request(turns=turns, grammar=Text(max_new_tokens=tokens))])
        return len(engine.builder.prefix(turns))

    def _drawings(self, scale: int, count: int) -> list[Request]:
        settings = self.settings()
        sampling = Sampling(temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p)
        turns = self.engine(count).builder.drawing(PROMPT)
        grammar = Codes(scale=self.parts.vocab.scale(scale), passes=self._passes)
        return [Request(turns=turns, grammar=grammar, sampling=sampling, seed=seed) for seed in range(count)]

    @property
    def _passes(self) -> Passes:
        return OF_LANGUAGE[self.way.code_passes or "one"]

    def spell(self, scale: int, count: int = 1) -> Tensor:
        """Codes (count, N) of drawings, side by side."""
        return torch.tensor([done.ids for done in self.engine(count).results(self._drawings(scale, count))])

    def decode(self, scale: int) -> Measured:
        """From the first code to the last, by the engine's events."""
        times = []
        for event in self.engine().run(self._drawings(scale, 1)):
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, CodeDrawn):
                times.append(time.perf_counter())
        return Measured(times[-1] - times[0], len(times) - 1)

    def features(self, codes_BN: Tensor) -> Tensor:
        """Features of codes."""
        return self.parts.ta_tok.decode(codes_BN.to(self.parts.device))

    def paint(self, detok: str, features_BND: Tensor, steps: int | None) -> Tensor:
        """Pixels of features, with the de-tokenizer's own settings."""
        return engines.paint(self.tar, self.way, detok, features_BND, steps)

    @torch.no_grad()
    def run(self, work: Work) -> Measured:
        """Do it once."""
        if work.kind == "next":
            return self.timed(lambda: self.tar.generate(NEXT_PROMPT, seed=1))
        if work.kind == "answer":
            picture = self._picture()
            return self.timed(lambda: self.tar.ask(picture, QUESTION))
        return super().run(work)

    @torch.no_grad()
    def warm(self, work: Work) -> None:
        """Touch the weights, run each part for a moment, and count what has no formula."""
        if "language" in work.parts:
            if self.way.engine in (None, "torch"):
                touch(self.parts.language.model)
            self.answer(self.some_codes(2), 1)
        if "ta_tok" in work.parts:
            touch(self.parts.ta_tok)
            self.encode(self.picture(), 2)
            if self._encoder_flops is None:
                self._encoder_flops = self._count_encoder()
            features = self.features(torch.tensor([self.some_codes(work.scale)]))
            if work.detok and work.detok not in self._counted:
                self._counted[work.detok] = self._count(work.detok, features)
        if work.kind in ("next", "answer"):
            self.tar.ask(self._picture(), QUESTION)

    def _picture(self) -> Image:
        """A picture of the model's own, to be asked about."""
        if self._shown is None:
            self._shown = self.tar.generate(PROMPT, seed=0)[0]
        return self._shown

    def _count_encoder(self) -> float:
        """FLOPs of the encoder over one picture; of a stem of convolutions there is no formula."""
        ta_tok = self.parts.ta_tok
        if ta_tok.config.vision.stem == "patch":
            return transformer_flops(ta_tok.config.vision)
        side = ta_tok.config.vision.image_size
        pixels_13HW = torch.zeros(1, 3, side, side, device=self.parts.device)
        return count_flops(lambda: ta_tok.encoder(pixels_13HW))[0]

    def _count(self, detok: str, features_BND: Tensor) -> tuple[float, float]:
        """FLOPs of one step of a painter and of what comes after the steps; those of the AR are in cost.py."""
        painter: Any = self.parts.detokenizer(detok)
        touch(painter)
        for part in ("transformer", "vae"):
            touch(getattr(painter, part, None))
        if codes := self.painted(detok):
            zeros_1L = torch.zeros(1, codes, dtype=torch.int64, device=self.parts.device)
            return 0.0, count_flops(lambda: painter.canvas.decode_codes(zeros_1L))[0]
        name = type(painter.transformer).__name__
        total, step = count_flops(lambda: painter.decode(features_BND, seed=0, steps=1), name)
        return step, total - step

    def cost(self, work: Work) -> list[Stage]:
        """What the work needs at least (cost.py); empty where that is not known. After `warm`."""
        vocab = self.parts.vocab
        length = vocab.scale(work.scale).length
        prompt, text = length + _PROMPT_IDS, self._language.config.text_size if "language" in work.parts else 0
        match work.kind:
            case "encode":
                return self._encoding(length)
            case "read":
                read = [self._language.prefill(prompt, text), self._language.decode(prompt, TOKENS - 1, text)]
                # Small trained models end their answers themselves, so nobody knows how long they are.
                return [] if self.parts.config.known_words else [*self._encoding(length), *read]
            case "prefill":
                return [self._language.prefill(prompt, text)]
            case "decode":
                return [self._language.decode(_PROMPT_IDS, length - 1, vocab.codebook_size)]
            case "codes" | "batch":
                return self._spelling(length, work.count)
            case "paint":
                return self._painting(work, length)
            case "draw":
                painting = self._painting(work, length)
                return [*self._spelling(length, 1), *painting] if painting else []
            case _:
                return []

    @property
    def _language(self) -> LanguageCost:
        config = self.engine().backend.config
        if self.way.weight_bytes is not None:
            return LanguageCost(config=config, kind="int8", weight_bytes=self.way.weight_bytes)
        weight = self.parts.language.model.qwen.model.embed_tokens.weight
        return LanguageCost(config=config, kind=_name(weight.dtype), weight_bytes=weight.element_size())

    def _encoding(self, codes: int) -> list[Stage]:
        quantizer = self.parts.ta_tok.config.quantizer
        kind, size = self._weights(self.parts.ta_tok.encoder)
        return encoder_stages(self._encoder_flops or 0.0, size, kind, codes, (quantizer.codebook_size, quantizer.width))

    def _weights(self, module: nn.Module) -> tuple[str, float]:
        """The type of numbers that the products of a module take, and the bytes of its weights."""
        layers = [part for part in module.modules() if isinstance(part, QuantizedLinear)]
        if layers:
            return "int8", float(sum(layer.in_features * layer.out_features for layer in layers))
        weights = list(module.parameters())
        kind = _name(weights[-1].dtype)
        return kind, float(sum(weight.numel() for weight in weights) * number_bytes(kind))

    def _spelling(self, length: int, count: int) -> list[Stage]:
        rows = self.parts.vocab.codebook_size
        one = self._language.decode(_PROMPT_IDS, length - 1, rows, count)
        times = fewest_passes(self._passes, length) - 1
        return [
            self._language.prefill(_PROMPT_IDS, rows, count),
            dataclasses.replace(one, flops=one.flops * one.times / times, times=times),
        ]

    def _painting(self, work: Work, features: int) -> list[Stage]:
        painter: Any = self.parts.detokenizer(work.detok)
        step, rest = self._counted.get(work.detok, (0.0, 0.0))
        kind, size = self._weights(painter.transformer)
        if self.painted(work.detok):
            config = painter.transformer.config
            return ar_stages(config, features, kind, guided=config.guidance > 1, canvas_flops=rest)
        if not step:
            return []
        steps = work.steps or int(getattr(painter.transformer.config, "steps", 1))
        return [
            Stage(flops=step, bytes=size, kind=kind, times=steps),
            Stage(flops=rest, bytes=0.0, kind="float32"),
        ]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
