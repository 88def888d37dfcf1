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
    lengths: Sequence[int] = ()
    """How many ids of each row are real, where only the last one of each is asked about."""
    placed: Placed | None = None
    """Where the ids stand, if not one after the other behind `starts`."""


class Placed(NamedTuple):
    """Ids at positions of their own."""

    positions_BT: Tensor
    """int64"""
    seen_BTS: Tensor
    """bool: the positions that each id sees, its own included"""


def forward(model: TarLanguageModel, cache: SlotCache, rows: Rows) -> Tensor:
    """Hidden states (B, T, H) after the final norm, (B, 1, H) where `lengths` are given; keys and values are kept.

    The cache must have room for them all, fillings included.
    """
    qwen, config, device = model.qwen.model, model.config, rows.ids_BT.device
    count, width = rows.ids_BT.shape
    slots_B = torch.tensor(rows.slots, device=device)
    positions_BT, seen, fresh, mask = _placed(rows, config.heads // config.kv_heads)
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
        if rows.lengths and number == config.layers - 1:
            # Nobody looks back at what comes out of the last block.
            ends = torch.arange(count, device=device), torch.tensor(rows.lengths, device=device) - 1
            x_BTH, mixed_BTH = x_BTH[ends][:, None], mixed_BTH[ends][:, None]
        x_BTH = x_BTH + inner.o_proj(mixed_BTH)
        x_BTH = x_BTH + _mlp(own, x_BTH)
    normed: Tensor = qwen.norm(x_BTH)
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


def _placed(rows: Rows, groups: int) -> tuple[Tensor, int, bool, Tensor | None]:
    """Positions (B, T), how many positions are looked at, whether there are no earlier ones, and the mask.

    The mask is bool (B, 1, groups * T, S): a position sees itself and what stands before it in its own row.
    """
    if rows.placed is not None:
        seen_BTS = rows.placed.seen_BTS
        return rows.placed.positions_BT, seen_BTS.shape[-1], False, seen_BTS.repeat(1, groups, 1)[:, None]
    width, device = rows.ids_BT.shape[1], rows.ids_BT.device
    seen, fresh = max(rows.starts) + width, not any(rows.starts)
    positions_BT = torch.tensor(rows.starts, device=device)[:, None] + torch.arange(width, device=device)
    # Rows that are in step see all that stands; a mask is for rows of different lengths, and for several new ids.
    if fresh or (width == 1 and min(rows.starts) == max(rows.starts)):
        return positions_BT, seen, fresh, None
    allowed_BTS = torch.arange(seen, device=device) <= positions_BT[..., None]
    return positions_BT, seen, False, allowed_BTS.repeat(1, groups, 1)[:, None]


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """(B, N, T, D) queries over (B, K, S, D): queries that share keys stand in one matrix, so no key is repeated."""
    count, heads, width, size = q.shape
    grouped = q.reshape(count, k.shape[1], -1, size)
    mixed = functional.scaled_dot_product_attention(grouped, k, v, attn_mask=mask)
    return mixed.reshape(count, heads, width, size)
