"""The language model of a folder in OpenVINO: graphs that are compiled once, and what goes into them and comes out.

It runs the folders that PyTorch runs, from the same files: float32, bfloat16 and what `opentar quantize` wrote. In 8
and 4 bits it rounds what weights are multiplied with to 8 bits in groups of GROUP, but not in the head.

Shape suffixes: T ids of all rows, one after the other; H width; D width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from opentar.core.device import has_bf16_cpu
from opentar.core.folder import load_packed, load_part, standing
from opentar.core.memory import check_memory
from opentar.core.quantization import Packed
from opentar.core.storage import LoadDtype
from opentar.language.folder import language_config
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.language.openvino_graph import TABLE, WHAT, LanguageGraph
from opentar.nn.openvino_library import Compiled, openvino_library
from opentar.nn.openvino_ops import BLOCK
from opentar.nn.quantized import QuantizedEmbedding

GROUP = 128
"""Numbers of an activation that share a scale where weights are quantized: 32, OpenVINO's own choice, is slower."""
_WORK_BYTES = 300_000_000
"""Memory beside weights and cache, about."""


class OpenVINOLanguage:
    """A language model whose graphs are compiled; engines share it.

    Args:
        config: its sizes.
        state: weights by Qwen2's own names, float32 or bfloat16; those in `packed` need no numbers.
        packed: the quantized ones.

    Raises:
        ModelError: openvino is not installed or cannot run the model here.
    """

    def __init__(
        self, config: LanguageConfig, state: Mapping[str, Tensor], packed: Mapping[str, Packed] | None = None
    ) -> None:
        self.config, packed = config, packed or {}
        narrow = state["model.layers.0.mlp.down_proj.weight"].dtype == torch.bfloat16 and has_bf16_cpu()
        self.cache_type = torch.bfloat16 if narrow else torch.float32
        kind = "bf16" if narrow else "f32"
        self._graph = LanguageGraph(config, state, packed, kind)
        # In the head, 8 bits of input would cost more than in all layers together.
        self._exact = {"INFERENCE_PRECISION_HINT": kind, "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
        settings = self._exact | {"KV_CACHE_PRECISION": kind, "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(GROUP)}
        self.layers = Compiled(self._graph.layers(), settings if packed else settings | self._exact, WHAT)
        table = packed.get(TABLE)
        self._table = nn.Embedding.from_pretrained(state[TABLE]) if table is None else QuantizedEmbedding(table)
        turns_D = 1 / config.rope_theta ** (np.arange(0, config.head_size, 2) / config.head_size)
        angles_PD = np.tile(np.arange(config.max_length)[:, None] * turns_D, 2)
        self._cos_PD, self._sin_PD = np.cos(angles_PD).astype(np.float32), np.sin(angles_PD).astype(np.float32)
        cuts = {0, config.text_size, config.vocab.first_code, config.vocab.size, config.table_rows}
        self._parts = [range(*pair) for pair in pairwise(sorted(cuts))]
        self._heads: dict[int, Compiled] = {}

    @torch.no_grad()
    def inputs(self, ids_T: Sequence[int], positions_T: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """What stands for ids and their positions in the graph of the layers."""
        rows = (self._cos_PD[positions_T], self._sin_PD[positions_T])
        cos, sin = (row[:, None, None] for row in rows)
        return {"embeddings": self._table(torch.tensor(ids_T)).float().numpy(), "cos": cos, "sin": sin}

    def head(self, hidden_BH: Tensor, ids: range) -> Tensor:
        """Float32 logits (B, len(ids)); rows of the head are compiled when the first of their part is asked for."""
        found = []
        for part in self._parts:
            low, high = max(ids.start, part.start), min(ids.stop, part.stop)
            if low < high:
                if part.start not in self._heads:
                    self._heads[part.start] = Compiled(self._graph.head(part), self._exact, WHAT)
                logits = self._heads[part.start]({"hidden": hidden_BH.numpy()})
                found.append(logits[:, low - part.start : high - part.start])
        return torch.cat(found, -1)

    def cache(self, blocks: int) -> dict[str, Tensor]:
        """Room for keys and values of so many blocks, zeros, by the names of the inputs."""
        shape = (blocks, self.config.kv_heads, BLOCK, self.config.head_size)
        names = [f"{name}.{layer}" for layer in range(self.config.layers) for name in ("key", "value")]
        return {name: torch.zeros(shape, dtype=self.cache_type) for name in names}

    def block_bytes(self) -> int:
        """Memory of one block in all layers."""
        config = self.config
        return 2 * config.layers * config.kv_heads * BLOCK * config.head_size * self.cache_type.itemsize


def as_input(tensor: Tensor) -> Any:
    """An openvino.Tensor over the same memory; keep the tensor as long as it is used."""
    openvino = openvino_library(WHAT)
    if tensor.dtype != torch.bfloat16:
        return openvino.Tensor(tensor.numpy(), shared_memory=True)
    bits = tensor.view(torch.int16).numpy()
    return openvino.Tensor(bits, openvino.Shape(list(tensor.shape)), openvino.Type.bf16)


def load_openvino(folder: str | Path, dtype: LoadDtype = "stored") -> OpenVINOLanguage:
    """The model of a language folder; every file is compared with the manifest.

    Args:
        folder: any that is not a GGUF file.
        dtype: float32 or bfloat16, which a CPU without it computes in float32; "stored"; "packed" as quantized.

    Raises:
        ModelError: openvino is not installed, or memory does not suffice.
        WeightsError: the folder is damaged, or tensors are missing.
    """
    openvino_library(WHAT)
    folder = standing(Path(folder))
    config = language_config(folder)
    packed: dict[str, Packed] = {}
    if dtype == "packed":
        _, state, packed = load_packed(folder)
    else:
        _, state = load_part(folder, dtype)
    # Refuses what is missing, unknown or misshapen.
    TarLanguageModel.from_state(config, state, where=str(folder))
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    # What is arranged for the product lies in memory beside the mapped file.
    check_memory(f"running {folder}", size + _WORK_BYTES)
    return OpenVINOLanguage(config, state, packed)
