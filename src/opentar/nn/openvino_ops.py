"""Pieces of graphs of OpenVINO that a language model is built of, straight from its weights.

Norms and rotary positions are written in the plain operations that the CPU plugin knows how to join into one.
Attention is the operation of OpenVINO's own server: rows of any lengths in one call, keys and values in blocks of ours.

Shape suffixes: T ids of all rows, one after the other; H width; D width of a head; N heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opentar.core.errors import ModelError
from opentar.core.quantization import WITH_ZERO, Packed, group_of
from opentar.nn.openvino_library import INSTALL, openvino_library

BLOCK = 32
"""Positions of a block of keys and values: the one size that the CPU plugin takes."""


class Operations:
    """Makes nodes. Raises ModelError where openvino is not installed; `what` needs it.

    Keep it as long as a graph that was made with it: it holds the memory that constants share.
    """

    def __init__(self, what: str) -> None:
        self.ov = openvino_library(what)
        self._held: list[Any] = []
        from openvino import opset15

        self.op = opset15

    def parameter(self, name: str, shape: Sequence[int], kind: Any) -> Any:
        """An input with a name; -1 is any size."""
        made = self.op.parameter(self.ov.PartialShape(list(shape)), kind, name=name)
        made.output(0).get_tensor().set_names({name})
        return made

    def number(self, value: float) -> Any:
        """A float32 scalar."""
        return self.op.constant(np.float32(value))

    def ints(self, *values: int) -> Any:
        """An int64 vector."""
        return self.op.constant(list(values), self.ov.Type.i64)

    def constant(self, tensor: Tensor) -> Any:
        """A tensor as float32: its memory is shared, where it is bfloat16 with a conversion after it."""
        tensor = tensor.detach().contiguous()
        if tensor.dtype != torch.bfloat16:
            return self._shared(tensor.float())
        bits = tensor.view(torch.int16)
        return self.op.convert(self._shared(bits, tensor.shape, self.ov.Type.bf16), self.ov.Type.f32)

    def packed(self, packed: Packed, rows: slice = slice(None)) -> Any:
        """Rows of a quantized matrix as float32: stored numbers, mapped, with the arithmetic that unpacks them.

        The CPU plugin does not carry it out beforehand: it multiplies with the stored numbers.
        """
        values, scale = packed.values()[rows], packed.scale()[rows].float()
        if group_of(packed.form) is None:
            numbers = self.op.convert(self._shared(values), self.ov.Type.f32)
            # A row of zeros has the scale 0, by which OpenVINO may divide.
            return self.op.multiply(numbers, self.constant(torch.where(scale == 0, 1, scale)[:, None]))
        count, groups = int(scale.shape[0]), int(scale.shape[1])
        width = packed.shape[1]
        step, middle = (part[..., None] for part in scale.unbind(-1))
        step = torch.where(step == 0, 1, step)
        halves = self._shared(values, [count, groups, width // groups], self.ov.Type.u4)
        numbers = self.op.convert(halves, self.ov.Type.f32)
        numbers = self.op.subtract(numbers, self._zeros(packed.form, 8 - middle / step))
        return self.op.reshape(self.op.multiply(numbers, self.constant(step)), self.ints(count, width), False)

    def _zeros(self, form: str, zeros: Tensor) -> Any:
        """What is subtracted from stored numbers, (rows, groups, 1); whole ones have 4 bits themselves."""
        halves = zeros.flatten().round()
        if not form.startswith(WITH_ZERO) or len(halves) % 2:
            return self.constant(zeros)
        halves = halves.clamp_(0, 15).to(torch.uint8)
        pairs = halves[0::2] | (halves[1::2] << 4)
        return self.op.convert(self._shared(pairs, list(zeros.shape), self.ov.Type.u4), self.ov.Type.f32)

    def _shared(self, tensor: Tensor, shape: Sequence[int] = (), kind: Any = None) -> Any:
        """A constant over the memory of a tensor, read as another type where `kind` says so."""
        array = tensor.numpy()
        self._held.append(array)
        told = array if kind is None else self.ov.Tensor(array, self.ov.Shape(list(shape)), kind)
        return self.op.constant(told, shared_memory=True)

    def linear(self, x: Any, weight: Any, bias: Any = None) -> Any:
        """x (T, in) times a weight (out, in), transposed."""
        made = self.op.matmul(x, weight, False, True)
        return made if bias is None else self.op.add(made, bias)

    def norm(self, x: Any, weight: Any, eps: float) -> Any:
        """RMSNorm over the last dimension."""
        squares = self.op.reduce_mean(self.op.power(x, self.number(2)), self.ints(-1), True)
        length = self.op.sqrt(self.op.add(squares, self.number(eps)))
        return self.op.multiply(self.op.multiply(x, self.op.divide(self.number(1), length)), weight)

    def turned(self, x: Any, cos: Any, sin: Any, heads: int, size: int) -> Any:
        """Rotary positions of x (T, N * D), as in Qwen2; cos and sin (T, 1, 1, D)."""
        swap, half = self.ints(0, 2, 1, 3), size // 2
        x_TN1D = self.op.transpose(self.op.reshape(x, self.ints(-1, 1, heads, size), False), swap)
        first = self.op.slice(x_TN1D, self.ints(0), self.ints(half), self.ints(1), self.ints(-1))
        second = self.op.slice(x_TN1D, self.ints(half), self.ints(2 * half), self.ints(1), self.ints(-1))
        across = self.op.concat([self.op.multiply(second, self.number(-1)), first], -1)
        made = self.op.add(self.op.multiply(x_TN1D, cos), self.op.multiply(across, sin))
        return self.op.reshape(self.op.transpose(made, swap), self.ints(-1, heads * size), False)

    def attention(self, rotated: Sequence[Any], cache: Sequence[Any], rows: Sequence[Any], heads: int) -> Any:
        """Attention of new ids to what stands before them in their own row, (T, N * D).

        Args:
            rotated: queries, keys and values of the new ids, (T, heads * D) each; what is new goes into the cache.
            cache: keys and values, (blocks, heads, BLOCK, D) each.
            rows: the five inputs that `row_inputs` makes.
            heads: of keys and values.

        Raises:
            ModelError: this OpenVINO has another form of the operation.
        """
        from openvino.op import _PagedAttentionExtension

        size = cache[0].get_partial_shape()[3].get_length()
        past, begins, blocks, block_begins, longest = rows
        nothing = {kind: self.op.constant(np.zeros(0, kind)) for kind in (np.int32, np.float32, np.uint8)}
        none, no_numbers, zero = nothing[np.int32], nothing[np.float32], self.op.constant(np.int32(0))
        arguments = [
            *(*rotated, *cache, past, begins, blocks, block_begins, self.number(size**-0.5)),
            # A sliding window, slopes of ALiBi.
            *(zero, no_numbers, longest),
            # Sums of scores; blocks that are turned again.
            *(none, none, none, no_numbers),
            # Sparse attention, sinks.
            *(no_numbers, zero, zero, no_numbers),
            # Letting go of positions; kinds of ids; a bias of queries.
            *(zero, none, none, none, none, nothing[np.uint8], none),
        ]
        try:
            made = _PagedAttentionExtension([one.output(0) for one in arguments])
        except RuntimeError as error:
            raise ModelError(
                f"OpenVINO {self.ov.get_version()} has another form of the attention that runs here; "
                f"get the version of this release with: {INSTALL}, or use the torch engine"
            ) from error
        told = {"num_k_heads": heads, "num_v_heads": heads, "k_head_size": size, "v_head_size": size}
        for name, number in told.items():
            made.get_rt_info()[name] = number
        return made.output(0)

    def row_inputs(self) -> list[Any]:
        """int32: positions before, where rows begin among the ids, blocks, where rows begin there, longest row."""
        names = ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")
        made = [self.parameter(name, [-1], self.ov.Type.i32) for name in names]
        return [*made, self.parameter("max_context_len", [], self.ov.Type.i32)]
