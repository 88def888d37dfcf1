"""Published language-model folders: what is read from them, and what is refused by name.

Two shapes exist: a plain Qwen2 folder, and the one the authors' trainer saves (model_type "llava_qwen", with the vision
tower's weights in the same file). Ids of the new tokens are read from the tokenizer and checked, never assumed. The
folder's generation settings are not read at all: they are those of a chat model and would spoil drawing. Code that a
folder brings along (`auto_map`) is never imported; the architecture is ours or it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from opentar.core.bounds import bounded_by
from opentar.core.errors import ConfigError, WeightsError, shown
from opentar.core.foreign import refuse_foreign
from opentar.core.foreign_files import LANGUAGE, SAFETENSORS, of_file
from opentar.core.tensors import check_kind, same_numbers
from opentar.language.model import LanguageConfig
from opentar.language.published_tokenizer import new_tokens, read_json, tokenizer_json
from opentar.language.qwen2 import Qwen2
from opentar.language.tokenizer import TextTokenizer

MODEL_TYPES = ("qwen2", "llava_qwen")
PUBLISHED_GRID = 27
VISION_TOWER = "model.vision_tower."
"""Keys of the authors' trainer that repeat the image tokenizer; it is loaded from its own file."""
_HEAD, _TABLE = "lm_head.weight", "model.embed_tokens.weight"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size"),
    "max_position_embeddings",
)


class PublishedLanguage(NamedTuple):
    """What a published folder holds."""

    config: LanguageConfig
    state: dict[str, Tensor]
    """Qwen2's names; the tensors are mapped from the files, so they cost memory only while they are used."""
    tokenizer: TextTokenizer
    notes: tuple[str, ...] = ()
    """What was left out, one line each."""


def read_llm(folder: str | Path, grid_side: int = PUBLISHED_GRID) -> PublishedLanguage:
    """Read a Qwen2 or llava_qwen folder. Tensors keep their dtype.

    Raises WeightsError for a missing or damaged file, another architecture, new tokens out of order, or a tensor that
    is missing, unknown or of another shape than config.json says.
    """
    folder = Path(folder)
    refuse_foreign(folder, LANGUAGE)
    data = read_json(folder / "config.json")
    _check_architecture(data, folder / "config.json")
    text, added = tokenizer_json(folder)
    tokenizer = TextTokenizer.from_json(text)
    start, codebook_size = new_tokens(added, folder)
    source = _source(folder)
    weights = _weights(folder, source)
    state = weights.state
    _check_places(folder, source, state, bool(data.get("tie_word_embeddings", False)))
    table = state.get(_TABLE)
    if table is None or table.ndim != 2:
        raise WeightsError(f"{folder} holds no table {_TABLE}; it is no Qwen2 language model")
    rope = _rope(data)
    try:
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
            tie=_ties(data, state),
            rope_theta=float(rope["rope_theta"]),
            norm_eps=float(data["rms_norm_eps"]),
            attention="sdpa",
            max_length=data["max_position_embeddings"],
        )
    except ConfigError as error:
        raise WeightsError(f"{folder} describes no language model: {error}") from error
    if config.tie:
        state.pop(_HEAD, None)
    try:
        _check_shapes(config, state, folder)
    except WeightsError as error:
        raise WeightsError(f"{error}; {source.note}" if source.note else error) from error
    return PublishedLanguage(config, state, tokenizer, _notes(data, source, weights, config))


def llm_state(folder: Path, config: LanguageConfig) -> tuple[dict[str, Tensor], dict[str, Path]]:
    """The tensors of a folder that `read_llm` has read and judged, mapped anew, and the file of each."""
    weights = _weights(folder, _source(folder))
    if config.tie:
        weights.state.pop(_HEAD, None)
    return weights.state, weights.files


def _notes(data: Mapping[str, Any], source: _Source, weights: _Weights, config: LanguageConfig) -> tuple[str, ...]:
    notes = [source.note] if source.note else []
    if weights.dropped:
        notes.append(
            f"{weights.dropped} tensors of the vision tower are left out: the image tokenizer has its own file"
        )
    if data.get("tie_word_embeddings") and not config.tie:
        notes.append(
            f"config.json ties the head to the table of words, but {_HEAD} holds other numbers: both are kept, "
            "as transformers does"
        )
    if "auto_map" in data:
        notes.append("config.json names code of its own (auto_map): it is neither read nor run, nor needed")
    return tuple(notes)


def _ties(data: Mapping[str, Any], state: Mapping[str, Tensor]) -> bool:
    """Whether head and table are one. A head that differs is kept whatever config.json says, as in transformers 5."""
    if not data.get("tie_word_embeddings", False):
        return False
    return _HEAD not in state or same_numbers(state[_HEAD], state[_TABLE])


def _check_architecture(data: Mapping[str, Any], path: Path) -> None:
    if data.get("model_type") not in MODEL_TYPES:
        raise WeightsError(
            f"{path}: model_type is {shown(data.get('model_type'))}; known are {' and '.join(MODEL_TYPES)}"
        )
    rope = data.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise WeightsError(f"{path}: rope_parameters is {shown(rope)}; a mapping is expected")
    # Models whose layers differ have one mapping for each kind of layer; ours have one for all.
    nested = any(isinstance(value, Mapping) for value in rope.values())
    unknown = {
        "rope_scaling": data.get("rope_scaling") not in (None, {}),
        "rope_parameters": nested or rope.get("rope_type", "default") != "default",
        "use_sliding_window": bool(data.get("use_sliding_window", False)),
        "hidden_act": data.get("hidden_act", "silu") != "silu",
        "tie_word_embeddings": not isinstance(data.get("tie_word_embeddings"), bool | None),
    }
    for name, strange in unknown.items():
        if strange:
            raise WeightsError(
                f"{path}: {name} = {shown(data[name])} is not supported; remove it or use another folder"
            )
    for name in _SIZES:
        _check_number(data, name, int, path)
    _check_number(data, "rms_norm_eps", float, path)
    _check_number(_rope(data), "rope_theta", float, path)
    if data.get("head_dim") is not None:
        _check_number(data, "head_dim", int, path)


