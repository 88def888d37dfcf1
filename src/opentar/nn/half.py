"""float16 for graphics cards without bfloat16, where it pays and cannot overflow: in products with weights.

float16 ends at 65,504. Language models of the Qwen2 kind go beyond that in the residual stream, in gate x up of the
MLP and in the scores of attention, so all of these, norms and the cache stay float32. What has most of the bytes and
of the arithmetic, the weights of linear layers and tables, is float16. Each row of the input is divided by a power of
two first, so that its largest number is at most 1, and the result is multiplied by it again: both are exact, and with
weights below 1 and rows below 65,504 numbers no sum can overflow.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opentar.core.errors import WeightsError

_EXPONENT = 0x7F800000
"""Bits of the exponent of a float32."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear for a `weight` of any type: with float16 ones `x` and the result are float32.

    Args:
        x: (..., in) float.
        weight: (out, in).
        bias: (out,) or None.

    Returns:
        (..., out), float32 where `weight` is float16, else in the type of both.
    """
    if weight.dtype != torch.float16:
        return F.linear(x, weight, bias)
    wide = x.float()
    largest = wide.abs().amax(-1, keepdim=True)
    # The bits of the exponent alone are the power of two below; MPS has no frexp.
    scale = (largest.view(torch.int32) & _EXPONENT).view(torch.float32) * 2
    scale = torch.where(scale == 0, 1.0, scale)
    out = F.linear((wide / scale).half(), weight).float() * scale
    return out if bias is None else out + bias


class HalfLinear(nn.Linear):
    """A linear layer with a float16 weight and a float32 bias, float32 in and out."""

    def forward(self, input: Tensor) -> Tensor:
        """As `product`."""
        return product(input, self.weight, self.bias)


class HalfEmbedding(nn.Embedding):
    """A table of float16 rows that are given out as float32."""

    def forward(self, input: Tensor) -> Tensor:
        """Ids (...) to rows (..., width) float32."""
        return super().forward(input).float()


def halve(module: nn.Module, where: str) -> None:
    """Make the weights of all linear layers and tables inside float16, and everything else float32, in place.

    Raises:
        WeightsError: a weight is too large for float16; `where` is named.
    """
    kinds = {nn.Linear: HalfLinear, nn.Embedding: HalfEmbedding}
    made: dict[int, nn.Parameter] = {}
    for name, part in module.named_modules():
        if type(part) in kinds:
            weight = part.weight
            # A tied table stays one.
            if id(weight) not in made:
                half = weight.detach().half()
                if half.numel() and not all(bool(torch.isfinite(end)) for end in torch.aminmax(half)):
                    raise WeightsError(f"{where}: {name} holds numbers too large for float16; run it in float32")
                made[id(weight)] = nn.Parameter(half, requires_grad=weight.requires_grad)
            part.weight = made[id(weight)]
            part.__class__ = kinds[type(part)]
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if not (isinstance(part, (HalfLinear, HalfEmbedding)) and name == "weight"):
                parameter.data = parameter.data.float()
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(part, name, buffer.float())
