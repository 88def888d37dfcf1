"""The Qwen2 blocks and rows of the head as graphs of OpenVINO, built layer by layer from the weights.

Embeddings, and cosines and sines of the positions, come in as inputs: the table stays mapped, and a plain look-up costs
nothing. The graph ends with the final norm of those ids that are asked for; the head is a graph of its own, so that
only rows that can come next are computed.

Shape suffixes: T ids of all rows, one after the other; H width; D width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from opentar.core.quantization import Packed
from opentar.language.model import LanguageConfig
from opentar.nn.openvino_ops import BLOCK, Operations

WHAT = "the engine openvino"
TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class LanguageGraph:
    """Makes the graphs of a language model.

    Args:
        config: its sizes.
        state: weights by Qwen2's own names; those in `packed` need no numbers. Their memory is shared.
        packed: the quantized ones.
        cache: openvino type of keys and values.

    Raises:
        ModelError: openvino is not installed.
    """

    def __init__(
        self, config: LanguageConfig, state: Mapping[str, Tensor], packed: Mapping[str, Packed], cache: str
    ) -> None:
        self.config, self._state, self._packed = config, state, packed
        self.make = Operations(WHAT)
        self._cache = getattr(self.make.ov.Type, cache)

    def layers(self) -> Any:
        """An openvino.Model: embeddings (T, H) to the normed hidden states of the ids in `wanted`.

        Inputs beside those of `row_inputs`: embeddings float32 (T, H), cos and sin float32 (T, 1, 1, D), wanted int32,
        and for each layer key.LAYER and value.LAYER (blocks, kv_heads, BLOCK, D), which are written to.
        """
        make, config, real = self.make, self.config, self.make.ov.Type.f32
        x_TH = embeddings = make.parameter("embeddings", [-1, config.hidden], real)
        turns = [make.parameter(name, [-1, 1, 1, config.head_size], real) for name in ("cos", "sin")]
        wanted = make.parameter("wanted", [-1], make.ov.Type.i32)
        rows, caches = make.row_inputs(), []
        for layer in range(config.layers):
            shape = [-1, config.kv_heads, BLOCK, config.head_size]
            cache = [make.parameter(f"{name}.{layer}", shape, self._cache) for name in ("key", "value")]
            caches += cache
            x_TH = self._block(f"model.layers.{layer}.", x_TH, turns, cache, rows, self._last(layer, wanted))
        x_TH = self._norm("model.norm", x_TH)
        return make.ov.Model([make.op.result(x_TH)], [embeddings, *turns, wanted, *rows, *caches], "language")

    def head(self, ids: range) -> Any:
        """An openvino.Model: hidden states (B, H) to logits (B, len(ids)) of these rows."""
        name, make, rows = TABLE if self.config.tie else HEAD, self.make, slice(ids.start, ids.stop)
        hidden = make.parameter("hidden", [-1, self.config.hidden], make.ov.Type.f32)
        packed = self._packed.get(name)
        weight = make.constant(self._state[name][rows]) if packed is None else make.packed(packed, rows)
        return make.ov.Model([make.op.result(make.linear(hidden, weight))], [hidden], "head")

    def _last(self, layer: int, wanted: Any) -> Any:
        """What is asked for after the last attention; None before it, where each id is needed."""
        return wanted if layer == self.config.layers - 1 else None

    def _block(self, name: str, x_TH: Any, turns: Any, cache: Any, rows: Any, wanted: Any) -> Any:
        make, config, own = self.make, self.config, f"{name}self_attn."
        h_TH = self._norm(f"{name}input_layernorm", x_TH)
        q, k, v = (self._linear(f"{own}{part}_proj", h_TH) for part in "qkv")
        (cos, sin), size = turns, config.head_size
        q, k = make.turned(q, cos, sin, config.heads, size), make.turned(k, cos, sin, config.kv_heads, size)
        mixed = make.attention([q, k, v], cache, rows, config.kv_heads)
        if wanted is not None:
            first = make.op.constant(0, make.ov.Type.i32)
            mixed, x_TH = make.op.gather(mixed, wanted, first), make.op.gather(x_TH, wanted, first)
        x_TH = make.op.add(x_TH, self._linear(f"{own}o_proj", mixed))
        h_TH = self._norm(f"{name}post_attention_layernorm", x_TH)
        gate = make.op.swish(self._linear(f"{name}mlp.gate_proj", h_TH))
        inner = make.op.multiply(gate, self._linear(f"{name}mlp.up_proj", h_TH))
        return make.op.add(x_TH, self._linear(f"{name}mlp.down_proj", inner))

    def _norm(self, name: str, x: Any) -> Any:
        return self.make.norm(x, self.make.constant(self._state[f"{name}.weight"].float()), self.config.norm_eps)

    def _linear(self, name: str, x: Any) -> Any:
        weight = f"{name}.weight"
        packed = self._packed.get(weight)
        bias = self._state.get(f"{name}.bias")
        return self.make.linear(
            x,
            self.make.constant(self._state[weight]) if packed is None else self.make.packed(packed),
            None if bias is None else self.make.constant(bias.float()),
        )
