"""Where the model runs. Resolved once, at the border of the program; below it nobody asks for CUDA."""

from __future__ import annotations

import torch

from opentar.core import environment
from opentar.core.errors import ConfigError, nearest, shown

_KINDS = ("cpu", "cuda", "mps")


def resolve_device(name: str | None = None) -> torch.device:
    """The device called `name`; None or "auto" takes OPENTAR_DEVICE, else CUDA, else Apple's MPS, else the CPU.

    Raises:
        ConfigError: the name is unknown, or this machine has no such device.
    """
    wanted = name if name not in (None, "auto") else environment.device_name()
    if wanted is None:
        return torch.device(_best())
    kind, _, index = wanted.strip().lower().partition(":")
    if kind not in _KINDS or (index and not index.isdecimal()):
        allowed = "auto, cpu, cuda, cuda:N or mps"
        raise ConfigError(f"device {shown(wanted)} is unknown; use {allowed}.{nearest(kind, _KINDS)}")
    if not _present(kind, int(index or 0)):
        raise ConfigError(f"device {shown(wanted)} is not available on this machine; use 'cpu' or leave the device out")
    return torch.device(kind, int(index)) if index else torch.device(kind)


def has_bf16_cpu() -> bool:
    """True when the CPU multiplies bfloat16 in hardware; where it is emulated, bf16 is slower than float32."""
    # Not in older torch releases; without it float32 is the safe answer.
    features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(features.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def _best() -> str:
    return next((kind for kind in ("cuda", "mps") if _present(kind, 0)), "cpu")


def _present(kind: str, index: int) -> bool:
    if kind == "cuda":
        return torch.cuda.is_available() and index < torch.cuda.device_count()
    if kind == "mps":
        return torch.backends.mps.is_available() and index == 0
    return index == 0
