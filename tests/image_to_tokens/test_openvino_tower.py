"""The encoder in OpenVINO: torch's features in float32, codes that mostly agree in int8, a cache that is checked."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from opentar.checkpoints.find import find_model
from opentar.core import environment
from opentar.core.errors import ConfigError, ModelError
from opentar.image_to_tokens import openvino_tower
from opentar.image_to_tokens.openvino_tower import OpenVINOTower
from opentar.image_to_tokens.ta_tok import TOWERS, TATok

pytest.importorskip("openvino", reason="pip install 'opentar[openvino]'")


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
    tower = OpenVINOTower(nano.encoder, "float32")
    wanted = nano.encoder(drawn)
    torch.testing.assert_close(tower(drawn), wanted, atol=2e-3, rtol=2e-3)
    assert torch.equal(tower(drawn)[1], tower(drawn[1:2])[0]), "alone and beside others"
    assert tower(drawn[:0]).shape == (0, *wanted.shape[1:])


@torch.no_grad()
def test_a_tower_of_the_published_kind(config) -> None:
    import dataclasses

    vision = dataclasses.replace(
        config.vision, stem="patch", stem_widths=(), activation="gelu_pytorch_tanh", attention="sdpa", mlp_size=40
    )
    torch.manual_seed(3)
    one = TATok(dataclasses.replace(config, vision=vision)).eval()
    pixels = torch.rand(2, 3, 24, 24) * 2 - 1
    torch.testing.assert_close(OpenVINOTower(one.encoder, "float32")(pixels), one.encoder(pixels), atol=1e-4, rtol=1e-3)
    rounded = OpenVINOTower(one.encoder, "int8")(pixels)
    assert float((rounded - one.encoder(pixels)).abs().mean()) < 0.05 * float(one.encoder(pixels).abs().mean())


def test_codes_of_each_tower(nano: TATok, drawn: torch.Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "cache_dir", lambda: tmp_path / "cache")
    from opentar.vocab import Vocab

    scale = Vocab(text_size=8, codebook_size=4096, grid_side=12).scale(1)
    wanted = nano.encode(drawn, scale)
    shares = {}
    for name in TOWERS:
        tokenizer = TATok.from_folder(find_model("nano") / "ta_tok", tower=name)
        shares[name] = float((tokenizer.encode(drawn, scale) == wanted).float().mean())
    assert shares["torch"] == 1 and shares["openvino-float32"] > 0.98
    assert shares["openvino-bfloat16"] > 0.7 and shares["openvino-int8"] > 0.7, shares


def test_a_cache_that_does_not_fit_is_made_anew(
    nano: TATok, drawn: torch.Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environment, "cache_dir", lambda: tmp_path / "cache")
    part = tmp_path / "ta_tok"
    shutil.copytree(find_model("nano") / "ta_tok", part)
    built = []
    real = openvino_tower.tower_graph

    def graph(*given, **more):
        built.append(1)
        return real(*given, **more)

    monkeypatch.setattr(openvino_tower, "tower_graph", graph)
    first = OpenVINOTower(nano.encoder, "int8", part)(drawn)
    assert torch.equal(OpenVINOTower(nano.encoder, "int8", part)(drawn), first) and len(built) == 1
    place = next((tmp_path / "cache" / "openvino").iterdir())
    facts = json.loads((place / "made_of.json").read_text())
    weights = place / "tower.bin"
    weights.write_bytes(weights.read_bytes()[:-8] + b"damaged!")
    assert torch.equal(OpenVINOTower(nano.encoder, "int8", part)(drawn), first) and len(built) == 2
    assert json.loads((place / "made_of.json").read_text()) == facts


def test_wrong_asks_are_told(nano: TATok, drawn: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'int4' is unknown; use float32, bfloat16, int8"):
        OpenVINOTower(nano.encoder, "int4")
    with pytest.raises(ConfigError, match="'openvino' is unknown; use torch, openvino-float32"):
        TATok.from_folder(find_model("nano") / "ta_tok", tower="openvino")
    with pytest.raises(ConfigError, match="the encoder takes"):
        OpenVINOTower(nano.encoder, "float32")(drawn[..., :-1])
    import builtins

    real = builtins.__import__

    def missing(name, *given, **more):
        if name == "openvino":
            raise ImportError(name)
        return real(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ModelError, match=r"pip install 'opentar\[openvino\]'"):
        OpenVINOTower(nano.encoder, "float32")
