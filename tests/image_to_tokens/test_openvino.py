"""Every kind of encoder in OpenVINO against torch, and what is kept of it on the disk serves its own part only."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from opentar.checkpoints.find import find_model
from opentar.core.errors import ConfigError, ModelError
from opentar.image_to_tokens import openvino_tower
from opentar.image_to_tokens.encoder import VisionConfig, VisionEncoder
from opentar.image_to_tokens.ta_tok import TOWERS, TATok, TATokConfig
from opentar.vocab import Vocab

pytest.importorskip("openvino", reason="pip install 'opentar[openvino]'")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENTAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openvino"


def encoder_of(**changes: Any) -> VisionEncoder:
    """One of the published kind but small; mlp_size is no whole number of groups."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "image_size": 50, "grid_side": 6, "hidden_size": 128, "layers": 2, "heads": 4, "mlp_size": 200,
    }  # fmt: skip
    encoder = VisionEncoder(VisionConfig(**shape | changes)).eval()
    for weight in encoder.parameters():
        weight.data += 0.01 * torch.randn(weight.shape)
    return encoder


def pictures(side: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


KINDS: dict[str, dict[str, Any]] = {
    "published": {},
    "bfloat16": {},
    "conv": {"stem": "conv", "image_size": 48, "stem_widths": (8, 16), "stem_strides": (2, 4), "activation": "relu"},
    "norms": {
        "stem": "conv", "image_size": 48, "stem_widths": (8, 16), "stem_strides": (4, 2), "norm": "group",
        "final_norm": True, "activation": "gelu",
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_float32_equals_torch(kind: str) -> None:
    encoder = encoder_of(**KINDS[kind])
    if kind == "bfloat16":
        encoder.bfloat16()
    pixels = pictures(encoder.config.image_size)
    made = openvino_tower.OpenVINOTower(encoder, "float32")(pixels)
    with torch.no_grad():
        expected = encoder.float()(pixels)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, expected, atol=2e-5, rtol=1e-5)


def test_what_is_kept_serves_its_own_part_only(
    config: TATokConfig, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[bool] = []
    graph = openvino_tower.tower_graph
    monkeypatch.setattr(
        openvino_tower, "tower_graph", lambda encoder, *, int8: (built.append(int8), graph(encoder, int8=int8))[1]
    )
    one, other = tmp_path / "one", tmp_path / "other"
    for seed, folder in enumerate((one, other)):
        torch.manual_seed(seed)
        TATok(config).save(folder)
    pixels = pictures(24)

    def run(folder: Path) -> torch.Tensor:
        encoder = TATok.from_folder(folder).encoder
        return openvino_tower.OpenVINOTower(encoder, "int8", folder)(pixels)

    first = run(one)
    assert torch.equal(run(one), first) and built == [True]
    second = run(other)
    assert not torch.allclose(second, first) and built == [True] * 2
    ours, theirs = sorted(cache.iterdir(), key=lambda place: place.stat().st_mtime_ns)
    # Another part's graph in this part's place, whole in itself: made anew.
    shutil.rmtree(ours)
    shutil.copytree(theirs, ours)
    assert torch.equal(run(one), first) and built == [True] * 3
    # Bytes that changed.
    content = bytearray((ours / "tower.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (ours / "tower.bin").write_bytes(content)
    assert torch.equal(run(one), first) and built == [True] * 4
    # What others may write.
    (ours / "tower.xml").chmod(0o666)
    assert torch.equal(run(one), first) and built == [True] * 5
    # Another version of OpenVINO.
    facts = json.loads((ours / "made_of.json").read_text())
    assert facts["openvino"] and facts["part"]
    monkeypatch.setattr(openvino_tower, "VERSION", openvino_tower.VERSION + 1)
    assert torch.equal(run(one), first) and built == [True] * 6
    # No place to keep it.
    shutil.rmtree(cache)
    cache.write_text("a file")
    assert torch.equal(run(one), first) and built == [True] * 7


def test_an_activation_that_is_not_known() -> None:
    silu = encoder_of(activation="silu")
    with pytest.raises(ModelError, match="no activation 'silu'"):
        openvino_tower.OpenVINOTower(silu, "float32")


@pytest.fixture(scope="module")
def nano() -> TATok:
    return TATok.from_folder(find_model("nano") / "ta_tok")


@pytest.fixture
def drawn(nano: TATok) -> torch.Tensor:
    size = nano.config.vision.image_size
    smooth = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return torch.nn.functional.interpolate(smooth, size=(size, size), mode="bilinear")


@torch.no_grad()
def test_float32_gives_the_features_of_torch(nano: TATok, drawn: torch.Tensor) -> None:
    tower = openvino_tower.OpenVINOTower(nano.encoder, "float32")
    wanted = nano.encoder(drawn)
    torch.testing.assert_close(tower(drawn), wanted, atol=2e-3, rtol=2e-3)
    assert torch.equal(tower(drawn)[1], tower(drawn[1:2])[0]), "alone and beside others"
    assert tower(drawn[:0]).shape == (0, *wanted.shape[1:])


def test_codes_of_each_tower(nano: TATok, drawn: torch.Tensor) -> None:
    scale = Vocab(text_size=8, codebook_size=4096, grid_side=12).scale(1)
    wanted = nano.encode(drawn, scale)
    shares = {}
    for name in TOWERS:
        tokenizer = TATok.from_folder(find_model("nano") / "ta_tok", tower=name)
        shares[name] = float((tokenizer.encode(drawn, scale) == wanted).float().mean())
    assert shares["torch"] == 1 and shares["openvino-float32"] > 0.98
    assert shares["openvino-bfloat16"] > 0.7 and shares["openvino-int8"] > 0.7, shares


def test_wrong_asks_are_told(nano: TATok, drawn: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'int4' is unknown; use float32, bfloat16, int8"):
        openvino_tower.OpenVINOTower(nano.encoder, "int4")
    with pytest.raises(ConfigError, match="'openvino' is unknown; use torch, openvino-float32"):
        TATok.from_folder(find_model("nano") / "ta_tok", tower="openvino")
    with pytest.raises(ConfigError, match="the encoder takes"):
        openvino_tower.OpenVINOTower(nano.encoder, "float32")(drawn[..., :-1])
    real = builtins.__import__

    def missing(name, *given, **more):
        if name == "openvino":
            raise ImportError(name)
        return real(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ModelError, match=r"pip install 'opentar\[openvino\]'"):
        openvino_tower.OpenVINOTower(nano.encoder, "float32")
