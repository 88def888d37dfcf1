"""How much memory a task on a model takes, by the headers of its files alone, and what would fit where it does not.

Counted are the weights of each part in the type they run in, keys and values, and the work of the largest step. Weights
that are mapped from the disk count whole: a model that does not fit would read them again at every code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from opentar.checkpoints import settings
from opentar.core.disk import human_bytes
from opentar.core.errors import ModelError, shown
from opentar.core.folder import packed_tensors, saved_files
from opentar.core.headers import SCALE, TensorHeader, read_header
from opentar.core.memory import available_bytes
from opentar.language.folder import language_config

PROGRAM_BYTES = 400_000_000
"""Python, PyTorch and transformers before any weight is loaded, measured."""
_WORK_BYTES = 60_000_000
"""Intermediate results of reading and painting pictures of nano's size, about."""
_PIXEL_BYTES = 3_000
"""Intermediate results of a published canvas or autoencoder for each pixel, about; SANA's works in strips of 512."""
_MOST_PIXELS = 512 * 512
_LLAMA_BYTES = 400_000_000
"""What llama.cpp takes beside weights and cache, about (engine/backends/llamacpp.py)."""
_LARGE_BYTES = 500_000_000
"""A de-tokenizer with more weights than this works on pictures of published size."""
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
_BITS = {
    "gguf-q4_k_m": {"language": 5.5},
    "gguf-q4_0": {"language": 5.3},
    "int4": {"language": 5.6, "detok_ar": 5.0},
    "gguf-q8_0": {"language": 8.5},
    "int8": {"language": 8.1},
}
"""Bits a number of the parts whose weights a target of `opentar quantize` makes smaller; 8.1 where nothing is said."""
_EXACT = ("quantizer.", "in_linear.", "encode_task_layer.")
"""Tensors of TA-Tok that are never quantized."""


class Needs(NamedTuple):
    """Bytes of memory that a task takes beside the program itself."""

    weights: dict[str, int]
    """of each part"""
    cache: int
    """keys and values of the language model"""
    work: int
    """intermediate results"""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.weights.values()) + self.cache + self.work


def needs_of(folder: Path, types: Mapping[str, str], *, rows: int = 1, target: str | None = None) -> Needs:
    """What a task takes that needs the parts in `types`.

    Args:
        folder: a model folder.
        types: part -> the type it runs in: "stored", "packed", or a type's name, as `ModelParts.running` says.
        rows: sequences side by side in the language model.
        target: None for the folder as it is, or a target of `opentar quantize`: what its copy would take.

    Raises WeightsError for a damaged folder.
    """
    weights = {part: _weights(folder / part, part, kind, target) for part, kind in types.items()}
    cache, gguf = 0, (target or "").startswith("gguf-")
    if "language" in types:
        cache = rows * _cache(folder / "language")
        if gguf or any((folder / "language").glob("*.gguf")):
            weights["language"] += _LLAMA_BYTES
    large = any(size > _LARGE_BYTES for part, size in weights.items() if part.startswith(settings.DETOK_PREFIX))
    return Needs(weights, cache, _WORK_BYTES + (_PIXEL_BYTES * _MOST_PIXELS if large else 0))


def modes(folder: Path, types: Mapping[str, str], *, rows: int = 1) -> dict[str, int]:
    """Target of `opentar quantize` -> bytes that its copy of the model would take, the smallest first.

    Empty where the folder is such a copy already.
    """
    language = folder / "language"
    if "packed" in types.values() or any(language.glob("*.gguf")):
        return {}
    sizes = {target: needs_of(folder, types, rows=rows, target=target).total for target in _BITS}
    return dict(sorted(sizes.items(), key=lambda item: item[1]))


