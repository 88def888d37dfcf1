"""What stands in a model folder already, as far as new de-tokenizers have to fit it. Reads configs, never weights."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from opentar.checkpoints.settings import DETOK_PREFIX, ModelConfig
from opentar.core.config import from_dict
from opentar.core.folder import read_config, saved_files
from opentar.image_to_tokens.ta_tok import TATokConfig
from opentar.tokens_to_image.ar import ARConfig
from opentar.tokens_to_image.vqgan import VQGANConfig
from opentar.vocab import Vocab

ConfigT = TypeVar("ConfigT")


class Features(NamedTuple):
    """What de-tokenizers are given by a model's image tokenizer."""

    size: int
    """width of a feature"""
    lengths: tuple[int, ...]
    """features of a picture at each scale, the finest first"""

    @classmethod
    def of(cls, tokenizer: TATokConfig, vocab: Vocab) -> Features:
        """From the two configs that decide it."""
        return cls(tokenizer.decoder.output_size, tuple(scale.length for scale in vocab.scales))


class Canvas(NamedTuple):
    """The VQGAN of AR de-tokenizers: a published file, or one that stands in a model folder already."""

    config: VQGANConfig
    path: Path
    """the file, or the folder to link"""
    published: bool
    """whether `path` is a published file"""
    written: list[Path]
    """where it was written already: the de-tokenizers of one import share its files"""


def ta_tok_config(folder: Path) -> TATokConfig:
    """Sizes of a model's image tokenizer. Raises WeightsError or ConfigError."""
    return _config_of(TATokConfig, folder / "ta_tok")


def canvas_of(folder: Path, config: ModelConfig) -> Canvas | None:
    """The VQGAN of an AR de-tokenizer that the model has, or None."""
    for part in config.parts:
        if part.startswith("detok_ar") and read_config(folder / part).get("canvas") == "vqgan":
            path = folder / part / "canvas"
            return Canvas(_config_of(VQGANConfig, path), path, False, [])
    return None


def pixels_of_ar(config: ARConfig, canvas: VQGANConfig) -> int:
    """Side of the pictures of an AR de-tokenizer on that canvas."""
    return math.isqrt(config.codes) * canvas.factor


def pixels_of(folder: Path) -> int:
    """Side of the pictures of a de-tokenizer of a published kind; 0 for the others, whose sizes do not matter here."""
    settings = read_config(folder)
    if settings.get("canvas") == "vqgan":
        config = _config_of(ARConfig, folder / "transformer")
        return pixels_of_ar(config, _config_of(VQGANConfig, folder / "canvas"))
    if settings.get("kind") == "sana":
        blocks = read_config(folder / "vae").get("encoder_block_out_channels", [0])
        return read_config(folder / "transformer").get("sample_size", 0) * 2 ** (len(blocks) - 1)
    return 0


def draws(folder: Path, config: ModelConfig) -> set[tuple[str, int]]:
    """Kind ("ar", "diffusion") and pixels of every de-tokenizer of a model. Raises WeightsError or ConfigError."""
    return {(name.partition("_")[0], pixels_of(folder / f"{DETOK_PREFIX}{name}")) for name in config.detokenizers}


def link_tree(source: Path, target: Path) -> None:
    """`target` with the files of the part `source`: hard links, or copies where the disk knows no links.

    Files of a part are never changed in place, only replaced, so two folders may share them. What its manifest does
    not name is no part of it. Raises WeightsError without a manifest.
    """
    for name in saved_files(source):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # A link inside the folder is followed: its own words would lead elsewhere from another place.
            path.hardlink_to((source / name).resolve())
        except OSError:
            shutil.copyfile(source / name, path)


def _config_of(kind: type[ConfigT], folder: Path) -> ConfigT:
    """The config of a part without what the folder says about storage."""
    fields: Any = getattr(kind, "__dataclass_fields__", {})
    values = {key: value for key, value in read_config(folder).items() if key in fields}
    return from_dict(kind, values, where=f"{folder}/config.json")
