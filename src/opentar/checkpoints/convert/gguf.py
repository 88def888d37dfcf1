"""The language model written as a GGUF file, for llama.cpp and what is built on it.

The file is a plain Qwen2 of llama.cpp with more rows: stock builds load it. Keys that begin with `opentar.` tell where
codes begin, so that a file of another model is not taken for it. Tensors are read where they are mapped, packed and
written piece by piece; no second copy of the model is made, in memory or on the disk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from opentar.checkpoints.convert.gguf_tensors import FILE_TYPES, GGUF_TYPES, GgufType, kind_of, named, packed, packer
from opentar.checkpoints.convert.gguf_tokenizer import GgufTokenizer, gguf_tokenizer
from opentar.checkpoints.convert.qwen2 import chat_template
from opentar.checkpoints.find import find_model
from opentar.checkpoints.model_folder import read_config as read_model_config
from opentar.core.atomic import atomic_file
from opentar.core.disk import check_room
from opentar.core.errors import ConfigError, ModelError, nearest, shown
from opentar.core.folder import folder_hash, read_config
from opentar.core.foreign import MODEL, refuse_foreign
from opentar.core.gguf_header import tensor_bytes
from opentar.core.memory import check_memory
from opentar.core.progress import Progress
from opentar.language.folder import Language, load_language
from opentar.language.gguf_facts import FORMAT, facts
from opentar.nn.llama_library import INSTALL

_ALIGNMENT = 32
_PACKING_BYTES = 200_000_000
"""Memory for the pieces that are being packed."""


@dataclass(frozen=True, kw_only=True)
class GgufReport:
    """What was written."""

    path: Path
    """the file"""
    to: GgufType
    """how its numbers are stored"""
    bytes: int
    """its size"""
    rows: int
    """rows of the embedding table"""
    first_code: int
    """id of the code 0"""
    tokenizer: str
    """"gpt2" where the file holds the tokenizer, "none" where it only takes ids"""
    notes: tuple[str, ...]
    """what is worth knowing, one line each"""


class Source(NamedTuple):
    """A language model that is written, and what is said about it."""

    language: Language
    name: str
    """of the model"""
    hash: str
    """of the model folder"""
    licence: str
    """of the weights"""


def export_gguf(model: str | Path, out: str | Path, *, to: str = "f16", step: Progress | None = None) -> GgufReport:
    """Write the language model of `model` as the GGUF file `out`, which must be new.

    Args:
        model: a bundled name, a model folder, or a language folder alone.
        out: the file; it is there when it is whole.
        to: one of GGUF_TYPES.
        step: called after each tensor.

    Raises:
        ConfigError: an unknown type. ModelError: `model` is unknown, its heads do not fill its width, llama.cpp or the
            package gguf is needed and missing, or too little memory. WeightsError: `model` is damaged, or holds numbers
            that the type cannot. OutputError: `out` exists, or the disk is too small or refuses.
    """
    kind = check_type(to)
    with atomic_file(Path(out)) as unfinished:
        report = write_gguf(unfinished, read_source(find_model(model)), kind, step)
    return GgufReport(**{**report.__dict__, "path": Path(out)})


def check_type(to: str) -> GgufType:
    """`to`, if it is one of GGUF_TYPES, and the package that writes is installed. Raises ConfigError, ModelError."""
    import importlib.util

    for known in GGUF_TYPES:
        if to == known:
            if importlib.util.find_spec("gguf") is None:
                raise ModelError(f"writing GGUF needs the package gguf; install it with: {INSTALL}")
            return known
    raise ConfigError(f"{shown(to)} is no type of GGUF; choose {', '.join(GGUF_TYPES)}.{nearest(to, GGUF_TYPES)}")


def read_source(folder: Path) -> Source:
    """The language model of a model folder, or of a language folder alone, its weights mapped."""
    values = read_config(folder)
    part, name, licence = folder, folder.name, ""
    if "kind" in values:
        config = read_model_config(folder)
        part, name = folder / "language", config.name
        licence = config.part_licences.get("language") or config.licence
    elif "opentar" not in values:
        refuse_foreign(folder, MODEL)
    if read_config(part).get("quantized"):
        raise ModelError(f"{shown(part)} is quantized already; write GGUF of the model that it was made of")
    # int8 is unpacked into float32; everything else stays in its file.
    stored = sum(path.stat().st_size for path in part.glob("*.safetensors"))
    unpacked = 4 * stored if read_config(part).get("storage") == "int8" else 0
    check_memory(f"writing {shown(part)} as GGUF", unpacked + _PACKING_BYTES)
    return Source(load_language(part), name, folder_hash(folder), licence)


def write_gguf(path: Path, source: Source, to: GgufType, step: Progress | None = None) -> GgufReport:
    """Write the file `path`, whose folder is there; see `export_gguf`."""
    import gguf

    model, builder = source.language
    config = model.config
    if config.heads * config.head_size != config.hidden:
        raise ModelError(
            f"llama.cpp runs Qwen2 only where heads fill the width; here {config.heads} heads of {config.head_size} "
            f"stand against a width of {config.hidden}"
        )
    state = named(model.state())
    kinds = {
        name: kind_of(name, tuple(tensor.shape), to, config.layers, tied=config.tie) for name, tensor in state.items()
    }
    by = packer(set(kinds.values()))
    tokenizer = gguf_tokenizer(builder, config.table_rows)
    writer = gguf.GGUFWriter(path, "qwen2")
    _write_keys(writer, source, to)
    notes = _write_tokenizer(writer, source.language, tokenizer)
    sizes = {name: tensor_bytes(kinds[name], tuple(tensor.shape)) for name, tensor in state.items()}
    check_room(path.parent, sum(sizes.values()) + _text_bytes(tokenizer) + (1 << 20))
    for name, tensor in state.items():
        raw = gguf.GGMLQuantizationType(kinds[name])
        writer.add_tensor_info(name, tuple(tensor.shape), tensor_dtype=None, tensor_nbytes=sizes[name], raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    _write_tensors(path, state, kinds, by, step)
    whole = {
        name: kind_of(name, (256,) * tensor.ndim, to, config.layers, tied=config.tie) for name, tensor in state.items()
    }
    if other := sum(kinds[name] != kind for name, kind in whole.items()):
        notes += (f"{other} tensors have rows that are no whole blocks of {to} and are stored in a larger type",)
    return GgufReport(
        path=path,
        to=to,
        bytes=path.stat().st_size,
        rows=config.table_rows,
        first_code=config.vocab.first_code,
        tokenizer="gpt2" if isinstance(tokenizer, GgufTokenizer) else "none",
        notes=notes,
    )


def _write_keys(writer: Any, source: Source, to: GgufType) -> None:
    """Sizes in llama.cpp's keys, and the alphabet in ours."""
    config = source.language.model.config
    writer.add_type("model")
    writer.add_name(source.name)
    writer.add_license(source.licence)
    writer.add_file_type(FILE_TYPES[to])
    writer.add_quantization_version(2)
    writer.add_context_length(config.max_length)
    writer.add_embedding_length(config.hidden)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.mlp)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.table_rows)
    writer.add_uint32("opentar.format", FORMAT)
    for key, number in facts(config).items():
        writer.add_uint32(key, number)
    writer.add_string("opentar.model_hash", source.hash)
    writer.add_string("opentar.licence", source.licence)