def check_room(folder: Path, types: Mapping[str, str], loaded: Sequence[str] = (), *, rows: int = 1) -> None:
    """Raise ModelError where a task will not fit into memory; nothing where the system does not say what is available.

    Args:
        folder: a model folder.
        types: as in `needs_of`.
        loaded: parts that lie in memory already.
        rows: as in `needs_of`.
    """
    if not set(types) - set(loaded):
        return
    available, needs = available_bytes(), needs_of(folder, types, rows=rows)
    held = sum(size for part, size in needs.weights.items() if part in loaded)
    if available is None or needs.total - held <= available:
        return
    parts = ", ".join(f"{part} {human_bytes(size)}" for part, size in needs.weights.items() if part not in loaded)
    told = (
        f"this needs {human_bytes(needs.total - held)} of memory ({parts}; keys and values {human_bytes(needs.cache)}; "
        f"work {human_bytes(needs.work)}) and {human_bytes(available)} are available"
    )
    raise ModelError(f"{told}; {_advice(folder, modes(folder, types, rows=rows), available + held)}")


def _advice(folder: Path, found: dict[str, int], available: int) -> str:
    """What to do where a model does not fit."""
    if not found:
        return "close other programs or use a larger machine"
    target, least = next(iter(found.items()))
    needs = f"opentar quantize {shown(folder)} --to {target} -o OUT needs {human_bytes(least)} here"
    if least <= available:
        return f"close other programs, or make a smaller copy: {needs}"
    return f"close other programs or use a larger machine: even a copy made by {needs}"


def _weights(place: Path, part: str, kind: str, target: str | None) -> int:
    """Bytes of the weights of a part as they run."""
    gguf = sum(path.stat().st_size for path in place.glob("*.gguf"))
    total = gguf
    for path in (place / name for name in saved_files(place) if name.endswith(".safetensors")):
        header, bits = read_header(path), _bits(part, path, target)
        inner = _type_of(place, path, part, "stored" if kind == "packed" else kind)
        # What is not named there is restored, as in a folder that was never quantized.
        packed = packed_tensors(path.parent) if kind == "packed" else set()
        for name, tensor in header.items():
            whole = name.removesuffix(SCALE)
            own = "packed" if whole in packed else inner
            total += _tensor(name, tensor, f"{name}{SCALE}" in header, own, bits)
    return total


def _type_of(place: Path, path: Path, part: str, kind: str) -> str:
    """The type in which the tensors of a file run; what paints pixels runs in float32."""
    inner = path.relative_to(place).parts[0]
    painting = part.startswith(settings.DETOK_PREFIX) and inner not in ("transformer", path.name)
    return "float32" if painting else kind


def _bits(part: str, path: Path, target: str | None) -> float | None:
    """Bits a number that a quantized copy has for the matrices of a file; None where they stay as they are."""
    kind = next((kind for kind in settings.PARTS if part.startswith(kind)), part)
    if target is None or kind == "detok_diffusion" or (kind == "detok_ar" and path.parent.name != "transformer"):
        return None
    return _BITS[target].get(kind, 8.1)


def _tensor(name: str, tensor: TensorHeader, scaled: bool, kind: str, bits: float | None) -> int:
    stored = tensor.place[1] - tensor.place[0]
    if bits is not None and len(tensor.shape) == 2 and not name.startswith(_EXACT):
        return round(tensor.numbers * bits / 8)
    if kind == "packed" or (kind == "stored" and not scaled and not name.endswith(SCALE)):
        return stored
    # Bytes that have scales hold two numbers each; int8 runs in float32.
    numbers = tensor.numbers * (2 if scaled and tensor.dtype == "U8" else 1)
    return 0 if name.endswith(SCALE) else numbers * _WIDTHS.get(kind, 4)


def _cache(language: Path) -> int:
    """Bytes of keys and values of one sequence with the finest grid and a prompt."""
    config = language_config(language)
    # Room is doubled as it fills.
    positions = 2 * config.grid_side * config.grid_side
    return 2 * config.layers * config.kv_heads * config.head_size * positions * 4
