"""The one place where the benchmark meets the ways to run a language model: what there is, and how to start it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentar.engine.engine import Engine
    from opentar.pipeline import Tar


@dataclass(frozen=True, kw_only=True)
class Way:
    """An engine and how it runs."""

    name: str
    """As it stands in the rows."""
    exact: bool = True
    """Same weights, same distribution as one id at a time; only rounding may differ."""
    bits: int | None = None
    """Bits a weight where the weights were quantized."""

    @property
    def weight_bytes(self) -> float | None:
        """Bytes a weight; None: as the model is stored. One scale of 16 bits for 32 weights is counted."""
        return None if self.bits is None else (self.bits + 0.5) / 8


def ways_of(folder: Path) -> tuple[Way, ...]:
    """The ways to run this model that are installed here."""
    return (Way(name="torch"),)


def load(folder: Path, way: str, device: str | None) -> Tar:
    """The model, to be run that way."""
    from opentar.pipeline import Tar

    return Tar.from_pretrained(folder, device=device)


def engine_of(tar: Tar, way: str, batch: int) -> Engine:
    """An engine that runs up to `batch` requests side by side that way."""
    return tar.engine(batch)
