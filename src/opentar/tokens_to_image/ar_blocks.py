"""Blocks of the AR transformer and the cache of their keys and values.

Legend: R rows (pictures, and behind them the same without their condition), P positions computed, S slots of the
cache, W model width, H heads, E head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from opentar.tokens_to_image.ar import ARConfig


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back, then the weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


@dataclass(frozen=True)
class Places:
    """Where the positions of a pass stand when they do not simply follow those before."""

    slots_RP: Tensor
    """int64, the slot (and position) of each; what lies there is overwritten"""
    seen_R1PS: Tensor
    """bool, the slots that each looks at; as many as are in use"""


class Cache:
    """Keys and values of every layer, allocated once for the whole picture: one slot a position."""

    def __init__(self, config: ARConfig, rows: int, slots: int, like: Tensor) -> None:
        shape = (config.layers, 2, rows, config.heads, slots, config.hidden_size // config.heads)
        # Zeros: slots that nobody looks at yet count nothing times what lies there, and that must not be NaN.
        self.store = like.new_zeros(shape)
        self.filled = 0
        # On a CPU, products of bfloat16 copy what does not lie in one piece: more work than looking at every slot.
        self._whole = like.device.type == "cpu" and like.dtype != torch.float32

    def first(self, rows: int) -> Cache:
        """The first rows alone, in the same memory."""
        part = object.__new__(Cache)
        part.store, part.filled, part._whole = self.store[:, :, :rows], self.filled, self._whole
        return part

    def put(
        self, layer: int, key_RHPE: Tensor, value_RHPE: Tensor, places: Places | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Write the new positions of a layer, behind the filled slots or at `places`.

        Returns keys and values (R, H, S, E) to look at, and which of them are seen, None for all.
        """
        keys, values = self.store[layer]
        if places is None:
            end, seen = self.filled + key_RHPE.shape[2], None
            keys[:, :, self.filled : end] = key_RHPE
            values[:, :, self.filled : end] = value_RHPE
            if self.filled == 0:
                return key_RHPE, value_RHPE, None
        else:
            end, seen = places.seen_R1PS.shape[-1], places.seen_R1PS
            rows_R1 = torch.arange(len(keys), device=keys.device)[:, None]
            keys[rows_R1, :, places.slots_RP] = key_RHPE.transpose(1, 2)
            values[rows_R1, :, places.slots_RP] = value_RHPE.transpose(1, 2)
        if not self._whole:
            return keys[:, :, :end], values[:, :, :end], seen
        if seen is None:
            return keys, values, torch.arange(keys.shape[2], device=keys.device) < end
        return keys, values, F.pad(seen, (0, keys.shape[2] - end))


class ARBlock(nn.Module):
    """Causal attention and SwiGLU, each behind an RMSNorm."""

    def __init__(self, config: ARConfig, index: int) -> None:
        super().__init__()
        self.config = config
        self.index = index
        width = config.hidden_size
        self.attention_norm = RMSNorm(width, config.norm_eps)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_norm = RMSNorm(width, config.norm_eps)
        self.mlp_gate = nn.Linear(width, config.mlp_size, bias=False)
        self.mlp_up = nn.Linear(width, config.mlp_size, bias=False)
        self.mlp_down = nn.Linear(config.mlp_size, width, bias=False)

    def forward(
        self, x_RPW: Tensor, cache: Cache | None, places: Places | None = None, *, last: bool = False
    ) -> Tensor:
        """The positions behind the block; `last` gives the last one only, with every key and value in the cache."""
        query, key, value = self.qkv(self.attention_norm(x_RPW)).unflatten(-1, (3, self.config.heads, -1)).unbind(2)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        # Without places only the first call of a cache is longer than one position: "causal" never needs an offset.
        causal = x_RPW.shape[1] > 1 and places is None and not last
        seen = None if places is None else places.seen_R1PS
        if cache is not None:
            key, value, seen = cache.put(self.index, key, value, places)
        if last:
            x_RPW, query = x_RPW[:, -1:], query[:, :, -1:]
        mixed_RHPE = _attend(query, key, value, seen, causal=causal, fused=self.config.attention == "sdpa")
        x_RPW = x_RPW + self.attention_out(mixed_RHPE.transpose(1, 2).flatten(2))
        hidden = self.mlp_norm(x_RPW)
        return x_RPW + self.mlp_down(F.silu(self.mlp_gate(hidden)) * self.mlp_up(hidden))


def _attend(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, *, causal: bool, fused: bool) -> Tensor:
    if causal and fused:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if causal:
        length = query.shape[2]
        seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    return scores.softmax(-1, dtype=scores.dtype) @ value
