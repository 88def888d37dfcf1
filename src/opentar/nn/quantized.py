"""Linear layers and tables whose weights stay quantized while they compute, by products that stock PyTorch has (CPU).

int8: weights and input are rounded (int8.py). int4: the weights alone are rounded. What lies in the file is arranged
once for the product (`Packed` holds nothing), so weights are in memory once, in the size of the file.

Shape suffixes: M rows of the input, K columns (the width of the input), N rows of the weight.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from opentar.core.errors import ModelError, WeightsError
from opentar.core.quantization import Packed, group_of
from opentar.nn import int8
from opentar.nn.half import product
from opentar.nn.int8 import Int8Product, LastRounded

_BLOCK = 1 << 14
"""Most rows of a head that are arranged, and computed, at a time."""
_MANY = 16
"""From so many rows of the input on, 4-bit weights are turned into bfloat16 by blocks; the ready-made product, which
does that anew for every few rows, is slower there."""
_UNPACKED_ROWS = 512
_LAST = LastRounded()


class Product(Protocol):
    """Weights that are ready to be multiplied."""

    def __call__(self, x_MK: Tensor) -> Tensor:
        """float32 (M, K) to float32 (M, N)."""
        ...


class Int4Product:
    """4-bit weights (N, K) with scale and middle for each group of columns."""

    def __init__(self, pairs_NK: Tensor, scale_NG2: Tensor, group: int) -> None:
        self._group = group
        self._held = torch.empty(pairs_NK.shape, dtype=torch.uint8)
        # By blocks: whole copies in between would leave holes in memory, as large as the weights.
        for pairs, held in zip(pairs_NK.split(_UNPACKED_ROWS), self._held.split(_UNPACKED_ROWS), strict=True):
            whole = torch.stack([pairs & 15, pairs >> 4], -1).flatten(1).int()
            held.copy_(torch.ops.aten._convert_weight_to_int4pack_for_cpu(whole, 1))
        # The ready-made product is fast in bfloat16 alone: in float32 it takes a hundred times as long.
        self._scale_GN2 = scale_NG2.bfloat16().transpose(0, 1).contiguous()
        self._blocks = len(pairs_NK) % 64 == 0 and _blocks_of_64()

    def __call__(self, x_MK: Tensor) -> Tensor:
        narrow_MK = x_MK.bfloat16()
        if len(x_MK) < _MANY or not self._blocks:
            product_of_4: Any = torch.ops.aten._weight_int4pack_mm_for_cpu
            out: Tensor = product_of_4(narrow_MK, self._held, self._group, self._scale_GN2)
            return out.float()
        rows = range(0, len(self._held), _UNPACKED_ROWS)
        return torch.cat([narrow_MK @ self._unpacked(start) for start in rows], -1).float()

    def _unpacked(self, start: int) -> Tensor:
        """bfloat16 (K, rows): rows from `start` on."""
        held = self._held[start : start + _UNPACKED_ROWS]
        count, columns = len(held), 2 * held.shape[1]
        halves = held.view(count // 64, columns, 32).transpose(0, 1)
        whole = torch.empty(columns, count // 64, 64, dtype=torch.bfloat16)
        whole[..., :32] = halves & 15
        whole[..., 32:] = halves >> 4
        by_group = whole.view(-1, self._group, count).sub_(8)
        scale_G1N2 = self._scale_GN2[:, None, start : start + count]
        return by_group.mul_(scale_G1N2[..., 0]).add_(scale_G1N2[..., 1]).view(columns, count)


class QuantizedLinear(nn.Module):
    """A linear layer of quantized weights; the result has the type of the input.

    Weights are arranged when they are first multiplied, so that what is not used (the encoder of pictures in a drawing)
    costs neither time nor memory.
    """

    def __init__(self, packed: Packed, bias: Tensor | None, *, fine: bool = False) -> None:
        super().__init__()
        self.out_features, self.in_features = packed.shape
        self.form = packed.form
        self.bias = None if bias is None else nn.Parameter(bias.detach().float(), requires_grad=False)
        self.packed, self._fine = packed, fine
        self._ready: Product | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        if self._ready is None:
            self._ready = _ready(self.packed, self._fine)
        made = self._ready
        out = made.of(_LAST(x, made)) if isinstance(made, Int8Product) else made(x.float().flatten(0, -2))
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], self.out_features).to(x.dtype)

    def extra_repr(self) -> str:
        """Sizes, form and what multiplies whole numbers, for printing."""
        by = f", {int8.kernel().name}{', fine' * self._fine}" if self.form == "int8" else ""
        return f"{self.in_features}, {self.out_features}, {self.form}{by}"

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        _refuse_saving()


class QuantizedHead(nn.Module):
    """The output table of a language model in blocks of rows, each arranged when a row of it is first asked for.

    Its input is rounded to 16 bits: 8 bits here cost more perplexity than in all layers together, and one row of input
    more costs nothing beside reading the weights.

    Args:
        packed: the table, int8.
        cuts: rows at which a block must begin, so that ranges that are asked for often cost nothing beside them.
    """

    def __init__(self, packed: Packed, cuts: Sequence[int] = ()) -> None:
        super().__init__()
        self.out_features, self.in_features = packed.shape
        self._packed = packed
        edges = sorted({0, *(cut for cut in cuts if 0 < cut < self.out_features), self.out_features})
        starts = [start for low, high in pairwise(edges) for start in range(low, high, _BLOCK)]
        self._blocks = [range(*pair) for pair in zip(starts, [*starts[1:], self.out_features], strict=True)]
        self._ready: dict[int, Product] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., rows), every row."""
        return self.rows(x, range(self.out_features))

    def rows(self, x: Tensor, ids: range) -> Tensor:
        """(..., in) to (..., len(ids)): blocks that hold none of these rows are neither computed nor arranged."""
        flat = x.float().reshape(-1, self.in_features)
        parts = []
        for block in self._blocks:
            low, high = max(ids.start, block.start), min(ids.stop, block.stop)
            if low < high:
                parts.append(self._of(block)(flat)[:, low - block.start : high - block.start])
        out = torch.cat(parts, -1) if parts else flat.new_empty(len(flat), 0)
        return out.view(*x.shape[:-1], len(ids)).to(x.dtype)

    def _of(self, block: range) -> Product:
        if block.start not in self._ready:
            rows = slice(block.start, block.stop)
            values, scale = self._packed.values()[rows], self._packed.scale()[rows]
            self._ready[block.start] = Int8Product(values, scale, fine=True)
        return self._ready[block.start]

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        _refuse_saving()


