"""Which type of numbers each part of a model runs in: one pure function over the device, the folder and the wish.

| device | asked | runs |
|---|---|---|
| any | float32 | float32 |
| with bfloat16 (a CPU, CUDA from 8.0, macOS from 14) | nothing, bfloat16 | as stored, bfloat16 |
| without | nothing | what is stored as bfloat16: float16 in the parts of HALF, else float32; said in a warning |
| without | bfloat16 | CUDA: bfloat16, emulated, with a warning; MPS: refused |
| CUDA, MPS | float16 | float16 in the parts of HALF, else float32 |
| CPU | float16 | refused: most have no arithmetic for it, and bfloat16 saves as much memory |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from opentar.core.errors import ConfigError
from opentar.core.storage import LoadDtype

HALF = ("language", "detok_ar")
"""Parts whose weights may be float16 (nn/half.py): they read all their weights at every step, so it pays there.

The image tokenizer stays float32, because rounding moves codes; SANA, because its linear attention and its autoencoder
overflow in float16; flow and the canvases are float32 in any case."""
PARTS = ("ta_tok", "language", "detok_ar", "detok_diffusion")


class DtypeWarning(UserWarning):
    """A model runs in another type than it is stored in, or slowly."""


class DeviceFacts(NamedTuple):
    """What the choice depends on."""

    kind: str
    """cpu, cuda or mps"""
    bfloat16: bool = True
    """whether it has bfloat16 (a CPU may emulate it; it then runs as it is stored all the same)"""
    name: str = ""
    """as the driver says it"""


class Choice(NamedTuple):
    """The types that run."""

    types: dict[str, LoadDtype]
    """kind of part -> type; "stored": as it lies in the file, int8 in float32"""
    remark: str = ""
    """a line for the user where it is not what was asked or stored"""


def device_facts(device: torch.device) -> DeviceFacts:
    """The facts of a device of this machine."""
    if device.type == "cuda":
        # Below 8.0 (T4, V100, the 20 series) torch emulates bfloat16, many times slower.
        capable = torch.cuda.get_device_capability(device) >= (8, 0)
        return DeviceFacts("cuda", capable, torch.cuda.get_device_name(device))
    if device.type == "mps":
        return DeviceFacts("mps", torch.backends.mps.is_macos_or_newer(14, 0), "MPS before macOS 14")
    return DeviceFacts(device.type)


def choose_types(facts: DeviceFacts, stored_bfloat16: Callable[[str], bool], asked: LoadDtype) -> Choice:
    """Type of each kind of part in PARTS.

    Args:
        facts: of the device.
        stored_bfloat16: whether a kind of part is stored as bfloat16; asked only where it matters.
        asked: what the caller wants; "stored" for nothing.

    Raises:
        ConfigError: a type that the device cannot run.
    """
    half: dict[str, LoadDtype] = {part: torch.float16 if part in HALF else torch.float32 for part in PARTS}
    same: dict[str, LoadDtype] = dict.fromkeys(PARTS, asked)
    called = facts.name or facts.kind
    if asked == torch.float16:
        if facts.kind == "cpu":
            raise ConfigError(
                "float16 is for cuda and mps: most CPUs have no arithmetic for it, and it overflows early; "
                "use float32, or bfloat16 to halve the memory"
            )
        return Choice(half)
    if facts.bfloat16 or asked == torch.float32:
        return Choice(same)
    if asked == torch.bfloat16:
        if facts.kind == "mps":
            raise ConfigError(f"{called} has no bfloat16; use float16 or float32")
        return Choice(same, f"{called} has no bfloat16 and emulates it slowly; float16 is faster there")
    narrow = [part for part in PARTS if stored_bfloat16(part)]
    if not narrow:
        return Choice(same)
    told = ", ".join(f"{part} in {_short(half[part])}" for part in narrow)
    return Choice(
        same | {part: half[part] for part in narrow},
        f"{called} has no bfloat16, in which the model is stored; runs {told}",
    )


def _short(dtype: LoadDtype) -> str:
    return str(dtype).removeprefix("torch.")
