"""The importer of published files refuses what it does not know, by name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from opentar.core.errors import WeightsError
from opentar.tokens_to_image.ar import ARTransformer
from opentar.tokens_to_image.published import read_ar_dtok, read_vqgan

ARGS = {"model_type": "clip_cond", "cond_dim": 8, "cls_token_num": 4, "max_seq_len": 16, "vocab_size": 32}


@pytest.fixture(scope="module")
def blob() -> dict[str, Any]:
    """A file of the smallest published size, with a small MLP."""
    width, mlp = 384, 256
    tensors = {
        "abs_pe": torch.zeros(1, 19, width),
        "clip_proj.weight": torch.zeros(width, 8),
        "clip_proj.bias": torch.zeros(width),
        "tok_embeddings.weight": torch.zeros(32, width),
        "norm.weight": torch.ones(width),
        "output.weight": torch.zeros(32, width),
    }
    for layer in range(12):
        here = f"layers.{layer}"
        tensors[f"{here}.attention.wqkv.weight"] = torch.zeros(1, 1).expand(3 * width, width)
        tensors[f"{here}.attention.wo.weight"] = torch.zeros(1, 1).expand(width, width)
        tensors[f"{here}.feed_forward.w1.weight"] = torch.zeros(1, 1).expand(mlp, width)
        tensors[f"{here}.feed_forward.w3.weight"] = torch.zeros(1, 1).expand(mlp, width)
        tensors[f"{here}.feed_forward.w2.weight"] = torch.zeros(1, 1).expand(width, mlp)
        tensors[f"{here}.attention_norm.weight"] = torch.ones(width)
        tensors[f"{here}.ffn_norm.weight"] = torch.ones(width)
    return {"model": {"name": "llama-abs-S", "args": {**ARGS, "ffn_dim_multiplier": 0.25}, "sd": tensors}}


def written(blob: dict[str, Any], path: Path) -> Path:
    torch.save(blob, path / "ar.pth")
    return path / "ar.pth"


def test_a_good_file_is_read(blob: dict[str, Any], tmp_path: Path) -> None:
    config, state = read_ar_dtok(written(blob, tmp_path))
    assert (config.layers, config.heads, config.hidden_size, config.mlp_size) == (12, 6, 384, 256)
    assert (config.guidance, config.temperature, config.top_k, config.top_p) == (4.0, 1.0, 0, 1.0)
    ARTransformer(config).load_state_dict(state)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("name",), "llama-abs-Q", "model.name is 'llama-abs-Q'; known are llama-abs-S"),
        (("args", "vocab_sise"), 32, "unknown argument 'vocab_sise'.*Did you mean 'vocab_size'"),
        (("args", "vocab_size"), "many", "model.args.vocab_size is 'many'; expected int"),
        (("args", "model_type"), "t2i", "model.args.model_type is 't2i'; only 'clip_cond'"),
        (("args", "max_seq_len"), 15, "codes 15 is not a square"),
        (("args", "cls_token_num"), 5, r"positions has shape \[19, 384\]; expected \[20, 384\]"),
        (("args", "multiple_of"), 0, "describes no AR de-tokenizer"),
        (("sd", "layers.0.extra.weight"), torch.zeros(1), "unknown key 'layers.0.extra.weight'"),
        (("sd", "layers.12.ffn_norm.weight"), torch.ones(384), "blocks.12.mlp_norm.weight, which its arguments"),
        (("sd", "norm.weight"), torch.ones(383), r"norm.weight has shape \[383\]; expected \[384\]"),
        (("sd", "norm.weight"), "text", "'norm.weight' is not a tensor"),
        (("sd", "norm.weight"), torch.ones(384, dtype=torch.int64), "norm.weight is of type torch.int64"),
    ],
)
def test_what_is_not_known_is_named(
    blob: dict[str, Any], tmp_path: Path, place: tuple[str, ...], value: object, named: str
) -> None:
    changed = {"model": copy.copy(blob["model"])}
    target = changed["model"]
    if len(place) == 2:
        target[place[0]] = target = dict(target[place[0]])
    target[place[-1]] = value
    with pytest.raises(WeightsError, match=named):
        read_ar_dtok(written(changed, tmp_path))


def test_a_missing_tensor_is_named(blob: dict[str, Any], tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in blob["model"]["sd"].items() if name != "output.weight"}
    with pytest.raises(WeightsError, match=r"lacks the tensor of logits\.weight"):
        read_ar_dtok(written({"model": {**blob["model"], "sd": tensors}}, tmp_path))


class Trap:
    """An object a pickle could run code with."""


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no file"):
        read_vqgan(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(WeightsError, match=r"text\.pt"):
        read_vqgan(tmp_path / "text.pt")
    torch.save({"model": {"x": Trap()}}, tmp_path / "trap.pt")
    with pytest.raises(WeightsError, match="other than tensors"):
        read_vqgan(tmp_path / "trap.pt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="is not a VQGAN"):
        read_vqgan(tmp_path / "list.pt")


def test_an_unknown_key_of_a_vqgan_is_named(tmp_path: Path) -> None:
    torch.save({"model": {"encoder.surprise": torch.zeros(1)}}, tmp_path / "vq.pt")
    with pytest.raises(WeightsError, match=r"unknown key 'encoder\.surprise'"):
        read_vqgan(tmp_path / "vq.pt")
