"""The AR de-tokenizer as it was published: one code a step over a cache of full length and a mask.

Written over the tensors of the file, so that it stays what it is however OpenTar's own class changes.

Legend: B pictures (twice with guidance), P new positions, W width, L codes of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from opentar.tokens_to_image.ar import ARConfig

State = Mapping[str, Tensor]
"""Tensors of the transformer by their names in the file."""


@torch.no_grad()
def published_codes(config: ARConfig, state: State, features_BND: Tensor, guidance: float) -> Tensor:
    """Codes (B, L) int64 of features (B, N, D), drawn by lot with guidance and without temperature or cuts."""
    features = features_BND.to(state["positions"].dtype)
    inputs_BPW = torch.cat([_prefix(state, features), _prefix(state, torch.zeros_like(features))])
    length, size = inputs_BPW.shape[1] + config.codes, config.hidden_size // config.heads
    caches = [inputs_BPW.new_zeros(2, len(inputs_BPW), config.heads, length, size) for _ in range(config.layers)]
    causal = torch.ones(length, length, dtype=torch.bool, device=inputs_BPW.device).tril()
    start, drawn = 0, list[Tensor]()
    for _ in range(config.codes):
        places = torch.arange(start, start + inputs_BPW.shape[1], device=inputs_BPW.device)
        hidden_BPW = inputs_BPW + state["positions"][places]
        for index, cache in enumerate(caches):
            hidden_BPW = _block(config, state, f"blocks.{index}", hidden_BPW, cache, places, causal)
        last_BW = _norm(hidden_BPW[:, -1], state["norm.weight"], config.norm_eps)
        given, without = functional.linear(last_BW, state["logits.weight"]).float().chunk(2)
        chances = (without + guidance * (given - without)).softmax(-1)
        drawn.append(torch.multinomial(chances, 1))
        start += len(places)
        inputs_BPW = functional.embedding(drawn[-1], state["codes_in.weight"]).to(inputs_BPW).repeat(2, 1, 1)
    return torch.cat(drawn, dim=1)


def _prefix(state: State, features_BND: Tensor) -> Tensor:
    return functional.linear(features_BND, state["features_in.weight"], state["features_in.bias"])


def _block(
    config: ARConfig, state: State, name: str, x_BPW: Tensor, cache: Tensor, places: Tensor, causal: Tensor
) -> Tensor:
    normed = _norm(x_BPW, state[f"{name}.attention_norm.weight"], config.norm_eps)
    qkv = functional.linear(normed, state[f"{name}.qkv.weight"]).unflatten(-1, (3, config.heads, -1)).unbind(2)
    query, key, value = (one.transpose(1, 2) for one in qkv)
    cache[0][:, :, places], cache[1][:, :, places] = key, value
    mixed = functional.scaled_dot_product_attention(query, cache[0], cache[1], attn_mask=causal[places])
    x_BPW = x_BPW + functional.linear(mixed.transpose(1, 2).flatten(2), state[f"{name}.attention_out.weight"])
    normed = _norm(x_BPW, state[f"{name}.mlp_norm.weight"], config.norm_eps)
    gate = functional.silu(functional.linear(normed, state[f"{name}.mlp_gate.weight"]))
    inner = gate * functional.linear(normed, state[f"{name}.mlp_up.weight"])
    return x_BPW + functional.linear(inner, state[f"{name}.mlp_down.weight"])


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight
