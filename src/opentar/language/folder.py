"""Our own language folder: one that OpenTar reads with its alphabet, and that also is a plain Qwen2 folder.

config.json holds transformers' fields and, under "opentar", ours; the weights carry Qwen2's own names. Stored as
float32 or bfloat16 (int8 is OpenTar's own), the folder therefore loads in transformers and in the engines built on
its format, without remote code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from opentar.core.config import from_dict, to_dict
from opentar.core.errors import ModelError, WeightsError, shown
from opentar.core.folder import load_packed, load_part, read_config, save_part, standing
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.language.prompt import ChatTemplate, PromptBuilder
from opentar.language.tokenizer import FILE, SPECIALS, TextTokenizer
from opentar.nn.half import halve
from opentar.nn.quantized import swap

if TYPE_CHECKING:
    from opentar.core.quantization import Packed
    from opentar.core.storage import LoadDtype

FINE = ("q_proj", "k_proj", "v_proj")
"""int8 layers whose input keeps 16 bits: rounding it to 8 here costs half of what int8 costs in perplexity, and these
are the smallest layers (docs/lab.md)."""
GGUF_STORAGE = "gguf-"
"""How the storage of a folder begins whose weights lie in a GGUF file (gguf_facts.py)."""
ENGINE_KEY = "engine"
"""Key of config.json, under "opentar": what the folder was made to be run by, where that is not PyTorch."""


class Language(NamedTuple):
    """A model and the builder of its sequences (which holds the tokenizer and the alphabet)."""

    model: TarLanguageModel
    builder: PromptBuilder


def save_language(
    folder: str | Path, model: TarLanguageModel, builder: PromptBuilder, storage: str = "float32"
) -> None:
    """Write weights, config, tokenizer and template. `storage`: float32, bfloat16 or int8 (see core/folder.py)."""
    extra = {FILE: builder.tokenizer.to_json().encode("utf-8")}
    save_part(Path(folder), folder_config(model.config, builder.template), model.state(), storage, extra)


def folder_config(config: LanguageConfig, template: ChatTemplate) -> dict[str, Any]:
    """config.json of a language folder: transformers' fields, and ours under "opentar"."""
    return {
        **json.loads(config.qwen().to_json_string()),
        "architectures": ["Qwen2ForCausalLM"],
        "opentar": {"language": to_dict(config), "template": to_dict(template)},
    }


def load_language(folder: str | Path, dtype: LoadDtype = "stored", builder: PromptBuilder | None = None) -> Language:
    """Read what `save_language` wrote, in eval mode.

    `dtype` "stored" maps the weights as they lie there; float16 halves the weights and runs the rest in float32
    (nn/half.py); "packed", for a quantized folder, computes with them as they are (nn/quantized.py). `builder` is the
    folder's own where it was loaded before.

    Raises WeightsError for a damaged folder or a tokenizer that does not fit, ConfigError for an unknown key.
    """
    folder = standing(Path(folder))
    if str(read_config(folder).get("storage")).startswith(GGUF_STORAGE):
        raise ModelError(f"{shown(folder)} holds a GGUF file, which PyTorch does not run; use the engine llamacpp")
    packed: dict[str, Packed] = {}
    if dtype == "packed":
        data, state, packed = load_packed(folder)
    else:
        # float16 is made of the loaded model: not every number may become it.
        data, state = load_part(folder, "stored" if dtype == torch.float16 else dtype)
    config, builder = _described(folder, data) if builder is None else (_ours(folder, data)[0], builder)
    model = TarLanguageModel.from_state(config, state, where=str(folder))
    if packed:
        if config.tie and "model.embed_tokens.weight" in packed:
            packed["lm_head.weight"] = packed["model.embed_tokens.weight"]
        # Ranges that are asked for: texts, codes.
        swap(model.qwen, packed, str(folder), {"lm_head": (config.text_size, config.vocab.first_code)}, FINE)
    if dtype == torch.float16:
        del state
        halve(model, str(folder))
    return Language(model, builder)


def made_for(folder: str | Path) -> str | None:
    """What a language folder was made to be run by, where its config.json says it."""
    ours = read_config(standing(Path(folder))).get("opentar")
    found = ours.get(ENGINE_KEY) if isinstance(ours, dict) else None
    return found if isinstance(found, str) else None


def language_config(folder: str | Path) -> LanguageConfig:
    """Sizes and alphabet of a language folder, of any storage, without its weights. Raises as `load_language`."""
    folder = standing(Path(folder))
    return _ours(folder, read_config(folder))[0]


def load_builder(folder: str | Path) -> PromptBuilder:
    """The builder of sequences of a language folder, of any storage, without its weights. Raises as `load_language`.

    The folder must have been verified.
    """
    folder = standing(Path(folder))
    return _described(folder, read_config(folder))[1]


def _described(folder: Path, data: dict[str, Any]) -> tuple[LanguageConfig, PromptBuilder]:
    """What config.json and the tokenizer say."""
    config, template = _ours(folder, data)
    tokenizer = TextTokenizer.load(folder)
    check_tokenizer(config, tokenizer)
    return config, PromptBuilder(tokenizer, config.vocab, template, config.max_length)


def _ours(folder: Path, data: dict[str, Any]) -> tuple[LanguageConfig, ChatTemplate]:
    ours = data.get("opentar")
    if not isinstance(ours, dict) or not isinstance(ours.get("language"), dict):
        raise WeightsError(f"{folder} is no OpenTar language folder: its config.json has no opentar.language")
    config = from_dict(LanguageConfig, ours["language"], "opentar.language")
    return config, from_dict(ChatTemplate, ours.get("template", {}), "opentar.template")


def check_tokenizer(config: LanguageConfig, tokenizer: TextTokenizer) -> None:
    """Raise WeightsError unless the tokenizer's ids are those that the model was built for."""
    expected = (config.text_size, config.pieces, *(config.pieces + place for place in range(len(SPECIALS))))
    given = (tokenizer.size, tokenizer.pieces, *(tokenizer.special(name) for name in SPECIALS))
    if given != expected:
        raise WeightsError(f"{FILE} has (size, pieces, specials) = {given}; the model expects {expected}")
