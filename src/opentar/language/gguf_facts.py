"""What a GGUF file says about its alphabet, and whether it is that of a config. Where codes begin is never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opentar.core.errors import WeightsError, shown
from opentar.core.gguf_header import GgufHeader
from opentar.language.model import LanguageConfig

GGUF_FILE = "model.gguf"
"""Its name in a language folder."""
SOURCE_KEY = "gguf_source"
"""Key of such a folder's config.json, under "opentar": hash of the model that the file was made of."""
FORMAT = 1
"""Version of the keys `opentar.*`."""
_WRITE = "write it with `opentar export gguf` or `opentar quantize`"


def facts(config: LanguageConfig) -> dict[str, int]:
    """The alphabet in keys of a GGUF file."""
    return {
        "opentar.text_size": config.text_size,
        "opentar.text_pieces": config.pieces,
        "opentar.image_start": config.vocab.image_start,
        "opentar.first_code": config.vocab.first_code,
        "opentar.codebook_size": config.codebook_size,
        "opentar.grid_side": config.grid_side,
    }


def check_facts(path: Path, header: GgufHeader, config: LanguageConfig, source: str | None = None) -> None:
    """Raise WeightsError unless the file is a Qwen2 with the alphabet and the sizes of `config`.

    `source`: the hash of the model it must have been made of; None takes any.
    """
    values, name = header.values, shown(path)
    if values.get("general.architecture") != "qwen2":
        kind = shown(values.get("general.architecture"))
        raise WeightsError(f"{name} holds a model of the kind {kind}; only qwen2 is run")
    if "opentar.first_code" not in values:
        raise WeightsError(f"{name} says nothing of image codes: it is another program's, or not extended; {_WRITE}")
    if values.get("opentar.format") != FORMAT:
        raise WeightsError(f"{name} has opentar.format {shown(values.get('opentar.format'))} where {FORMAT} is read")
    if source is not None and values.get("opentar.model_hash") != source:
        raise WeightsError(
            f"{name} was made of the model {shown(values.get('opentar.model_hash'))}, this folder of {source}; "
            "get the folder again"
        )
    expected = facts(config) | {
        "qwen2.context_length": config.max_length,
        "qwen2.embedding_length": config.hidden,
        "qwen2.block_count": config.layers,
        "qwen2.feed_forward_length": config.mlp,
        "qwen2.attention.head_count": config.heads,
        "qwen2.attention.head_count_kv": config.kv_heads,
    }
    wrong = _difference(expected, values)
    if wrong:
        raise WeightsError(f"{name} is the language model of another model: {wrong}; get the folder again")
    _check_tensors(path, header, config)


def _difference(expected: Mapping[str, int], values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} is {shown(values.get(key))} instead of {number}"
        for key, number in expected.items()
        if values.get(key) != number
    )


def _check_tensors(path: Path, header: GgufHeader, config: LanguageConfig) -> None:
    """Names and shapes: what is missing or misshapen would end the program that runs them."""
    wide, narrow = config.heads * config.head_size, config.kv_heads * config.head_size
    block = {
        "attn_norm.weight": (config.hidden,),
        "attn_q.weight": (wide, config.hidden),
        "attn_q.bias": (wide,),
        "attn_k.weight": (narrow, config.hidden),
        "attn_k.bias": (narrow,),
        "attn_v.weight": (narrow, config.hidden),
        "attn_v.bias": (narrow,),
        "attn_output.weight": (config.hidden, wide),
        "ffn_norm.weight": (config.hidden,),
        "ffn_gate.weight": (config.mlp, config.hidden),
        "ffn_up.weight": (config.mlp, config.hidden),
        "ffn_down.weight": (config.hidden, config.mlp),
    }
    wanted = {f"blk.{layer}.{name}": shape for layer in range(config.layers) for name, shape in block.items()}
    wanted |= {"token_embd.weight": (config.table_rows, config.hidden), "output_norm.weight": (config.hidden,)}
    if not config.tie:
        wanted["output.weight"] = (config.table_rows, config.hidden)
    found = {name: tensor.shape for name, tensor in header.tensors.items()}
    for name in sorted(set(wanted) | set(found)):
        if wanted.get(name) != found.get(name):
            raise WeightsError(
                f"{shown(path)}: tensor {shown(name)} is {found.get(name, 'missing')} "
                f"where {wanted.get(name, 'none')} is expected; get the file again"
            )
