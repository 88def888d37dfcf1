"""Published language-model folders: what is read from them, and what is refused by name.

Two shapes exist: a plain Qwen2 folder, and the one the authors' trainer saves (model_type "llava_qwen", with the vision
tower's weights in the same file). Ids of the new tokens are read from the tokenizer and checked, never assumed. The
folder's generation settings are not read at all: they are those of a chat model and would spoil drawing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from opentar.core.errors import WeightsError
from opentar.language.model import LanguageConfig
from opentar.language.tokenizer import FILE, TextTokenizer
from opentar.vocab import POOLS

MODEL_TYPES = ("qwen2", "llava_qwen")
PUBLISHED_GRID = 27
VISION_TOWER = "model.vision_tower."
"""Keys of the authors' trainer that repeat the image tokenizer; it is loaded from its own file."""


class PublishedLanguage(NamedTuple):
    """What a published folder holds."""

    config: LanguageConfig
    state: dict[str, Tensor]
    tokenizer: TextTokenizer


def read_llm(folder: str | Path, grid_side: int = PUBLISHED_GRID) -> PublishedLanguage:
    """Read a Qwen2 or llava_qwen folder. Tensors keep their dtype.

    Raises WeightsError for a missing or damaged file, another architecture, or new tokens out of order.
    """
    folder = Path(folder)
    data = _json(folder / "config.json")
    _check_architecture(data, folder / "config.json")
    tokenizer = TextTokenizer.load(folder)
    start, codebook_size = _new_tokens(folder)
    state = _weights(folder)
    table = state.get("model.embed_tokens.weight")
    if table is None:
        raise WeightsError(f"{folder} holds no model.embed_tokens.weight; it is no Qwen2 language model")
    rope = data.get("rope_parameters") or data
    config = LanguageConfig(
        text_size=tokenizer.size,
        codebook_size=codebook_size,
        grid_side=grid_side,
        text_pieces=tokenizer.pieces,
        first_new=start,
        rows=table.shape[0],
        hidden=data["hidden_size"],
        layers=data["num_hidden_layers"],
        heads=data["num_attention_heads"],
        kv_heads=data["num_key_value_heads"],
        head_size=data.get("head_dim") or data["hidden_size"] // data["num_attention_heads"],
        mlp=data["intermediate_size"],
        tie=bool(data.get("tie_word_embeddings", False)),
        rope_theta=float(rope["rope_theta"]),
        norm_eps=data["rms_norm_eps"],
        attention="sdpa",
        max_length=data["max_position_embeddings"],
    )
    if config.tie:
        state.pop("lm_head.weight", None)
    return PublishedLanguage(config, state, tokenizer)


def _check_architecture(data: Mapping[str, Any], path: Path) -> None:
    if data.get("model_type") not in MODEL_TYPES:
        raise WeightsError(f"{path}: model_type is {data.get('model_type')!r}; known are {' and '.join(MODEL_TYPES)}")
    rope = data.get("rope_parameters") or {}
    unknown = {
        "rope_scaling": data.get("rope_scaling") not in (None, {}),
        "rope_parameters": rope.get("rope_type", "default") != "default",
        "use_sliding_window": bool(data.get("use_sliding_window", False)),
        "hidden_act": data.get("hidden_act", "silu") != "silu",
    }
    for name, strange in unknown.items():
        if strange:
            raise WeightsError(f"{path}: {name} = {data[name]!r} is not supported; remove it or use another folder")
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    for name in (*needed, "rms_norm_eps", "max_position_embeddings"):
        if name not in data:
            raise WeightsError(f"{path} lacks {name}; a Qwen2 config has it")
    if "rope_theta" not in data and "rope_theta" not in rope:
        raise WeightsError(f"{path} lacks rope_theta; a Qwen2 config has it")


def _new_tokens(folder: Path) -> tuple[int, int]:
    """(id of <im_start>, number of codes), after checking that boundaries, scales and codes stand in one run."""
    path = folder / FILE
    ids = {entry["content"]: entry["id"] for entry in _json(path).get("added_tokens", [])}
    if "<im_start>" not in ids:
        raise WeightsError(f"{path} has no <im_start>; this folder was not extended with image codes")
    start = int(ids["<im_start>"])
    codes = sum(1 for name in ids if name.startswith("<I") and name[2:-1].isdigit())
    expected = [
        "<im_start>",
        "<im_end>",
        *(f"<S{pool - 1}>" for pool in POOLS),
        *(f"<I{code}>" for code in range(codes)),
    ]
    for place, name in enumerate(expected):
        if ids.get(name) != start + place:
            raise WeightsError(f"{path}: {name} has id {ids.get(name)}; in the published order it is {start + place}")
    return start, codes


def _weights(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    names = sorted(set(_json(index)["weight_map"].values())) if index.exists() else ["model.safetensors"]
    state: dict[str, Tensor] = {}
    for name in names:
        if Path(name).name != name:
            raise WeightsError(f"{index} names {name!r}; only files beside it are read")
        try:
            with safe_open(folder / name, framework="pt") as file:
                keys = [key for key in file.keys() if not key.startswith(VISION_TOWER)]  # noqa: SIM118, it is no dict
                state |= {key: file.get_tensor(key) for key in keys}
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{folder / name} is missing or damaged: {error}") from error
    return state


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is missing or damaged: {error}") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{path} is damaged: it must hold a JSON object")
    return data
