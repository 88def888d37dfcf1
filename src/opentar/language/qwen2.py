"""Qwen2's blocks, under the names that transformers gives them, so that its files fit as they are.

Written out because importing transformers' modelling code takes longer than drawing a picture with nano, and half of
a start of Tar-1.5B; tests/language/test_qwen2.py holds them against transformers. The engine calls the parts one by one
(engine/backends/torch_forward.py); `Qwen2Body.forward` runs whole sequences, for training.

Shapes: B sequences, T positions, H hidden width, N query heads, K heads of keys and values, D width of a head.
Source: arXiv 2407.10671 and transformers' modeling_qwen2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from opentar.language.model import LanguageConfig

_START = 0.02
"""Standard deviation of the weights at the start of a training, as in Qwen2."""


class RMSNorm(nn.Module):
    """x / root mean square, computed in float32, times a weight for each column."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., H) float; the result has the type of the input (of the weight, where that is wider)."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class Rotary(nn.Module):
    """Cosines and sines of the rotary positions; the frequencies are computed, not stored.

    They are made on the CPU in any case: a model that is built without memory (core/blank.py) then lacks none.
    """

    def __init__(self, head_size: int, theta: float) -> None:
        super().__init__()
        steps = torch.arange(0, head_size, 2, dtype=torch.float32, device="cpu") / head_size
        self.register_buffer("inv_freq", 1.0 / (theta**steps), persistent=False)
        self.inv_freq: Tensor

    @torch.no_grad()
    def forward(self, x: Tensor, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) cosines and sines of int64 positions, in the type of `x`."""
        angles = positions_BT[..., None].float() * self.inv_freq.to(x.device, torch.float32)
        twice = torch.cat([angles, angles], -1)
        return twice.cos().to(x.dtype), twice.sin().to(x.dtype)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(..., D) heads turned to their positions: the two halves of a head are turned against each other."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden, config.mlp, bias=False)
        self.up_proj = nn.Linear(config.hidden, config.mlp, bias=False)
        self.down_proj = nn.Linear(config.mlp, config.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., H) to (..., H)."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Attention(nn.Module):
    """Causal attention; `heads` queries share `kv_heads` keys and values."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.head_size, self.shared = config.head_size, config.heads // config.kv_heads
        self.fused = config.attention == "sdpa"
        wide, narrow = config.heads * config.head_size, config.kv_heads * config.head_size
        self.q_proj = nn.Linear(config.hidden, wide)
        self.k_proj = nn.Linear(config.hidden, narrow)
        self.v_proj = nn.Linear(config.hidden, narrow)
        self.o_proj = nn.Linear(wide, config.hidden, bias=False)

    def forward(self, x_BTH: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, H) to (B, T, H); cos and sin (B, 1, T, D), mask additive (1, 1, T, T), for the plain way alone."""
        q, k, v = (
            part(x_BTH).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        if self.fused:
            mixed = functional.scaled_dot_product_attention(
                q, k, v, is_causal=x_BTH.shape[1] > 1, enable_gqa=self.shared > 1
            )
        else:
            k, v = (part.repeat_interleave(self.shared, 1) if self.shared > 1 else part for part in (k, v))
            scores = q @ k.transpose(-1, -2) * self.head_size**-0.5
            if mask is not None:
                scores = scores + mask
            mixed = scores.softmax(-1, torch.float32).to(q.dtype) @ v
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to what came in."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden, config.norm_eps)

    def forward(self, x_BTH: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, H) to (B, T, H); the rest as in `Attention`."""
        x_BTH = x_BTH + self.self_attn(self.input_layernorm(x_BTH), cos, sin, mask)
        out: Tensor = x_BTH + self.mlp(self.post_attention_layernorm(x_BTH))
        return out


class Qwen2Body(nn.Module):
    """Table, blocks, final norm."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.table_rows, config.hidden)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.norm_eps)
        self.rotary_emb = Rotary(config.head_size, config.rope_theta)

    def forward(self, ids_BT: Tensor, mask: Tensor | None) -> Tensor:
        """Hidden states (B, T, H) after the final norm; int64 ids from position 0 on, mask as in `Attention`."""
        x_BTH = self.embed_tokens(ids_BT)
        positions_1T = torch.arange(ids_BT.shape[1], device=ids_BT.device)[None]
        cos, sin = (part[:, None] for part in self.rotary_emb(x_BTH, positions_1T))
        for block in self.layers:
            x_BTH = block(x_BTH, cos, sin, mask)
        out: Tensor = self.norm(x_BTH)
        return out


class Qwen2(nn.Module):
    """Body and head; a tied head is the table itself. Random weights as Qwen2 starts with them."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.model = Qwen2Body(config)
        self.lm_head = nn.Linear(config.hidden, config.table_rows, bias=False)
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=_START)
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)
        self._tied = config.tie
        self.tie_weights()

    def tie_weights(self) -> None:
        """Make head and table one again, where they are, after weights were replaced."""
        if self._tied:
            self.lm_head.weight = self.model.embed_tokens.weight
