"""The AR transformer as a graph of OpenVINO, made from its weights as they are, quantized ones included.

Keys and values are appended to memory of the graph's own in the order in which they are computed; the mask says which
of them a position sees. Positions are added to the inputs, so it does not matter what lies where.

Legend: R rows, P positions computed, C columns of the memory with the new ones, W model width, H heads, E head width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from opentar.nn.openvino_ops import Operations
from opentar.nn.quantized import QuantizedLinear

if TYPE_CHECKING:
    from opentar.tokens_to_image.ar import ARTransformer
    from opentar.tokens_to_image.ar_blocks import ARBlock, RMSNorm

WHAT = "the AR de-tokenizer in OpenVINO"


class ARGraph:
    """Makes the graph. Keep it as long as that is used: it holds the memory that constants share.

    Raises ModelError where openvino is not installed.
    """

    def __init__(self, model: ARTransformer) -> None:
        self.model, self.make = model, Operations(WHAT)
        self._kept: list[Any] = []

    def whole(self) -> Any:
        """An openvino.Model: embedded codes with their positions (R, P, W) to logits (R, number wanted, V).

        Inputs beside `inputs`: mask float32 (R, 1, P, C), 0 or -inf; beam_idx int32 (R,), the row of the memory that
        each row goes on from; wanted int32, the positions whose logits are asked for.
        """
        make, config, last = self.make, self.model.config, self.model.config.layers - 1
        real, whole = make.ov.Type.f32, make.ov.Type.i32
        x_RPW = inputs = make.parameter("inputs", [-1, -1, config.hidden_size], real)
        mask = make.parameter("mask", [-1, 1, -1, -1], real)
        rows, wanted = make.parameter("beam_idx", [-1], whole), make.parameter("wanted", [-1], whole)
        for index, block in enumerate(self.model.blocks):
            x_RPW = self._block(block, x_RPW, (mask, rows), wanted if index == last else None)  # type: ignore[arg-type]
        logits = self._linear(self.model.logits, self._norm(self.model.norm, x_RPW))
        return make.ov.Model([make.op.result(logits)], self._kept, [inputs, mask, rows, wanted], "ar")

    def _block(self, block: ARBlock, x_RPW: Any, seen: tuple[Any, Any], wanted: Any) -> Any:
        make, op, (mask, rows) = self.make, self.make.op, seen
        heads, size = self._heads
        qkv = make.op.reshape(self._linear(block.qkv, self._norm(block.attention_norm, x_RPW)), self._split, True)
        query, key, value = op.split(op.transpose(qkv, make.ints(0, 2, 1, 3)), op.constant(1), 3).outputs()
        key, value = (self._grown(f"{name}.{block.index}", new, rows) for name, new in (("key", key), ("value", value)))
        # Scores are divided by the square root of a head's width, as in torch.
        mixed = op.transpose(op.scaled_dot_product_attention(query, key, value, mask), make.ints(0, 2, 1, 3))
        mixed = op.reshape(mixed, make.ints(0, 0, heads * size), True)
        if wanted is not None:
            axis = op.constant(1, make.ov.Type.i32)
            mixed, x_RPW = op.gather(mixed, wanted, axis), op.gather(x_RPW, wanted, axis)
        x_RPW = op.add(x_RPW, self._linear(block.attention_out, mixed))
        hidden = self._norm(block.mlp_norm, x_RPW)
        inner = op.multiply(op.swish(self._linear(block.mlp_gate, hidden)), self._linear(block.mlp_up, hidden))
        return op.add(x_RPW, self._linear(block.mlp_down, inner))

    @property
    def _heads(self) -> tuple[int, int]:
        config = self.model.config
        return config.heads, config.hidden_size // config.heads

    @property
    def _split(self) -> Any:
        heads, size = self._heads
        return self.make.ints(0, 0, 3 * heads, size)

    def _grown(self, name: str, new: Any, rows: Any) -> Any:
        """What is kept of `name` with the new columns behind it; CPU plugin and attention join this into one."""
        make, op, (heads, size) = self.make, self.make.op, self._heads
        kind = make.ov.Type.f32
        empty = op.concat([op.shape_of(rows), make.ints(heads, 0, size)], 0)
        nothing = op.broadcast(make.number(0.0), empty)
        kept = op.read_value(nothing, name, kind, make.ov.PartialShape([-1, heads, -1, size]))
        grown = op.concat([op.gather(kept, rows, op.constant(0, make.ov.Type.i32)), new], 2)
        self._kept.append(op.assign(grown, name))
        return grown

    def _norm(self, norm: RMSNorm, x: Any) -> Any:
        return self.make.norm(x, self.make.constant(norm.weight.float()), norm.eps)

    def _linear(self, layer: nn.Module, x: Any) -> Any:
        if isinstance(layer, QuantizedLinear):
            return self.make.linear(x, self.make.packed(layer.packed))
        assert isinstance(layer, nn.Linear)
        return self.make.linear(x, self.make.constant(layer.weight))
