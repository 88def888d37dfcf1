"""Tiny checkpoints in the published formats and inputs for the parity tests, as pure functions of names.

The reference values were computed with these weights: PCG64 seeded by sha256 of "SEED:name" gives 24-bit fractions in
[-1, 1), scaled and shifted once in float32, so every machine gets the same bits. `weights.json` lists name, shape and
range of each tensor.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

SEED = 20250622


def uniform(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """float32 multiples of 2**-23 in [-1, 1), decided by the name."""
    count = math.prod(shape)
    digest = hashlib.sha256(f"{SEED}:{name}".encode()).digest()
    words = np.random.PCG64(int.from_bytes(digest[:8], "little")).random_raw(-(-count // 2)).view(np.uint32)
    fractions = (words[:count] >> 8).astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)
    return torch.from_numpy(fractions.reshape(shape))


def picture(name: str, height: int, width: int, block: int) -> np.ndarray:
    """uint8 (height, width, 3): three parts random blocks, one part a diagonal ramp."""
    shape = (math.ceil(height / block), math.ceil(width / block), 3)
    blocks = ((uniform(f"img:{name}", shape) + 1.0) * 128.0).floor().clamp(0, 255).numpy().astype(np.int64)
    blocks = np.kron(blocks, np.ones((block, block, 1), dtype=np.int64))[:height, :width]
    rows, columns = np.mgrid[:height, :width]
    down, right = rows * 255 // height, columns * 255 // width
    ramp = np.stack([down, right, (down + right) // 2], axis=-1)
    return ((3 * blocks + ramp) // 4).clip(0, 255).astype(np.uint8)


def state_of(listing: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of one file of weights.json."""
    return {item["k"]: _tensor(listing["prefix"], item) for item in listing["tensors"]}


def write_checkpoint(folder: Path, name: str, out: Path) -> Path:
    """Write the file `name` ("ta_tok.pth", "ar_dtok_small.pth", "vq_ds16_t2i.pt") of folder/weights.json; its path."""
    listing = json.loads((folder / "weights.json").read_text())[name]
    state = state_of(listing)
    model: dict[str, Any] = state
    if name == "ta_tok.pth":
        model = {"args": as_easydict(listing["args"]), "sd": state}
    elif "args" in listing:
        model = {"name": listing["name"], "args": listing["args"], "sd": state}
    out.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model}, out / name)
    return out / name


def as_easydict(value: Any) -> Any:
    """Mappings as instances of a class that pickles as easydict.EasyDict, which need not be installed."""
    if isinstance(value, list):
        return [as_easydict(item) for item in value]
    if not isinstance(value, dict):
        return value
    module = sys.modules.setdefault("easydict", types.ModuleType("easydict"))
    if not hasattr(module, "EasyDict"):
        module.EasyDict = type("EasyDict", (dict,), {"__module__": "easydict"})  # type: ignore[attr-defined]
    return module.EasyDict({key: as_easydict(item) for key, item in value.items()})


def _tensor(prefix: str, item: dict[str, Any]) -> torch.Tensor:
    shape = tuple(item["shape"])
    if "dtype" in item:
        return torch.zeros(shape, dtype=getattr(torch, item["dtype"].removeprefix("torch.")))
    if "const" in item:
        return torch.full(shape, item["const"])
    if "values" in item:
        return torch.tensor(item["values"], dtype=torch.float32).reshape(shape)
    drawn = uniform(f"{prefix}:{item['k']}", shape) * np.float32(item["scale"])
    return drawn + np.float32(item["base"]) if item["base"] else drawn
