"""Refusals of the reader of ta_tok.pth; that it reads right is tests/parity/test_ta_tok.py."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from opentar.core.errors import WeightsError
from opentar.image_to_tokens.published import read_ta_tok
from opentar.image_to_tokens.ta_tok import TATok

WIDTH, BOTTLENECK = 48, 8


def linear(state: dict[str, torch.Tensor], name: str, out: int, into: int) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = torch.zeros(out, into), torch.zeros(out)


def vision(prefix: str, layers: int) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for layer in range(layers):
        place = f"{prefix}encoder.layers.{layer}."
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            linear(state, f"{place}self_attn.{name}", WIDTH, WIDTH)
        linear(state, f"{place}mlp.fc1", 8, WIDTH)
        linear(state, f"{place}mlp.fc2", WIDTH, 8)
        for name in ("layer_norm1", "layer_norm2"):
            state[f"{place}{name}.weight"] = state[f"{place}{name}.bias"] = torch.ones(WIDTH)
    state[f"{prefix}post_layernorm.weight"] = state[f"{prefix}post_layernorm.bias"] = torch.ones(WIDTH)
    state[f"{prefix}head.probe"] = torch.zeros(1, 1, WIDTH)
    return state


def published_blob() -> dict[str, Any]:
    """The smallest file of the format: 2 encoder layers, 1 decoder layer, a 3x3 grid of 14 px patches."""
    state = vision("encoder.", 2) | vision("decoder.vision_model.", 1)
    state["encoder.embeddings.patch_embedding.weight"] = torch.zeros(WIDTH, 3, 14, 14)
    state["encoder.embeddings.patch_embedding.bias"] = torch.zeros(WIDTH)
    state["encoder.embeddings.position_embedding.weight"] = torch.zeros(9, WIDTH)
    linear(state, "decoder.vision_model.embeddings.patch_embedding", WIDTH, BOTTLENECK)
    state["decoder.vision_model.embeddings.position_embedding.weight"] = torch.zeros(16, WIDTH)
    for name in ("encode_task_layer.0", "decode_task_layer.0", "decode_task_layer.2"):
        linear(state, name, WIDTH, WIDTH)
    linear(state, "bottleneck.in_linear", BOTTLENECK, WIDTH)
    linear(state, "bottleneck.out_linear", BOTTLENECK, BOTTLENECK)
    state["bottleneck.regularizer.embedding.weight"] = torch.zeros(32, BOTTLENECK)
    linear(state, "bottleneck.regularizer.embedding_proj", BOTTLENECK, BOTTLENECK)
    state["scale_layer.shift"] = state["scale_layer.scale"] = torch.full((1, 3, 1, 1), 0.5)
    simvq = {"codebook_size": 32, "l2_normalized": True, "stochastic": True, "stochastic_temperature": 0.03}
    bottleneck = {"bottleneck_dim": BOTTLENECK, "regularizer": {"name": "simvq", "args": simvq}}
    args = {
        "bottleneck": {"name": "bottleneck", "args": bottleneck},
        "bottleneck_token_num": 9,
        "input_size": 44,
        "pool_scale": 1,
    }
    return {"model": {"args": args, "sd": state}}


@pytest.fixture
def read(tmp_path: Path) -> Callable[[dict[str, Any]], TATok]:
    def written(blob: dict[str, Any]) -> TATok:
        torch.save(blob, tmp_path / "ta_tok.pth")
        config, state = read_ta_tok(tmp_path / "ta_tok.pth")
        model = TATok(config)
        model.load_state_dict(state)
        return model

    return written


def test_smallest_file(read: Callable[[dict[str, Any]], TATok]) -> None:
    config = read(published_blob()).config
    assert (config.vision.grid_side, config.vision.layers, config.vision.heads) == (3, 1, 16)
    assert (config.decoder.heads, config.decoder.position_side) == (12, 4)
    assert config.quantizer.temperature == 0.03


@pytest.mark.parametrize(("encoder", "decoder"), [("encoder.vision_model.", "decoder.")])
def test_names_of_other_transformers_versions(
    read: Callable[[dict[str, Any]], TATok], encoder: str, decoder: str
) -> None:
    blob = published_blob()
    blob["model"]["sd"] = {
        name.replace("decoder.vision_model.", decoder).replace("encoder.e", f"{encoder}e", 1)
        if name.startswith(("encoder.", "decoder."))
        else name: tensor
        for name, tensor in blob["model"]["sd"].items()
    }
    assert read(blob).config.vision.layers == 1


def test_learned_temperature(read: Callable[[dict[str, Any]], TATok]) -> None:
    blob = published_blob()
    blob["model"]["args"]["bottleneck"]["args"]["regularizer"]["args"]["stochastic_temperature"] = -1
    blob["model"]["sd"]["bottleneck.regularizer.stochastic_temperature_inv"] = torch.tensor([12.0])
    assert read(blob).quantizer.stochastic_temperature_inv.item() == 12


def changed(place: str, value: object) -> dict[str, Any]:
    """The blob with one entry set (or removed for None); sd keys hold dots, so they are given after "sd:"."""
    blob = copy.deepcopy(published_blob())
    target, name = blob["model"]["sd"], place.removeprefix("sd:")
    if not place.startswith("sd:"):
        *path, name = place.split(".")
        target = blob["model"]["args"]
        for step in path:
            target = target[step]
    target[name] = value
    if value is None:
        del target[name]
    return blob


SIMVQ = "bottleneck.args.regularizer.args."


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        ("input_sise", 44, r"unknown argument 'input_sise'.*Did you mean 'input_size'"),
        (SIMVQ + "l2_normalised", True, "unknown argument 'l2_normalised'"),
        (SIMVQ + "l2_normalized", None, "l2_normalized is 'None'; expected a value of type bool"),
        (SIMVQ + "codebook_size", 64, r"quantizer.embedding.weight has shape \[32, 8\]; expected \[64, 8\]"),
        (SIMVQ + "stochastic_temperature", "hot", "expected a value of type float"),
        ("bottleneck.args.regularizer.name", "vq", "regularizer.name is 'vq'; expected 'simvq'"),
        ("bottleneck.args.norm", "layer", "norm is 'layer'; expected 'none'"),
        ("bottleneck.args.regularizer.args", 3, "expected a mapping with codebook_size"),
        ("pool_scale", 2, "pool_scale is '2'; expected '1'"),
        ("bottleneck_token_num", 16, "bottleneck_token_num is '16'; expected 9"),
        ("input_size", None, "input_size is 'None'; expected a value of type int"),
        ("sd:encoder.layers.0.extra", torch.zeros(1), "unknown key 'encoder.layers.0.extra'"),
        ("sd:bottleneck.in_linear.bias", None, r"lacks the tensor of in_linear.bias \[8\]"),
        ("sd:encode_task_layer.0.weight", torch.zeros(4, 48), r"has shape \[4, 48\]; expected \[48, 48\]"),
        ("sd:encode_task_layer.0.bias", torch.zeros(48, dtype=torch.int64), "torch.int64; expected floating"),
        ("sd:scale_layer.shift", torch.zeros(1, 3, 1, 1), "scale_layer.shift is not 0.5"),
        ("sd:encode_task_layer.0.bias", "zeros", "must hold named tensors only"),
        ("sd:bottleneck.regularizer.stochastic_temperature_inv", torch.ones(1), "expected 0 or less"),
    ],
)
def test_refused_by_name(read: Callable[[dict[str, Any]], TATok], place: str, value: object, text: str) -> None:
    with pytest.raises(WeightsError, match=text):
        read(changed(place, value))


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code was run",)


def test_refused_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ta_tok.pth"
    with pytest.raises(WeightsError, match="there is no file"):
        read_ta_tok(path)
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(WeightsError, match="ta_tok"):
        read_ta_tok(path)
    torch.save({"model": {"args": {}, "sd": {}, "more": Harmful()}}, path)
    with pytest.raises(WeightsError, match="other than tensors and plain values"):
        read_ta_tok(path)
    assert capsys.readouterr().out == ""
    torch.save({"state": 1}, path)
    with pytest.raises(WeightsError, match="not a tokenizer file"):
        read_ta_tok(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(WeightsError, match="ta_tok"):
        read_ta_tok(path)