def _write_tokenizer(writer: Any, language: Language, tokenizer: GgufTokenizer | str) -> tuple[str, ...]:
    """The tokenizer's keys; returns what is worth knowing."""
    model, builder = language
    if isinstance(tokenizer, str):
        writer.add_tokenizer_model("none")
        return (f"the file holds no tokenizer and takes ids only: {tokenizer}",)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    writer.add_token_merges(tokenizer.merges)
    writer.add_eos_token_id(model.config.end)
    writer.add_pad_token_id(model.config.padding)
    writer.add_add_bos_token(False)
    writer.add_chat_template(chat_template(builder.template.system))
    return ()


def _write_tensors(path: Path, state: dict[str, Tensor], kinds: dict[str, int], by: str, step: Progress | None) -> None:
    """Append the tensors in the order in which the header names them, each at a multiple of the alignment."""
    with path.open("ab") as file:
        file.write(bytes(-file.tell() % _ALIGNMENT))
        for done, (name, tensor) in enumerate(state.items(), 1):
            for piece in packed(name, tensor, kinds[name], by):
                piece.tofile(file)
            file.write(bytes(-file.tell() % _ALIGNMENT))
            if step is not None:
                step("weights", done, len(state))


def _text_bytes(tokenizer: GgufTokenizer | str) -> int:
    """Bytes of the tokenizer, about."""
    texts: Iterable[str] = () if isinstance(tokenizer, str) else (*tokenizer.tokens, *tokenizer.merges)
    return math.ceil(sum(len(text.encode()) + 12 for text in texts))
