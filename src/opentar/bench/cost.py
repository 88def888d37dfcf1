"""What a work needs at least: multiplications and bytes from memory, stage by stage, from the sizes of the models.

A stage takes at best the longer of two times: its bytes at the measured read bandwidth, and its FLOPs at the measured
rate of large products of its type (the roofline). The ideal time of a work is the sum over its stages, and
`share_of_limit` is that sum divided by the measured time. Decoding one id a step reads every weight once a step, so
there the share is bytes a token x tokens a second / bandwidth; reading a prompt or a picture is bound by its products,
so there it is FLOPs / rate / seconds.

Counted are weights (the blocks, and the rows of the head that are asked for), keys and values, and products. Norms,
activations, sampling and whatever is moved between the stages cost time too: that is what the share leaves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentar.bench.rows import Need

if TYPE_CHECKING:
    from opentar.bench.limits import Limits
    from opentar.image_to_tokens.encoder import VisionConfig
    from opentar.language.model import LanguageConfig
    from opentar.tokens_to_image.ar import ARConfig
    from opentar.tokens_to_image.passes import Passes


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of work that is bound by one thing."""

    flops: float
    """Multiplications and additions of one time."""
    bytes: float
    """Bytes from memory of one time."""
    kind: str
    """Type of numbers of its products: float32, bfloat16, float16 or int8."""
    times: int = 1
    """How often it runs, one after the other."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Stage:
        """What `dataclasses.asdict` made."""
        return cls(**values)


def need_of(stages: Sequence[Stage], limits: Limits) -> Need | None:
    """The least that these stages ask of a machine; None without stages, or where a rate is not known."""
    seconds = 0.0
    for stage in stages:
        rate = limits.rate(stage.kind)
        if rate is None:
            return None
        seconds += stage.times * max(stage.flops / rate, stage.bytes / limits.bytes_per_s)
    if not stages:
        return None
    flops = sum(stage.times * stage.flops for stage in stages)
    return Need(flops=flops, bytes=sum(stage.times * stage.bytes for stage in stages), seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class LanguageCost:
    """Costs of the language model on one engine."""

    config: LanguageConfig
    """Its sizes."""
    kind: str
    """Type of numbers of its products, keys and values."""
    weight_bytes: float
    """Bytes of a weight in memory."""

    @property
    def block_numbers(self) -> int:
        """Weights of all blocks."""
        c = self.config
        attention = 2 * c.hidden * c.head_size * (c.heads + c.kv_heads)
        return c.layers * (attention + 3 * c.hidden * c.mlp)

    def prefill(self, length: int, head_rows: int, batch: int = 1) -> Stage:
        """Reading `batch` prompts of `length` ids at once and asking for `head_rows` logits of each."""
        c = self.config
        head = head_rows * c.hidden
        # Half of the scores lie before the position that asks; products with keys and with values.
        attention = 2 * c.layers * c.heads * c.head_size * length**2
        flops = batch * (2 * self.block_numbers * length + attention + 2 * head)
        return Stage(flops=flops, bytes=(self.block_numbers + head) * self.weight_bytes, kind=self.kind)

    def decode(self, past: int, count: int, head_rows: int, batch: int = 1) -> Stage:
        """`count` steps of one id each for `batch` rows, from `past` positions on."""
        c = self.config
        numbers = self.block_numbers + head_rows * c.hidden
        positions = past + count / 2
        cache = 2 * c.layers * c.kv_heads * c.head_size * positions * number_bytes(self.kind)
        attention = 4 * c.layers * c.heads * c.head_size * positions
        return Stage(
            flops=batch * (2 * numbers + attention),
            bytes=numbers * self.weight_bytes + batch * cache,
            kind=self.kind,
            times=count,
        )


def fewest_passes(passes: Passes, length: int) -> int:
    """Least passes of a grid of so many codes: every guess right, every row started as soon as it may be."""
    if passes.lead:
        side = math.isqrt(length)
        return side + (side - 1) * min(passes.lead, side)
    return -(-length // (1 + passes.guesses))


def number_bytes(kind: str) -> int:
    """Bytes of a number."""
    return {"float32": 4, "int8": 1}.get(kind, 2)


def transformer_flops(vision: VisionConfig) -> float:
    """FLOPs of the encoder's layers over one picture; the stem and the pooling are not counted."""
    cells, width = vision.grid_side**2, vision.hidden_size
    numbers = 4 * width**2 + 2 * width * vision.mlp_size
    return float(vision.layers * (2 * cells * numbers + 4 * cells**2 * width))


def encoder_stages(flops: float, size: float, kind: str, codes: int, codebook: tuple[int, int]) -> list[Stage]:
    """A picture to codes: the encoder's FLOPs and bytes, and the comparison of each feature with all rows (K, C)."""
    rows, width = codebook
    return [
        Stage(flops=flops, bytes=size, kind=kind),
        # In float32 whatever the rest runs in: rounding would move codes.
        Stage(flops=2.0 * codes * rows * width, bytes=4.0 * rows * width, kind="float32"),
    ]


def ar_stages(config: ARConfig, features: int, kind: str, guided: bool, canvas_flops: float) -> list[Stage]:
    """Features to a picture by the AR de-tokenizer, one code a step, guidance as a second row; then the canvas."""
    width = config.hidden_size
    blocks = config.layers * (4 * width**2 + 3 * width * config.mlp_size)
    numbers = blocks + width * config.codebook_size
    rows, size = (2 if guided else 1), number_bytes(kind)
    positions = features + config.codes / 2
    cache = 2 * config.layers * width * positions * size
    attention = 4 * config.layers * width * positions
    prefix = rows * (2.0 * blocks * features + 2 * config.layers * width * features**2)
    return [
        Stage(flops=prefix, bytes=float(numbers * size), kind=kind),
        Stage(
            flops=rows * (2 * numbers + attention),
            bytes=numbers * size + rows * cache,
            kind=kind,
            times=config.codes - 1,
        ),
        Stage(flops=canvas_flops, bytes=0.0, kind="float32"),
    ]
