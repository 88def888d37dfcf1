"""`config.json` of a model folder: its parts, its defaults, and the limits of what a call may ask for."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from opentar.core.config import plain_number
from opentar.core.errors import ConfigError, ModelError, nearest, shown

PARTS = ("ta_tok", "language", "detok_diffusion", "detok_ar")
"""Names of parts; a further de-tokenizer of a kind adds the side of its pictures, as in detok_ar_512."""
REQUIRED_PARTS = ("ta_tok", "language")
DETOK_PREFIX = "detok_"
_FURTHER = re.compile(r"(detok_[a-z]+)_[1-9][0-9]{0,4}")
PASSES = ("one", "jacobi", "zipar", "drafts", "late")
"""Ways to draw codes of an AR de-tokenizer; tokens_to_image/passes.py says what each is."""
CODE_PASSES = ("one", "jacobi", "zipar")
"""Those of them that the language model has, too."""
MAX_PICTURES = 1000
"""Most pictures of one call."""
MAX_SEED = 2**62
MAX_ANSWER = 100_000
"""Most ids of an answer."""


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """How a picture is drawn: a model's defaults, or one call's choice. Raises ConfigError for values out of range."""

    scale: int = 1
    """Index of the code grid: 0 (finest) to 2 (coarsest)."""
    detok: str = "diffusion"
    """De-tokenizer: diffusion or ar, or a further one with the side of its pictures, such as ar_512."""
    temperature: float = 0.7
    """Of the language model over codes, 0 to 10; 0 takes the likeliest code."""
    top_k: int = 0
    """Keep this many likeliest codes; 0 keeps all."""
    top_p: float = 0.95
    """Keep the likeliest codes up to this probability; 1 keeps all."""
    guidance: float = 1.0
    """Of the language model, 1 (none) to 50."""
    detok_guidance: float | None = None
    """Of the de-tokenizer, 1 (none) to 50; None is the de-tokenizer's own default."""
    steps: int | None = None
    """Of a diffusion de-tokenizer, 1 to 1000; None is the de-tokenizer's own default."""
    code_passes: str | None = None
    """Of the language model: how many codes a pass draws, by the names of CODE_PASSES; None is one."""
    passes: str | None = None
    """Of an AR de-tokenizer: how many codes a pass draws, by the names of PASSES; None is one."""

    def __post_init__(self) -> None:
        check_range("temperature", self.temperature, 0, 10)
        check_range("guidance", self.guidance, 1, 50)
        check_range("top_k", self.top_k, 0, 10_000_000, whole=True)
        check_range("top_p", self.top_p, 0, 1)
        if self.detok_guidance is not None:
            check_range("detok_guidance", self.detok_guidance, 1, 50)
        if self.steps is not None:
            check_range("steps", self.steps, 1, 1000, whole=True)
        for name, known in (("code_passes", CODE_PASSES), ("passes", PASSES)):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ConfigError(f"{name} is {shown(value)}; choose {', '.join(known)}.{nearest(str(value), known)}")
        if self.passes is not None and not self.detok.startswith("ar"):
            raise ConfigError(
                f"passes is for the AR de-tokenizer, and {shown(self.detok)} draws; leave it out, or use ar"
            )


@dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """How a picture is read where the call does not say."""

    scale: int = 1
    """Index of the code grid."""
    max_new_tokens: int = 64
    """Longest answer."""
    describe: str = "What is in the picture?"
    """The question behind `describe`."""
    describe_zh: str = "图中有什么？"
    """The same in Chinese, for captions in Chinese."""

    def __post_init__(self) -> None:
        check_range("max_new_tokens", self.max_new_tokens, 1, MAX_ANSWER, whole=True)


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Defaults of both directions."""

    draw: DrawSettings = field(default_factory=DrawSettings)
    """text -> picture"""
    read: ReadSettings = field(default_factory=ReadSettings)
    """picture -> text"""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """`config.json` of a model folder. Raises ConfigError or ModelError for values that make no model."""

    kind: Literal["opentar"] = "opentar"
    """What this folder is."""
    format: Literal[1] = 1
    """Version of this layout."""
    name: str = "opentar"
    """How the model calls itself."""
    parts: tuple[str, ...] = REQUIRED_PARTS
    """Subfolders that belong to the model."""
    defaults: Defaults = field(default_factory=Defaults)
    """Settings of calls that do not say."""
    fit: Literal["squash", "letterbox"] = "squash"
    """How a picture that is not square is read."""
    known_words: tuple[str, ...] = ()
    """Words of the training texts, English and Chinese; empty: unknown."""
    licence: str = ""
    """Licence of the weights."""
    data: str = ""
    """What it was trained on."""
    part_licences: dict[str, str] = field(default_factory=dict)
    """Part -> its licence, where the parts come from different places."""
    experimental: str = ""
    """Why nobody vouches for its quality, where it was quantized more coarsely than measurements allow."""
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Part -> the files it was imported from: names, or "owner/repository@commit/name" of files from the hub."""

    def __post_init__(self) -> None:
        for part in self.parts:
            if not is_part(part):
                raise ModelError(
                    f"config.parts names {shown(part)}; parts are {', '.join(PARTS)}, and detok_KIND_PIXELS such as "
                    f"detok_ar_512.{nearest(part, PARTS)}"
                )
        if len(set(self.parts)) != len(self.parts):
            raise ModelError(f"config.parts is {', '.join(self.parts)}; name every part once")
        for where, told in (("part_licences", self.part_licences), ("sources", self.sources)):
            for part in told:
                if part not in self.parts:
                    raise ModelError(f"config.{where} names {shown(part)}; this model has {', '.join(self.parts)}")
        missing = [part for part in REQUIRED_PARTS if part not in self.parts]
        if missing:
            raise ModelError(f"config.parts lacks {', '.join(missing)}; every model needs {', '.join(REQUIRED_PARTS)}")
        known = self.detokenizers
        if known and self.defaults.draw.detok not in known:
            raise ModelError(
                f"defaults.draw.detok is {shown(self.defaults.draw.detok)}; this model has {', '.join(known)}"
            )

    @property
    def detokenizers(self) -> tuple[str, ...]:
        """Names of the de-tokenizers the model has, such as diffusion, ar and ar_512."""
        return tuple(part.removeprefix(DETOK_PREFIX) for part in self.parts if part.startswith(DETOK_PREFIX))


def is_part(name: str) -> bool:
    """Whether `name` is one of PARTS, or a de-tokenizer of PARTS with the side of its pictures: detok_ar_512."""
    further = _FURTHER.fullmatch(name)
    return name in PARTS or (further is not None and further[1] in PARTS)


def check_range(name: str, value: object, low: float, high: float, whole: bool = False) -> Any:
    """`value` as a plain int (or float), where it is a number (a whole one) from `low` to `high`; else ConfigError.

    Numbers of numpy and torch are numbers; True and False are not.
    """
    number = plain_number(value)
    kinds = (int,) if whole else (int, float)
    # Comparisons with NaN are false, so NaN is refused too.
    if isinstance(number, bool) or not isinstance(number, kinds) or not low <= number <= high:
        told = number if isinstance(number, (bool, int, float)) else shown(value)
        raise ConfigError(f"{name} is {told}; it must be a {'whole ' if whole else ''}number from {low} to {high}")
    return number
