"""The vision layers: SigLIP's, under the names that transformers gives them, so that published weights fit as they are.

Written out because importing transformers' modelling code takes seconds of every start; tests/image_to_tokens and
tests/parity hold them against transformers.

Shape suffixes: B batch, N cells, D hidden size, H heads, E width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from opentar.core.errors import ConfigError, nearest, shown
from opentar.image_to_tokens.attention import attend

# Plain softmax(QK^T)V trains 1.3-1.6x faster than scaled_dot_product_attention at 36-144 tokens on a CPU
# (the backward of the latter is slow there); at 729 tokens and without gradients sdpa needs far less memory.
ATTENTION = ("sdpa", "matmul")
ACTIVATIONS: dict[str, nn.Module] = {
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(),
    "gelu": nn.GELU(),
    "gelu_pytorch_tanh": nn.GELU(approximate="tanh"),
    "silu": nn.SiLU(),
    "tanh": nn.Tanh(),
}
"""By their names in transformers; none has a weight."""


def check_activation(name: str) -> None:
    """Raise ConfigError unless `name` is one of ACTIVATIONS."""
    if name not in ACTIVATIONS:
        hint = nearest(name, ACTIVATIONS)
        raise ConfigError(f"activation is {shown(name)}; choose one of {', '.join(ACTIVATIONS)}.{hint}")


def made(activation: str) -> nn.Module:
    """The activation of that name. Raises ConfigError."""
    check_activation(activation)
    return ACTIVATIONS[activation]


class Attention(nn.Module):
    """Every cell looks at every cell."""

    def __init__(self, width: int, heads: int, kind: str) -> None:
        super().__init__()
        self.head_size, self.kind = width // heads, kind
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        """(B, N, D) to (B, N, D)."""
        query_BHNE, key_BHNE, value_BHNE = (
            part(x_BND).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed_BHNE = attend(query_BHNE, key_BHNE, value_BHNE, plain=self.kind == "matmul")
        out_BND: torch.Tensor = self.out_proj(mixed_BHNE.transpose(1, 2).flatten(2))
        return out_BND


class MLP(nn.Module):
    """Two linear layers and an activation between them."""

    def __init__(self, width: int, inner: int, activation: str) -> None:
        super().__init__()
        self.activation_fn = made(activation)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        """(B, N, D) to (B, N, D)."""
        out_BND: torch.Tensor = self.fc2(self.activation_fn(self.fc1(x_BND)))
        return out_BND


class VisionLayer(nn.Module):
    """Attention and MLP, each behind a LayerNorm and added to what came in."""

    def __init__(
        self, hidden_size: int, heads: int, mlp_size: int, activation: str, attention: str, norm_eps: float
    ) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(hidden_size, eps=norm_eps)
        self.self_attn = Attention(hidden_size, heads, attention)
        self.layer_norm2 = nn.LayerNorm(hidden_size, eps=norm_eps)
        self.mlp = MLP(hidden_size, mlp_size, activation)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        """(B, N, D) to (B, N, D)."""
        x_BND = x_BND + self.self_attn(self.layer_norm1(x_BND))
        out_BND: torch.Tensor = x_BND + self.mlp(self.layer_norm2(x_BND))
        return out_BND


def transformer_layer(
    *, hidden_size: int, heads: int, mlp_size: int, activation: str, attention: str, norm_eps: float, depth: int
) -> VisionLayer:
    """A layer with random weights; `depth` (layers of the whole stack) tames the start of the residual branches."""
    layer = VisionLayer(hidden_size, heads, mlp_size, activation, attention, norm_eps)
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for branch_end in (layer.self_attn.out_proj, layer.mlp.fc2):
        branch_end.weight.data.mul_(1.0 / math.sqrt(2.0 * max(depth, 1)))
    return layer
