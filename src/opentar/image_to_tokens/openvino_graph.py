"""A VisionEncoder as a graph of OpenVINO, built layer by layer from its weights.

OpenVINO's own converter would trace the module, which takes half a minute at the published size and several copies of
the weights, and reports to its makers that it was used. A vision transformer has few kinds of operations.

Shape suffixes: B batch (1), N cells, D hidden size, H heads, E width of a head, as in encoder.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from opentar.core.errors import ModelError, shown
from opentar.core.quantization import quantize
from opentar.image_to_tokens.encoder import ConvBlock, ConvStem, VisionEncoder

GROUP = 128
"""Numbers of an activation that share a scale in int8"""
VERSION = 1
"""Of the graph: a kept one of another version is made anew"""
_WORDS = {"gelu_pytorch_tanh": "tanh", "gelu": "erf"}


def tower_graph(encoder: VisionEncoder, *, int8: bool) -> Any:
    """An openvino.Model: float32 (1, 3, image_size, image_size) to (1, cells, hidden_size), as `encoder` computes it.

    Args:
        encoder: in eval mode, on the CPU, of any floating type; its weights are shared, not copied.
        int8: weights of the layers' linear layers as int8 with a scale a row; OpenVINO then rounds what they are
            multiplied with to int8 too, in groups of GROUP.

    Raises:
        ModelError: an activation that is not known here.
    """
    import openvino
    from openvino import opset15

    return _Builder(openvino, opset15, int8).model(encoder)


class _Builder:
    def __init__(self, openvino: Any, operations: Any, int8: bool) -> None:
        self.ov, self.op, self.int8 = openvino, operations, int8

    def model(self, encoder: VisionEncoder) -> Any:
        config = encoder.config
        pixels = self.op.parameter([1, 3, config.image_size, config.image_size], self.ov.Type.f32, name="pixels")
        stem = encoder.stem
        if isinstance(stem, ConvStem):
            cells = self.conv_stem(stem, config.activation, pixels)
        else:
            cells = self.convolution(stem, pixels)
        x_BDN = self.op.reshape(cells, self.ints(1, config.hidden_size, config.cells), False)
        x_BND = self.op.add(self.op.transpose(x_BDN, self.ints(0, 2, 1)), self.constant(encoder.position_ND[None]))
        for layer in encoder.layers:
            x_BND = self.layer(layer, x_BND, encoder)
        if isinstance(encoder.final_norm, nn.LayerNorm):
            x_BND = self.norm(encoder.final_norm, x_BND)
        return self.ov.Model([self.op.result(x_BND)], [pixels], "tower")

    def layer(self, layer: Any, x_BND: Any, encoder: VisionEncoder) -> Any:
        config = encoder.config
        normed = self.norm(layer.layer_norm1, x_BND)
        attention = layer.self_attn
        width = config.hidden_size // config.heads
        split, swap = self.ints(1, config.cells, config.heads, width), self.ints(0, 2, 1, 3)
        query, key, value = (
            self.op.transpose(self.op.reshape(self.linear(one, normed), split, False), swap)
            for one in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        # Written out: the fused operation is slower at this width of a head (72).
        scores = self.op.matmul(self.op.multiply(query, self.constant(torch.tensor(width**-0.5))), key, False, True)
        mixed = self.op.matmul(self.op.softmax(scores, -1), value, False, False)
        joined = self.op.reshape(self.op.transpose(mixed, swap), self.ints(1, config.cells, config.hidden_size), False)
        x_BND = self.op.add(x_BND, self.linear(attention.out_proj, joined))
        hidden = self.linear(layer.mlp.fc1, self.norm(layer.layer_norm2, x_BND), rows=_padding(config.mlp_size))
        hidden = self.activation(config.activation, hidden)
        return self.op.add(x_BND, self.linear(layer.mlp.fc2, hidden, columns=_padding(config.mlp_size)))

    def linear(self, layer: nn.Linear, x: Any, rows: int = 0, columns: int = 0) -> Any:
        """A linear layer, in int8 with so many rows and columns of zeros after its own."""
        if not self.int8:
            return self.biased(self.op.matmul(x, self.constant(layer.weight), False, True), layer.bias)
        # Whole groups only are computed in int8. The added hidden units are zero before and after the activation.
        values, scale = quantize(nn.functional.pad(layer.weight.detach(), (0, columns, 0, rows)), "int8")
        # A row of zeros has the scale 0, by which OpenVINO divides.
        scale = torch.where(scale == 0, 1, scale.float())
        weight = self.op.convert(self.constant(values), self.ov.Type.f32)
        weight = self.op.multiply(weight, self.constant(scale[:, None]))
        bias = None if layer.bias is None else nn.functional.pad(layer.bias.detach(), (0, rows))
        return self.biased(self.op.matmul(x, weight, False, True), bias)

    def biased(self, x: Any, bias: Tensor | None) -> Any:
        return x if bias is None else self.op.add(x, self.constant(bias))

    def norm(self, layer: nn.LayerNorm, x: Any) -> Any:
        x = self.op.mvn(x, self.ints(-1), True, layer.eps, "inside_sqrt")
        return self.op.add(self.op.multiply(x, self.constant(layer.weight)), self.constant(layer.bias))

    def activation(self, name: str, x: Any) -> Any:
        if name == "relu":
            return self.op.relu(x)
        if name not in _WORDS:
            raise ModelError(
                f"the OpenVINO tower knows no activation {shown(name)}; choose another engine for the image tokenizer"
            )
        return self.op.gelu(x, _WORDS[name])

    def convolution(self, layer: Any, x: Any) -> Any:
        sides = [list(layer.stride), list(layer.padding), list(layer.padding), list(layer.dilation)]
        x = self.op.convolution(x, self.constant(layer.weight), *sides)
        return x if layer.bias is None else self.op.add(x, self.constant(layer.bias[None, :, None, None]))

    def conv_stem(self, stem: ConvStem, activation: str, x: Any) -> Any:
        for level in stem.levels:
            if isinstance(level, ConvBlock):
                hidden = self.activation(activation, self.group_norm(level.norm, x))
                hidden = self.activation(activation, self.convolution(level.conv1, hidden))
                x = self.op.add(x, self.convolution(level.conv2, hidden))
            elif isinstance(level, nn.Conv2d):
                x = self.convolution(level, x)
            else:
                x = self.activation(activation, x)
        return self.convolution(stem.out, x)

    def group_norm(self, norm: nn.Module, x: Any) -> Any:
        if not isinstance(norm, nn.GroupNorm):
            return x
        scale, shift = self.constant(norm.weight), self.constant(norm.bias)
        return self.op.group_normalization(x, scale, shift, norm.num_groups, norm.eps)

    def constant(self, tensor: Tensor) -> Any:
        """Numbers as they are, bfloat16 with its conversion to float32; weights are shared, computed numbers copied."""
        shared = isinstance(tensor, nn.Parameter) and tensor.is_contiguous()
        tensor = tensor.detach().contiguous()
        if tensor.dtype != torch.bfloat16:
            return self.op.constant(tensor.numpy(), shared_memory=shared)
        bits = self.ov.Tensor(tensor.view(torch.int16).numpy(), self.ov.Shape(tensor.shape), self.ov.Type.bf16)
        return self.op.convert(self.op.constant(bits, shared_memory=shared), self.ov.Type.f32)

    def ints(self, *values: int) -> Any:
        return self.op.constant(list(values), self.ov.Type.i64)


def _padding(width: int) -> int:
    return -width % GROUP
