"""What is known of a model before it is loaded: its grids, its de-tokenizers, and the memory that it will take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentar.checkpoints import model_folder
from opentar.core.folder import read_config

SIZES = {(1536, 28): "tar-1.5b", (3584, 28): "tar-7b"}
"""(width, layers) of the language model -> the published size."""
PROGRAM_BYTES = 1_200_000_000
"""A process with torch and transformers, and what it computes beside the weights."""
SMALL = 200_000_000
"""Weights below this load at once; such models are measured in one process a side."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of one model folder."""

    folder: Path
    """The model."""
    name: str
    """How it calls itself."""
    size: str
    """nano, tar-1.5b or tar-7b; empty for another one, which has no targets."""
    lengths: tuple[int, int, int]
    """Codes of the three grids, finest first."""
    painters: dict[str, str]
    """De-tokenizer -> its kind: ar, flow or sana."""
    stored: dict[str, int]
    """Part -> bytes of its weights as they are stored."""
    wide: dict[str, int]
    """Part -> bytes of its weights as float32."""

    @property
    def small(self) -> bool:
        """Whether all weights together load at once."""
        return sum(self.stored.values()) < SMALL


def facts_of(folder: Path) -> Facts:
    """Read the configs of a model folder. Raises WeightsError or ConfigError where it is damaged or no model."""
    config = model_folder.read_config(folder)
    scales = model_folder.read_vocab(folder).scales
    sizes: dict[str, Any] = read_config(folder / "language")["opentar"]["language"]
    own = SIZES.get((sizes.get("hidden", 0), sizes.get("layers", 0)), "")
    stored, wide = {}, {}
    for part in config.parts:
        stored[part], wide[part] = _weights(folder / part)
    return Facts(
        folder=folder,
        name=config.name,
        size="nano" if config.name == "nano" else own,
        lengths=(scales[0].length, scales[1].length, scales[2].length),
        painters={name: _kind(folder / f"detok_{name}") for name in config.detokenizers},
        stored=stored,
        wide=wide,
    )


def memory_needed(facts: Facts, parts: tuple[str, ...], baseline: bool) -> int:
    """Bytes that measuring with these parts takes, both sides' processes together; rough, and rather too much.

    Ours maps the weights as they are stored. The baseline holds the image tokenizer in float32 and the others as they
    are stored.
    """
    ours = PROGRAM_BYTES + sum(facts.stored[part] for part in parts)
    theirs = PROGRAM_BYTES + sum((facts.wide if part == "ta_tok" else facts.stored)[part] for part in parts)
    return ours + (theirs if baseline else 0)


def _kind(folder: Path) -> str:
    return "sana" if (folder / "model_index.json").is_file() else str(read_config(folder).get("kind"))


def _weights(folder: Path) -> tuple[int, int]:
    """Bytes of the weights of a part as stored, and as float32."""
    from opentar.core.headers import read_header

    stored = wide = 0
    for file, size in model_folder.part_files(folder):
        if file.endswith(".safetensors"):
            stored += size
            wide += 4 * sum(tensor.numbers for tensor in read_header(folder / file).values())
    return stored, wide
