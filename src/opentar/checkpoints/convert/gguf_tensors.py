"""Tensors of a language model under llama.cpp's names, each in the type that a way of quantizing gives it.

Rows are packed a few million numbers at a time, so neither float32 copies nor whole tables are held.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opentar.core.errors import ModelError, WeightsError
from opentar.core.gguf_header import BLOCKS
from opentar.nn import llama_library

GgufType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m"]
GGUF_TYPES: tuple[GgufType, ...] = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m")
F32, F16, Q4_0, Q5_0, Q8_0, Q4_K, Q6_K, BF16 = 0, 1, 2, 6, 8, 12, 14, 30
"""Types of tensors as ggml numbers them."""
FILE_TYPES: dict[GgufType, int] = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "q4_k_m": 15, "bf16": 32}
"""What `general.file_type` says."""
_KINDS: dict[GgufType, int] = {"f32": F32, "f16": F16, "bf16": BF16, "q8_0": Q8_0, "q4_0": Q4_0, "q4_k_m": Q4_K}
_SMALLER = {Q4_K: Q5_0, Q6_K: Q8_0, Q4_0: F16, Q5_0: F16, Q8_0: F16}
"""For rows that are no whole blocks of a type: the type to take instead, as llama.cpp does."""
_PACKAGE_KINDS = (Q8_0, Q4_0)
"""Types that the package gguf packs by itself."""
_CHUNK = 1 << 22
"""Numbers that are packed at a time by one thread."""
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name: str) -> str:
    """Qwen2's name of a tensor -> llama.cpp's. Raises KeyError for one that Qwen2 does not have."""
    stem, _, ending = name.rpartition(".")
    if stem.startswith("model.layers."):
        number, _, inner = stem.removeprefix("model.layers.").partition(".")
        return f"blk.{int(number)}.{_LAYER_NAMES[inner]}.{ending}"
    return f"{_NAMES[stem]}.{ending}"


def kind_of(name: str, shape: tuple[int, ...], to: GgufType, layers: int, *, tied: bool) -> int:
    """The type of a tensor under llama.cpp's name; norms and biases stay float32.

    q4_k_m is llama.cpp's mixture: 6 bits for the head and, in every third layer and at both ends, for the values and
    the way out of the MLP; 4 bits for everything else.
    """
    if len(shape) == 1:
        return F32
    kind = _KINDS[to]
    if to == "q4_k_m":
        head = "token_embd.weight" if tied else "output.weight"
        layer = int(name.split(".")[1]) if name.startswith("blk.") else -1
        if name == head or (name.endswith(("attn_v.weight", "ffn_down.weight")) and _gets_more_bits(layer, layers)):
            kind = Q6_K
    while shape[-1] % BLOCKS[kind][0]:
        kind = _SMALLER[kind]
    return kind


def packer(kinds: set[int]) -> str:
    """Who packs tensors of these types: "llama.cpp", "gguf" or "torch".

    Raises ModelError where llama.cpp is needed and missing.
    """
    quantized = kinds - {F32, F16, BF16}
    if not quantized:
        return "torch"
    if llama_library.available():
        llama_library.load()
        return "llama.cpp"
    if quantized <= set(_PACKAGE_KINDS):
        return "gguf"
    raise ModelError(
        f"4-bit blocks of this kind are packed by llama.cpp, which is not installed; {llama_library.INSTALL}, "
        "or choose q8_0 or q4_0"
    )


def packed(name: str, tensor: Tensor, kind: int, by: str) -> Iterator[NDArray[Any]]:
    """The bytes of a tensor, piece by piece. Raises WeightsError for NaN, infinity and what a type cannot hold."""
    rows = tensor.detach().reshape(1, -1) if tensor.ndim == 1 else tensor.detach().flatten(1)
    step = max(1, _CHUNK // rows.shape[1])
    chunks = [rows[start : start + step] for start in range(0, len(rows), step)]
    pack = functools.partial(_pack, name, kind=kind, how=_how(kind, by))
    workers = torch.get_num_threads()
    if workers == 1 or len(chunks) == 1:
        yield from map(pack, chunks)
        return
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(chunks), workers):
            # Not all at once: what is packed would pile up in memory.
            yield from pool.map(pack, chunks[start : start + workers])


def _gets_more_bits(layer: int, layers: int) -> bool:
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _how(kind: int, by: str) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    numbers, size = BLOCKS[kind]
    if by == "llama.cpp":
        return lambda rows: llama_library.quantize_rows(kind, rows, rows.shape[1] // numbers * size)

    def by_package(rows: NDArray[np.float32]) -> NDArray[Any]:
        import gguf

        found: NDArray[Any] = gguf.quants.quantize(rows, gguf.GGMLQuantizationType(kind))
        return found

    return by_package


def _pack(name: str, chunk: Tensor, *, kind: int, how: Callable[[NDArray[np.float32]], NDArray[Any]]) -> NDArray[Any]:
    lowest, highest = (float(end) for end in torch.aminmax(chunk))
    if not math.isfinite(lowest + highest):
        raise WeightsError(f"tensor {name} holds NaN or infinity; nothing was written")
    if kind == F32:
        return chunk.float().contiguous().numpy()
    if kind == BF16:
        return chunk.to(torch.bfloat16).contiguous().view(torch.int16).numpy()
    # Blocks have float16 scales, so this bound is more than they need.
    if max(-lowest, highest) > torch.finfo(torch.float16).max:
        raise WeightsError(f"tensor {name} holds numbers too large for float16; choose bf16")
    if kind == F16:
        return chunk.to(torch.float16).contiguous().numpy()
    return how(chunk.float().contiguous().numpy())


def named(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state under llama.cpp's names, the table first."""
    return {gguf_name(name): tensor for name, tensor in state.items()}
