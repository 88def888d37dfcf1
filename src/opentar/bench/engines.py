"""The one place where the benchmark meets the ways to run a language model: what there is, and how to start it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentar.core.folder import is_quantized, read_config
from opentar.language.folder import GGUF_STORAGE, made_for
from opentar.tokens_to_image.passes import NAMED, OF_LANGUAGE

if TYPE_CHECKING:
    from torch import Tensor

    from opentar.pipeline import Tar


@dataclass(frozen=True, kw_only=True)
class Way:
    """An engine and how it runs."""

    name: str
    """As it stands in the rows."""
    process: str
    """The way of the same folder whose process runs it: weights are in memory once."""
    folder: Path
    """The model that is run: the one that is measured, or a quantized copy of it."""
    engine: str | None = None
    """What runs the language model; None is what the folder was made for."""
    passes: str | None = None
    """How many codes a pass of an AR de-tokenizer draws (tokens_to_image/passes.py); None is one."""
    code_passes: str | None = None
    """The same of the language model; None is one."""
    exact: bool = True
    """Same weights, same distribution as one id at a time; only rounding may differ."""
    bits: int | None = None
    """Bits a weight where the weights were quantized."""

    @property
    def weight_bytes(self) -> float | None:
        """Bytes a weight; None: as the model is stored. One scale of 16 bits for 32 weights is counted."""
        return None if self.bits is None else (self.bits + 0.5) / 8


def ways_of(
    folder: Path, also: Sequence[Path] = (), passes: Sequence[str] = (), code_passes: Sequence[str] = ()
) -> tuple[Way, ...]:
    """The ways to run a model and its quantized copies: one code a pass first, then several in the AR de-tokenizer
    (`passes`), in the language model (`code_passes`), and in both.
    """
    plain = [_way(one) for one in (folder, *also)]
    further = [
        replace(way, name=f"{way.name}, {name}", passes=name, exact=way.exact and NAMED[name].exact)
        for way in plain
        for name in passes
    ]
    ways = [*plain, *further]
    ways += [
        replace(way, name=f"{way.name}, codes {name}", code_passes=name, exact=way.exact and OF_LANGUAGE[name].exact)
        for way in ways
        for name in code_passes
    ]
    return tuple(ways)


def _way(folder: Path) -> Way:
    storage = str(read_config(folder / "language").get("storage"))
    in_gguf = storage.startswith(GGUF_STORAGE)
    bits = next((bits for bits in (8, 4) if f"q{bits}" in storage or storage == f"int{bits}"), None)
    if not in_gguf and not is_quantized(folder / "language"):
        # int8 of a folder that was only saved so is computed in float32.
        return Way(name="torch", process="torch", folder=folder)
    engine = "llamacpp" if in_gguf else made_for(folder / "language") or "torch"
    name = f"{engine} {storage.removeprefix(GGUF_STORAGE)}"
    return Way(name=name, process=name, folder=folder, engine=engine, exact=bits is None, bits=bits)


def load(way: Way, device: str | None) -> Tar:
    """The model, to be run that way.

    PyTorch is not asked for by its name: then it would run the AR de-tokenizer of a quantized folder, too, which nobody
    gets who has OpenVINO.
    """
    from opentar.pipeline import Tar

    engine = None if way.engine == "torch" else way.engine
    return Tar.from_pretrained(way.folder, device=device, engine=engine)


def paint(tar: Tar, way: Way, detok: str, features_BND: Tensor, steps: int | None) -> Tensor:
    """Pixels of features that way, with the de-tokenizer's own settings."""
    painter: Any = tar.parts.detokenizer(detok)
    more = {} if way.passes is None or not detok.startswith("ar") else {"passes": NAMED[way.passes]}
    pixels: Tensor = painter.decode(features_BND, seed=0, steps=steps, **more)
    return pixels