class QuantizedEmbedding(nn.Module):
    """A table of int8 rows, mapped from its file, that are given out as float32."""

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = packed.shape
        self._values, self._scale = packed.values(), packed.scale()

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (...) to rows (..., width) float32."""
        return self._values[ids].float() * self._scale[ids].float()[..., None]

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        _refuse_saving()


def rows_of(head: nn.Module, hidden: Tensor, ids: range) -> Tensor:
    """(..., H) -> (..., len(ids)): the product with these rows of a head, whatever its weights are."""
    if isinstance(head, QuantizedHead):
        return head.rows(hidden, ids)
    weight = head.weight
    assert isinstance(weight, Tensor)
    return product(hidden, weight[ids.start : ids.stop])


def swap(
    module: nn.Module,
    packed: Mapping[str, Packed],
    where: str,
    heads: Mapping[str, Sequence[int]] | None = None,
    fine: Collection[str] = (),
) -> None:
    """Put quantized layers in the place of the linear layers and tables whose weights `packed` names, in place.

    Args:
        module: the weights named here are on the meta device or no longer needed.
        packed: name of a weight inside `module` -> the quantized one.
        where: named in errors.
        heads: linear layers of which ranges of rows are asked for -> rows at which blocks shall begin.
        fine: last names of linear layers whose input keeps 16 bits where their weights have 8.

    Raises:
        WeightsError: a weight that is quantized in a way that its layer does not take.
    """
    heads = heads or {}
    for name, weight in packed.items():
        place, _, last = name.rpartition(".")
        layer = module.get_submodule(place)
        kind = type(layer)
        if last != "weight" or kind not in (nn.Linear, nn.Embedding):
            raise WeightsError(f"{where}: {name} is quantized, but belongs to no linear layer or table; quantize again")
        if weight.form != "int8" and (kind is nn.Embedding or place in heads):
            raise WeightsError(f"{where}: the table {name} is {weight.form}; tables are int8: quantize again")
        parent, _, own = place.rpartition(".")
        if kind is nn.Embedding:
            made: nn.Module = QuantizedEmbedding(weight)
        elif place in heads:
            made = QuantizedHead(weight, heads[place])
        else:
            bias = layer.bias if isinstance(layer.bias, Tensor) else None
            made = QuantizedLinear(weight, bias, fine=own in fine)
        setattr(module.get_submodule(parent), own, made.eval())


@cache
def _blocks_of_64() -> bool:
    """Whether 4-bit weights are arranged in blocks of 64 rows, row i beside row i + 32, as for AVX512."""
    whole = (torch.arange(128 * 64).view(128, 64) * 7 // 3 % 16).int()
    held = torch.ops.aten._convert_weight_to_int4pack_for_cpu(whole, 1).view(2, 64, 32)
    return torch.equal(torch.cat([held & 15, held >> 4], -1).transpose(1, 2).reshape(128, 64).int(), whole)


def _ready(packed: Packed, fine: bool) -> Product:
    group = group_of(packed.form)
    values, scale = packed.values(), packed.scale()
    return Int8Product(values, scale, fine=fine) if group is None else Int4Product(values, scale, group)


def _refuse_saving() -> None:
    raise ModelError("these weights are arranged for computing and cannot be saved; load the folder as float32 first")