def _rope(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where rope_theta stands: in rope_parameters (transformers 5), or in the config itself."""
    rope = data.get("rope_parameters") or {}
    return rope if "rope_theta" in rope else data


def _check_number(data: Mapping[str, Any], name: str, kind: type, path: Path) -> None:
    if name not in data:
        raise WeightsError(f"{path} lacks {name}; a Qwen2 config has it")
    value = data[name]
    right = isinstance(value, (int, float)) if kind is float else isinstance(value, int)
    if isinstance(value, bool) or not right or not 0 < value < float("inf"):
        raise WeightsError(f"{path}: {name} is {shown(value)}; expected a positive {'whole ' * (kind is int)}number")


class _Source(NamedTuple):
    """Which files of a folder hold its weights."""

    files: list[str]
    places: dict[str, str]
    """tensor -> file, as the index says; empty for a single file"""
    note: str = ""
    """what was not taken, and why"""


class _Weights(NamedTuple):
    """What the files hold."""

    state: dict[str, Tensor]
    files: dict[str, Path]
    """tensor -> file"""
    dropped: int
    """tensors of the vision tower, which are left out"""


def _source(folder: Path) -> _Source:
    """The single file where there is one, as transformers has it; else those that the index names."""
    index, whole = folder / INDEX, (folder / WEIGHTS).is_file()
    if not index.is_file():
        if not whole:
            raise WeightsError(f"{folder} has neither {WEIGHTS} nor {INDEX}; only weights in safetensors are read")
        return _Source([WEIGHTS], {})
    try:
        places = _places(index)
    except WeightsError:
        if not whole:
            raise
        return _Source([WEIGHTS], {}, f"{INDEX} is damaged and not needed: {WEIGHTS} is taken")
    names = sorted(set(places.values()))
    if not whole:
        return _Source(names, places)
    if names == [WEIGHTS]:
        return _Source(names, places)
    gone = [name for name in names if not (folder / name).is_file()]
    if gone:
        return _Source(
            [WEIGHTS], {}, f"{INDEX} is out of date (it names {shown(gone[0])}, which is not there): {WEIGHTS} is taken"
        )
    return _Source(
        [WEIGHTS],
        {},
        f"{WEIGHTS} stands beside {INDEX} and its {len(names)} files: the single file is taken, as transformers does",
    )


def _places(index: Path) -> dict[str, str]:
    wanted = read_json(index).get("weight_map")
    if not isinstance(wanted, dict) or not all(isinstance(name, str) for name in wanted.values()):
        raise WeightsError(f"{index} has no weight_map of names; get the file again")
    for name in sorted(set(wanted.values())):
        if Path(name).name != name or "\\" in name:
            raise WeightsError(f"{index} names {shown(name)}; only files beside it are read")
    return wanted


def _weights(folder: Path, source: _Source) -> _Weights:
    """The tensors of one file or of several, mapped."""
    state: dict[str, Tensor] = {}
    files: dict[str, Path] = {}
    dropped = 0
    for name in source.files:
        path = folder / name
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118, it is no dict
                    if key in state:
                        raise WeightsError(f"{path} repeats {shown(key)} of another file; get the folder again")
                    if key.startswith(VISION_TOWER):
                        dropped += 1
                    else:
                        state[key], files[key] = file.get_tensor(key), path
        except (OSError, SafetensorError) as error:
            found = of_file(path)
            told = f"it is {found.what}; {found.then}" if found and found.kind != SAFETENSORS else error
            raise WeightsError(f"{path} is missing or damaged: {told}") from error
    return _Weights(state, files, dropped)


def _check_places(folder: Path, source: _Source, state: Mapping[str, Tensor], tied: bool) -> None:
    """Every tensor of the index is there; the head of a tied model need not be."""
    for key, name in source.places.items():
        if key not in state and not key.startswith(VISION_TOWER) and not (tied and key == _HEAD):
            raise WeightsError(f"{folder / name} lacks {shown(key)}, which {INDEX} says is there; get the file again")


def _check_shapes(config: LanguageConfig, state: Mapping[str, Tensor], folder: Path) -> None:
    """Compare with a Qwen2 of that config built without memory."""
    with torch.device("meta"), bounded_by([tensor.numel() for tensor in state.values()], str(folder)):
        expected = {name: tuple(tensor.shape) for name, tensor in Qwen2(config).state_dict().items()}
    if config.tie:
        expected.pop(_HEAD, None)
    elif _HEAD not in state:
        raise WeightsError(
            f"{folder} has no {_HEAD}, and config.json does not tie it to the table of words (tie_word_embeddings); "
            "get the folder again, or set it to true if the model was trained so"
        )
    for name, size in expected.items():
        if name not in state:
            raise WeightsError(f"{folder} lacks the tensor {name} {list(size)}; get the folder again")
        if tuple(state[name].shape) != size:
            raise WeightsError(f"{folder}: {name} has shape {list(state[name].shape)}; expected {list(size)}")
        check_kind(folder, name, state[name].dtype)
    for name in state:
        if name not in expected:
            raise WeightsError(f"{folder} has the unknown tensor {shown(name)}; expected those of a Qwen2 only")
