"""Without a graphics card: parts on the meta device stand for parts on a card; a tensor made on the CPU is an error.

What is left out draws numbers on the CPU on purpose (same seed, same picture on every device) or looks at values.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from opentar.core import environment
from opentar.engine.backends.torch_backend import TorchBackend
from opentar.image_to_tokens.decoder import DecoderConfig, FeatureDecoder
from opentar.image_to_tokens.encoder import VisionConfig, VisionEncoder, pool_grid
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.tokens_to_image.ar import ARConfig, ARTransformer
from opentar.tokens_to_image.ar_blocks import Cache
from opentar.tokens_to_image.vqgan import VQGAN, VQGANConfig

CARD = torch.device("meta")
W = 16


class NothingElsewhere(TorchDispatchMode):
    """Refuses results on the CPU, single numbers aside."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.device.type == "cpu" and tensor.ndim:
                raise AssertionError(f"{func} made a tensor of shape {tuple(tensor.shape)} on the CPU")
        return out


def encoder(attention: str) -> Callable[[], Tensor]:
    config = VisionConfig(
        image_size=24, grid_side=12, hidden_size=W, layers=2, heads=2, mlp_size=32, attention=attention, final_norm=True
    )
    model, pixels = VisionEncoder(config).to(CARD), torch.zeros(2, 3, 24, 24, device=CARD)
    return lambda: pool_grid(model(pixels), 2)


def features() -> Callable[[], Tensor]:
    config = DecoderConfig(
        input_size=W, hidden_size=W, output_size=W, layers=1, heads=2, mlp_size=32, position_side=6, front_size=8
    )
    model, rows = FeatureDecoder(config).to(CARD), torch.zeros(2, 16, W, device=CARD)
    return lambda: model(rows)


def whole_sequences(attention: str) -> Callable[[], Tensor]:
    model, ids = language(attention), torch.zeros(2, 9, dtype=torch.int64, device=CARD)
    return lambda: model.logits(model.hidden(ids))


def language(attention: Any) -> TarLanguageModel:
    config = LanguageConfig(
        text_size=40,
        codebook_size=60,
        hidden=W,
        layers=2,
        heads=2,
        kv_heads=1,
        head_size=8,
        mlp=32,
        attention=attention,
    )
    return TarLanguageModel(config).to(CARD)


def ar() -> Callable[[], Tensor]:
    config = ARConfig(feature_size=W, codes=16, codebook_size=32, hidden_size=W, layers=2, heads=2, mlp_size=32)
    model = ARTransformer(config).to(CARD)
    given, codes = torch.zeros(2, 16, W, device=CARD), torch.zeros(2, 1, dtype=torch.int64, device=CARD)

    def steps() -> Tensor:
        cache = Cache(config, 2, 40, given)
        model.step(model.prefix(given), cache)
        return model.step(model.codes_in(codes), cache)

    return steps


def pixels() -> Callable[[], Tensor]:
    config = VQGANConfig(channels=(8, 16), blocks=1, latent_channels=8, code_size=4, codebook_size=32, groups=4)
    model, latents = VQGAN(config).to(CARD), torch.zeros(1, 8, 4, 4, device=CARD)
    return lambda: model.decoder(latents)


@pytest.mark.parametrize(
    "work",
    [encoder("sdpa"), encoder("matmul"), features(), whole_sequences("eager"), whole_sequences("sdpa"), ar(), pixels()],
    ids=["encoder", "encoder, plain", "features", "language, eager", "language, sdpa", "ar", "pixels"],
)
@torch.no_grad()
def test_parts_make_nothing_on_the_cpu(work: Callable[[], Tensor]) -> None:
    with NothingElsewhere():
        assert work().device == CARD


def test_the_guard_sees_a_tensor_on_the_cpu() -> None:
    with NothingElsewhere(), pytest.raises(AssertionError, match="on the CPU"):
        torch.zeros(1, device=CARD) + torch.arange(3).sum()


@torch.no_grad()
def test_slots_stand_on_the_device_of_the_model() -> None:
    """Ids come from the CPU; all that is computed of them stays there, the cache too."""
    backend = TorchBackend(language("sdpa"))
    slots = backend.open(2)
    backend.extend(slots, [[1, 2, 3], [4]])
    backend.extend(slots, [[5], [6]])
    found = backend.logits([*slots, backend.fork(slots[0])], range(10, 60))
    assert found.device == CARD and found.shape == (3, 50)
    assert {kept.device for kept in (*backend._cache.keys, *backend._cache.values)} == {CARD}


def test_the_script_for_cards_runs_on_a_cpu(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    path = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    done = subprocess.run(
        [sys.executable, str(path), "--device", "cpu", "--tiny", "--json", "--works", "encode"],
        capture_output=True,
        text=True,
        check=False,
        env=environment.for_child(OPENTAR_CACHE=str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    checked = [row for row in rows if "part" in row]
    assert {row["type"] for row in checked} == {"float32", "bfloat16"} and "float16 is left out" in done.stderr
    assert len({row["part"] for row in checked}) >= 7
    assert all(row["error"] == 0 for row in checked if row["type"] == "float32")
    assert all(0 < row["error"] <= row["bound"] for row in checked if row["part"] in ("encoder", "ar, codes")
               and row["type"] == "bfloat16")  # fmt: skip
    measured = [row for row in rows if "work" in row]
    assert measured and all(row["seconds"] > 0 and row["ratio"] > 0 for row in measured)
