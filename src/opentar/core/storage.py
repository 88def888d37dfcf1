"""How the tensors of a part become bytes: float32, bfloat16 or int8 inside one safetensors file.

int8 is symmetric with one float16 scale for each row of the first dimension, `x ~ q * scale`, |q| <= 127. Tensors with
fewer than 4,096 elements or one dimension (norms, biases) stay float32: they cost little and carry much. Integer and
boolean tensors are stored exactly in every storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from opentar.core.errors import ConfigError, WeightsError, nearest, shown

STORAGES = ("float32", "bfloat16", "int8")
_SCALE = "::scale"
_INT8_FROM_ELEMENTS = 4096
_HALF_MAX = torch.finfo(torch.float16).max


def pack(state: Mapping[str, Tensor], storage: str) -> tuple[bytes, dict[str, str]]:
    """The safetensors bytes of `state`, and for each tensor left out because it is tied the name of its twin.

    Equal states give equal bytes: the metadata has one key, because safetensors writes several in random order.

    Raises:
        ConfigError: unknown storage.
        WeightsError: NaN or infinity.
    """
    if storage not in STORAGES:
        raise ConfigError(f"storage {shown(storage)} is unknown; use {_choices()}.{nearest(storage, STORAGES)}")
    packed: dict[str, Tensor] = {}
    first_name: dict[tuple[object, ...], str] = {}
    tied: dict[str, str] = {}
    for name, tensor in state.items():
        memory = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device)
        # An empty tensor has no memory, so its address says nothing about being tied.
        if tensor.numel() and memory in first_name:
            tied[name] = first_name[memory]
            continue
        first_name[memory] = name
        packed.update(_packed(name, tensor.detach().cpu(), storage))
    return save(packed, metadata={"format": "pt"}), tied


def unpack(path: Path, storage: str, tied: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of a file written by `pack`, floating ones as float32, tied ones again. Raises WeightsError."""
    if storage not in STORAGES:
        raise WeightsError(f"{path} is stored as {shown(storage)}; this version reads {_choices()}: update OpenTar")
    try:
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        state = {name: _restored(name, stored) for name in stored if not name.endswith(_SCALE)}
        return state | {name: state[source] for name, source in tied.items()}
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise WeightsError(f"{path} is not a readable weights file ({error}); get it again") from error


def quantize_rows(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values (same shape) and float16 scales (first dimension); the error of an element is <= half its scale."""
    rows = tensor.float().flatten(1)
    exact = rows.abs().amax(dim=1) / 127
    scale = exact.half()
    # Rounded down, the scale would cut the largest values off: take the next float16 (its bits as integer, plus one).
    up = (scale.view(torch.int16) + 1).view(torch.float16)
    scale = torch.where(scale.float() * 127 < rows.abs().amax(dim=1), up, scale)
    divisor = torch.where(scale == 0, torch.ones_like(scale), scale).float()
    values = torch.round(rows / divisor[:, None]).clamp_(-127, 127).to(torch.int8)
    return values.view(tensor.shape), scale


def _packed(name: str, tensor: Tensor, storage: str) -> dict[str, Tensor]:
    """The one or two stored tensors of `tensor`; always fresh memory, because safetensors refuses shared views."""
    if name.endswith(_SCALE):
        raise ConfigError(f"tensor name {shown(name)} ends with {_SCALE!r}, which storage keeps for itself; rename it")
    if not tensor.is_floating_point():
        return {name: tensor.clone(memory_format=torch.contiguous_format)}
    if not torch.isfinite(tensor).all():
        raise WeightsError(f"tensor {name} holds NaN or infinity; nothing was saved, go back to an earlier checkpoint")
    large = tensor.ndim >= 2 and tensor.numel() >= _INT8_FROM_ELEMENTS
    if storage == "int8" and large and tensor.abs().amax() / 127 < _HALF_MAX:
        values, scale = quantize_rows(tensor)
        return {name: values, name + _SCALE: scale}
    dtype = torch.bfloat16 if storage == "bfloat16" else torch.float32
    return {name: tensor.to(dtype).clone(memory_format=torch.contiguous_format)}


def _restored(name: str, stored: Mapping[str, Tensor]) -> Tensor:
    tensor, scale = stored[name], stored.get(name + _SCALE)
    if scale is not None:
        return tensor.float() * scale.float().view(-1, *[1] * (tensor.ndim - 1))
    return tensor.float() if tensor.is_floating_point() else tensor


def _choices() -> str:
    return ", ".join(STORAGES)
