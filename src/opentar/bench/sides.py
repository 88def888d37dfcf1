"""The two sides that are compared do the same works; how each part of a work is done is the side's own."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from opentar.bench.limits import settle
from opentar.bench.rows import Measured
from opentar.bench.work import TOKENS, Work
from opentar.core.errors import ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

    from opentar.checkpoints.parts import ModelParts

_STRIDE = 1024
"""Numbers between two that are touched: at most the 4,096 bytes of a page, in float32."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How codes are sampled, the same on both sides: the model's defaults, without guidance of the language model."""

    temperature: float
    top_k: int
    top_p: float


class Side(ABC):
    """One side in a process of its own. Parts are loaded when they are first needed."""

    parts: ModelParts

    @abstractmethod
    def encode(self, picture: Image, scale: int) -> list[int]:
        """Codes of a picture."""

    @abstractmethod
    def answer(self, codes: list[int], tokens: int) -> int:
        """Answer QUESTION about a picture in at most so many ids; returns the ids that were read."""

    @abstractmethod
    def spell(self, scale: int, count: int = 1) -> Tensor:
        """Codes (count, N) int64 of drawings of PROMPT, side by side."""

    @abstractmethod
    def decode(self, scale: int) -> Measured:
        """A drawing's codes from the first to the last: the reading of the prompt is not counted."""

    @abstractmethod
    def features(self, codes_BN: Tensor) -> Tensor:
        """Features (B, N, D) of codes."""

    @abstractmethod
    def paint(self, detok: str, features_BND: Tensor, steps: int | None) -> Tensor:
        """Pixels (B, 3, H, W) of features."""

    @abstractmethod
    def warm(self, work: Work) -> None:
        """Load what the work needs and run a short piece of it, so that no first call is measured."""

    @torch.no_grad()
    def run(self, work: Work) -> Measured:
        """Do it once. Raises ModelError for a kind that this side cannot do."""
        match work.kind:
            case "encode":
                picture = self.picture()
                return self.timed(lambda: self.encode(picture, work.scale))
            case "read":
                picture = self.picture()
                return self.timed(lambda: self.answer(self.encode(picture, work.scale), TOKENS))
            case "prefill":
                codes = self.some_codes(work.scale)
                return self.timed(lambda: self.answer(codes, 1), tokens=lambda read: read)
            case "decode":
                return self.decode(work.scale)
            case "codes" | "batch":
                return self.timed(lambda: self.spell(work.scale, work.count), tokens=lambda codes: codes.numel())
            case "single":
                # One is enough to know what one after another takes.
                one = self.timed(lambda: self.spell(work.scale), tokens=lambda codes: codes.numel())
                return Measured(one.seconds * work.count, one.tokens * work.count)
            case "paint":
                features = self.features(torch.tensor([self.some_codes(work.scale)]))
                drawn = self.painted(work.detok)
                return self.timed(lambda: self.paint(work.detok, features, work.steps), tokens=lambda _: drawn)
            case "draw":
                return self.timed(lambda: self.paint(work.detok, self.features(self.spell(work.scale)), work.steps))
            case _:
                raise ModelError(f"{work.kind} is nothing that this side can do; leave the work {work.name} out")

    def timed(self, call: Callable[[], Any], tokens: Callable[[Any], int] = lambda _: 0) -> Measured:
        """Run `call` once; `tokens` counts the ids of its result."""
        settle(self.parts.device)
        start = time.perf_counter()
        result = call()
        settle(self.parts.device)
        return Measured(time.perf_counter() - start, tokens(result))

    def picture(self) -> Image:
        """A picture of noise that needs no resizing."""
        from PIL import Image

        side = self.parts.ta_tok.config.vision.image_size
        return Image.effect_noise((side, side), 80).convert("RGB")

    def some_codes(self, scale: int) -> list[int]:
        """Any codes that fill the grid."""
        grid = self.parts.vocab.scale(scale)
        return [place % self.parts.vocab.codebook_size for place in range(grid.length)]

    def painted(self, detok: str) -> int:
        """Codes that a de-tokenizer draws one after the other; 0 for one that draws none."""
        transformer = getattr(self.parts.detokenizer(detok), "transformer", None)
        codes = getattr(getattr(transformer, "config", None), "codes", 0)
        return int(codes)

    def settings(self) -> Settings:
        """How this model samples codes."""
        draw = self.parts.config.defaults.draw
        return Settings(temperature=draw.temperature, top_k=draw.top_k, top_p=draw.top_p)


@torch.no_grad()
def touch(module: object) -> None:
    """Read something of every page of a module's weights, so that mapped files are in memory before a clock starts."""
    if isinstance(module, nn.Module):
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.flatten()[::_STRIDE].float().sum()
