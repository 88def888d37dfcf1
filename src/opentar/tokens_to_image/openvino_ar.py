"""The AR transformer run by OpenVINO (`pip install 'opentar[openvino]'`): fewer, larger steps than PyTorch's.

Weights are those that PyTorch runs, from the same files. Quantized ones are multiplied with numbers that are rounded to
8 bits in groups of GROUP, where PyTorch rounds whole rows.

Legend: R rows, P positions computed, S slots, C columns of the graph's memory, W model width, V codes in the codebook.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from opentar.core.device import has_bf16_cpu
from opentar.nn.openvino_library import Compiled
from opentar.nn.quantized import QuantizedLinear
from opentar.tokens_to_image.ar_session import seen_columns
from opentar.tokens_to_image.openvino_graph import WHAT, ARGraph

if TYPE_CHECKING:
    from opentar.tokens_to_image.ar import ARTransformer
    from opentar.tokens_to_image.ar_blocks import Places

GROUP = 128
"""Numbers that share a scale where weights are quantized, as in the language model."""


class OpenVINOTransformer:
    """Computes what an AR transformer computes; drawings share its weights.

    Args:
        model: on the CPU; its embeddings and the projection of features stay in PyTorch.

    Raises:
        ModelError: openvino is not installed, or cannot run the model here.
    """

    def __init__(self, model: ARTransformer) -> None:
        self.model = model
        layer = model.blocks[0].mlp_down
        packed = isinstance(layer, QuantizedLinear)
        narrow = isinstance(layer, nn.Linear) and layer.weight.dtype == torch.bfloat16 and has_bf16_cpu()
        kind = "bf16" if narrow else "f32"
        settings = {
            "INFERENCE_PRECISION_HINT": kind,
            "KV_CACHE_PRECISION": kind,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(GROUP if packed else 0),
        }
        self._graph = ARGraph(model)
        self._compiled = Compiled(self._graph.whole(), settings, WHAT)

    def begin(self, rows: int, slots: int) -> OpenVINOSession:
        """A drawing with memory of its own."""
        return OpenVINOSession(self.model, self._compiled.again(), rows, slots)


class OpenVINOSession:
    """One drawing; see ``Session``."""

    def __init__(self, model: ARTransformer, compiled: Compiled, rows: int, slots: int) -> None:
        self._model, self._run = model, compiled
        self._positions = model.positions.detach().float()
        self._columns = self._slots = 0
        # Where each slot lies, of a row; at first nowhere, which is behind every column.
        self._where_RS = torch.full((rows, slots), -1)
        self._rows = torch.arange(rows)

    @property
    def filled(self) -> int:
        """Slots that `step` has filled."""
        return self._slots

    def step(self, inputs_RPW: Tensor) -> Tensor:
        """As the protocol says."""
        rows, new = inputs_RPW.shape[:2]
        if self._columns == 0:
            self._rows = torch.arange(rows)
        end = self._columns + new
        seen_1PC = torch.ones(1, new, end, dtype=torch.bool).tril(self._columns)
        self._where_RS[:, self._slots : self._slots + new] = torch.arange(self._columns, end)
        x_RPW = inputs_RPW.float() + self._positions[self._slots : self._slots + new]
        self._slots += new
        return self._compute(x_RPW, seen_1PC.expand(rows, -1, -1), [new - 1])[:, 0]

    def several(self, inputs_RPW: Tensor, places: Places) -> Tensor:
        """As the protocol says."""
        rows, new = inputs_RPW.shape[:2]
        if rows < len(self._rows):
            self.first(rows)
        end = self._columns + new
        # Of two entries in one slot the last counts, here and in the cache of PyTorch alike: nobody looks at either.
        self._where_RS[:rows].scatter_(1, places.slots_RP, torch.arange(self._columns, end).expand(rows, -1))
        where_RS = self._where_RS[:rows]
        seen_RPC = seen_columns(places, torch.where(where_RS < 0, end, where_RS), end)
        # What only fills up a shorter row stands behind the table, as in ``ARTransformer.several``.
        x_RPW = inputs_RPW.float() + self._positions[places.slots_RP.clamp(max=len(self._positions) - 1)]
        return self._compute(x_RPW, seen_RPC, range(new))

    def spread(self, pictures: int) -> None:
        """As the protocol says."""
        self._rows = torch.cat([torch.arange(pictures), torch.full((pictures,), pictures)])

    def first(self, rows: int) -> None:
        """As the protocol says."""
        self._rows = self._rows[:rows]

    def _compute(self, x_RPW: Tensor, seen_RPC: Tensor, wanted: Any) -> Tensor:
        mask_RPC = torch.zeros(seen_RPC.shape).masked_fill_(~seen_RPC, -torch.inf)
        logits = self._run(
            {
                "inputs": x_RPW.numpy(),
                "mask": mask_RPC[:, None].numpy(),
                "beam_idx": self._rows.int().numpy(),
                "wanted": np.array(wanted, dtype=np.int32),
            }
        )
        self._columns = seen_RPC.shape[-1]
        self._rows = torch.arange(len(x_RPW))
        return logits
