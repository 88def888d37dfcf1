"""One pass of the Qwen2 blocks over the ends of several slots.

The blocks are those of language/qwen2.py; their linear layers, norms and gated MLP are called as they are, so
quantized or adapted layers work here too. What is written here is what serving adds: keys and values in slots, rows of
different lengths, and no passing of masks and caches through a dozen calls.

Shapes: B rows, T new ids, S positions, H width, N query heads, K heads of keys and values, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from opentar.engine.backends.slots import SlotCache
from opentar.language.model import TarLanguageModel
from opentar.language.qwen2 import turned
from opentar.nn.quantized import QuantizedLinear

_MLP_ROWS = 128
"""Least rows of a part of a quantized MLP."""


class Rows(NamedTuple):
    """Where the new ids of each row stand. They are filled up on the right; what is real never sees what follows it."""

    slots: Sequence[int]
    starts: Sequence[int]
    """Positions of each slot before."""
    ids_BT: Tensor
    """int64, on the device of the model."""
    lengths: Sequence[int]
    """How many ids of each row are real."""


def forward(model: TarLanguageModel, cache: SlotCache, rows: Rows) -> Tensor:
    """Hidden states (B, H) after the final norm, of the last id of each row; keys and values of all are kept.

    The cache must have room for them all, fillings included.
    """
    qwen, config, device = model.qwen.model, model.config, rows.ids_BT.device
    count, width = rows.ids_BT.shape
    seen = max(rows.starts) + width
    starts_B = torch.tensor(rows.starts, device=device)
    positions_BT = starts_B[:, None] + torch.arange(width, device=device)
    slots_B = torch.tensor(rows.slots, device=device)
    fresh = not any(rows.starts)
    # Rows that are in step see all that stands; a mask is for rows of different lengths, and for several new ids.
    even = width == 1 and min(rows.starts) == max(rows.starts)
    mask = None if fresh or even else _mask(positions_BT, seen, config.heads // config.kv_heads)
    x_BTH = qwen.embed_tokens(rows.ids_BT)
    cos, sin = (part[:, None] for part in qwen.rotary_emb(x_BTH, positions_BT))
    chosen = _chosen(rows.slots, slots_B)
    for number, block in enumerate(qwen.layers):
        own: Any = block
        inner = own.self_attn
        h_BTH = own.input_layernorm(x_BTH)
        q, k, v = (
            part(h_BTH).view(count, width, -1, config.head_size).transpose(1, 2)
            for part in (inner.q_proj, inner.k_proj, inner.v_proj)
        )
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        keys, values = cache.keys[number], cache.values[number]
        keys[slots_B[:, None], :, positions_BT] = k.transpose(1, 2)
        values[slots_B[:, None], :, positions_BT] = v.transpose(1, 2)
        if fresh:
            mixed = functional.scaled_dot_product_attention(
                q, k, v, is_causal=width > 1, enable_gqa=config.heads != config.kv_heads
            )
        else:
            mixed = _attend(q, keys[chosen, :, :seen], values[chosen, :, :seen], mask)
        mixed_BTH = mixed.transpose(1, 2).reshape(count, width, -1)
        if number == config.layers - 1:
            # Nobody looks back at what comes out of the last block.
            ends = torch.arange(count, device=device), torch.tensor(rows.lengths, device=device) - 1
            x_BTH, mixed_BTH = x_BTH[ends][:, None], mixed_BTH[ends][:, None]
        x_BTH = x_BTH + inner.o_proj(mixed_BTH)
        x_BTH = x_BTH + _mlp(own, x_BTH)
    normed: Tensor = qwen.norm(x_BTH[:, 0])
    return normed


def _mlp(block: Any, x_BTH: Tensor) -> Tensor:
    """Norm and gated MLP, in parts: the wide results in between then stay in the caches and in memory at hand."""
    x_RH = x_BTH.flatten(0, 1)
    # Only where a row cannot depend on how many there are.
    parts = len(x_RH) // _MLP_ROWS if isinstance(block.mlp.down_proj, QuantizedLinear) else 1
    if parts <= 1:
        whole: Tensor = block.mlp(block.post_attention_layernorm(x_BTH))
        return whole
    made = [block.mlp(block.post_attention_layernorm(part)) for part in x_RH.tensor_split(parts)]
    return torch.cat(made).view(x_BTH.shape)


def _chosen(slots: Sequence[int], slots_B: Tensor) -> slice | Tensor:
    """Neighbours in order are looked at where they lie; others are gathered."""
    first = slots[0]
    return slice(first, first + len(slots)) if list(slots) == list(range(first, first + len(slots))) else slots_B


def _mask(positions_BT: Tensor, seen: int, groups: int) -> Tensor:
    """bool (B, 1, groups * T, S): a position sees itself and what stands before it in its own row."""
    allowed_BTS = torch.arange(seen, device=positions_BT.device) <= positions_BT[..., None]
    return allowed_BTS.repeat(1, groups, 1)[:, None]


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """(B, N, T, D) queries over (B, K, S, D): queries that share keys stand in one matrix, so no key is repeated."""
    count, heads, width, size = q.shape
    grouped = q.reshape(count, k.shape[1], -1, size)
    mixed = functional.scaled_dot_product_attention(grouped, k, v, attn_mask=mask)
    return mixed.reshape(count, heads, width, size)
