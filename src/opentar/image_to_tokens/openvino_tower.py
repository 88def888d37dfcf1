"""The encoder run by OpenVINO (`pip install 'opentar[openvino]'`), the fastest on a CPU without AMX that was measured.

float32 gives torch's features up to the order of sums. bfloat16 and int8 move some codes; int8 rounds weights by rows,
and what they are multiplied with in groups of 128, anew for every picture, so that nothing has to be calibrated.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opentar.core import environment
from opentar.core.config import to_dict
from opentar.core.device import has_bf16_cpu
from opentar.core.errors import ConfigError, ModelError, OpenTarError, nearest, shown
from opentar.core.folder import MANIFEST, atomic_folder, verify
from opentar.core.remembered import is_own
from opentar.image_to_tokens.encoder import VisionEncoder
from opentar.image_to_tokens.openvino_graph import GROUP, VERSION, tower_graph
from opentar.nn.openvino_library import core, openvino_library

PRECISIONS = ("float32", "bfloat16", "int8")
_FACTS, _GRAPH, _WEIGHTS = "made_of.json", "tower.xml", "tower.bin"


class OpenVINOTower:
    """Pixels to the features of all cells, as `VisionEncoder` computes them.

    Args:
        encoder: in eval mode; its weights are read here and not needed by this object afterwards.
        precision: "float32", "bfloat16" (float32 on a CPU without it) or "int8".
        part: the folder that the weights come from. With it, int8 weights are kept in the cache folder, 0.4 GB at the
            published size, and loaded from there as long as the part's manifest is the same to the byte.

    Raises:
        ModelError: openvino is not installed, or cannot run this encoder.
        ConfigError: another precision.
    """

    def __init__(self, encoder: VisionEncoder, precision: str = "int8", part: Path | None = None) -> None:
        if precision not in PRECISIONS:
            choices = ", ".join(PRECISIONS)
            raise ConfigError(
                f"precision {shown(precision)} is unknown; use {choices}.{nearest(precision, PRECISIONS)}"
            )
        openvino = openvino_library("this encoder")
        self.precision, self.config = precision, encoder.config
        shared = core(openvino)
        narrow = precision != "float32" and has_bf16_cpu()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "bf16" if narrow else "f32",
        }
        if precision == "int8":
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(GROUP)
        try:
            graph = _int8_graph(shared, openvino, encoder, part) if precision == "int8" else None
            graph = tower_graph(encoder, int8=False) if graph is None else graph
            self._request = shared.compile_model(graph, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:160]
            raise ModelError(f"OpenVINO cannot run this encoder ({reason}); use the torch one") from error

    def __call__(self, pixels_B3HW: Tensor) -> Tensor:
        """(B, 3, image_size, image_size) float in [-1, 1] to (B, cells, hidden_size) float32 on the CPU.

        Pictures go through one after the other, so each is computed as if it were alone.

        Raises:
            ConfigError: the pictures have another size.
        """
        size = self.config.image_size
        if pixels_B3HW.shape[1:] != (3, size, size):
            raise ConfigError(
                f"got pixels of shape {tuple(pixels_B3HW.shape)}; the encoder takes (batch, 3, {size}, {size})"
            )
        pixels = pixels_B3HW.detach().float().cpu().contiguous().numpy()
        # The request gives its own memory, which the next picture overwrites.
        parts = [torch.from_numpy(self._request.infer([one[None]])[0].copy()) for one in pixels]
        return torch.cat(parts) if parts else torch.zeros(0, self.config.cells, self.config.hidden_size)


def _int8_graph(shared: Any, openvino: Any, encoder: VisionEncoder, part: Path | None) -> Any:
    """The graph with int8 weights, from the cache where it fits this part."""
    place = None
    if part is not None:
        facts = _facts(openvino, encoder, part)
        # Whoever has no home folder has no cache either.
        with suppress(OSError, OpenTarError):
            place = environment.cache_dir() / "openvino" / f"tower-{facts['part'][:16]}"
    if place is None:
        return tower_graph(encoder, int8=True)
    found = _cached(shared, place, facts)
    if found is not None:
        return found
    graph = tower_graph(encoder, int8=True)
    # A cache that cannot be written is none; the graph is there all the same.
    with suppress(OSError, OpenTarError), atomic_folder(place) as unfinished:
        openvino.save_model(graph, unfinished / _GRAPH, compress_to_fp16=False)
        (unfinished / _FACTS).write_text(json.dumps(facts, sort_keys=True), encoding="utf-8")
        for file in unfinished.iterdir():
            # Whatever the umask: what others may write is not loaded.
            file.chmod(0o600)
    return graph


def _facts(openvino: Any, encoder: VisionEncoder, part: Path) -> dict[str, Any]:
    """All that the graph follows from. The part's manifest holds the sha256 of each of its files."""
    return {
        "part": hashlib.sha256((part / MANIFEST).read_bytes()).hexdigest(),
        "config": json.loads(json.dumps(to_dict(encoder.config))),
        "openvino": openvino.get_version(),
        "version": VERSION,
    }


def _cached(shared: Any, place: Path, facts: dict[str, Any]) -> Any:
    """The graph in `place`, or None where there is none that is whole, this user's and made of `facts`."""
    try:
        if not all(is_own((place / name).lstat()) for name in (_FACTS, _GRAPH, _WEIGHTS)):
            return None
        if json.loads((place / _FACTS).read_bytes()) != facts:
            return None
        verify(place, remember=True)
        return shared.read_model(place / _GRAPH)
    except (OSError, ValueError, RecursionError, RuntimeError, OpenTarError):
        return None
