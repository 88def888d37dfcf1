"""The language model written as a plain Qwen2 folder, for transformers and the engines built on its format.

Nothing of OpenTar stays in it: config.json has Qwen2's own fields, the tokenizer lists every image token as an added
token, and the generation settings say no more than where an answer ends. Two things differ in other hands. That
tokenizer makes a real image token of `<I12>` in a text. And transformers 5 takes its own class for Qwen2 whatever the
file says, which composes letters and accents (NFC) although nano's tokenizer does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from opentar.checkpoints.find import find_model
from opentar.checkpoints.model_folder import read_config as read_model_config
from opentar.core.disk import check_room
from opentar.core.errors import ConfigError, OutputError, nearest, shown
from opentar.core.folder import CONFIG, atomic_folder, read_config
from opentar.core.foreign import refuse_foreign
from opentar.core.foreign_files import MODEL
from opentar.core.memory import check_memory
from opentar.core.progress import Progress
from opentar.core.storage import write_tensors
from opentar.language.folder import Language, load_language
from opentar.language.prompt import PromptBuilder
from opentar.language.tokenizer import END_OF_TEXT, FILE, IMAGE_END, IMAGE_START, TURN_END, TURN_START, added_token
from opentar.vocab import POOLS

DTYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
EXPORT_SHARD_BYTES = 2 << 30
"""Tensors of one file, which are held in memory while it is written."""


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written."""

    folder: Path
    """the Qwen2 folder"""
    dtype: str
    """bf16 or fp32"""
    bytes: int
    """size of the tensors"""
    files: tuple[str, ...]
    """files of the weights"""
    rows: int
    """rows of the embedding table"""
    first_new: int
    """id of <im_start>; <im_end>, <S0>..<S2> and the codes follow"""


def export_qwen2(
    model: str | Path,
    out: str | Path,
    *,
    dtype: Literal["bf16", "fp32"] | None = None,
    shard_bytes: int = EXPORT_SHARD_BYTES,
    step: Progress | None = None,
) -> ExportReport:
    """Write the language model of `model` as a Qwen2 folder that AutoModelForCausalLM and AutoTokenizer load.

    Args:
        model: a bundled name, a model folder, or a language folder alone.
        out: the new folder; it must not exist or be empty.
        dtype: "bf16" or "fp32"; None keeps bfloat16 as it is stored and writes everything else as float32.
        shard_bytes: bytes of tensors per file; more than that makes several files and their index.
        step: called after each tensor.

    Raises:
        ModelError, WeightsError, ConfigError: `model` is unknown, damaged or no model, or holds NaN; an unknown dtype;
            too little memory.
        OutputError: `out` holds something, or the disk is too small or refuses.
    """
    out = Path(out)
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype is {shown(dtype)}; choose {' or '.join(DTYPES)}.{nearest(str(dtype), DTYPES)}")
    if shard_bytes < 1:
        raise ConfigError(f"shard_bytes is {shard_bytes}; give at least 1")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise OutputError(f"{shown(out)} exists and is not an empty folder; choose another name")
    part, licence = _language_part(find_model(model))
    _check_memory(part, shard_bytes)
    language = load_language(part)
    kind = DTYPES[dtype] if dtype else _stored_dtype(part)
    state = language.model.state()
    texts = _texts(language, kind, licence)
    total = sum(tensor.numel() for tensor in state.values()) * kind.itemsize
    check_room(out, total + sum(len(text.encode()) for text in texts.values()) + (1 << 20))
    with atomic_folder(out) as unfinished:
        for name, text in texts.items():
            (unfinished / name).write_text(text, encoding="utf-8")
        write_tensors(unfinished, _counted(state, step), str(kind).removeprefix("torch."), shard_bytes)
    return ExportReport(
        folder=out,
        dtype=next(name for name, one in DTYPES.items() if one == kind),
        bytes=total,
        files=tuple(sorted(path.name for path in out.glob("*.safetensors"))),
        rows=language.model.config.table_rows,
        first_new=language.model.vocab.image_start,
    )


def image_tokens(builder: PromptBuilder) -> Iterator[dict[str, Any]]:
    """The added tokens that make a text tokenizer one of words and codes, as tokenizer.json lists them."""
    vocab = builder.vocab
    # Libraries number added tokens one after the other: a gap before <im_start> must have names, too.
    for number in range(builder.tokenizer.size, vocab.image_start):
        yield added_token(number, f"<|unused_{number}|>", special=True)
    yield added_token(vocab.image_start, IMAGE_START, special=True)
    yield added_token(vocab.image_end, IMAGE_END, special=True)
    for index in range(len(POOLS)):
        yield added_token(vocab.scale_token(index), f"<S{index}>", special=False)
    for code in range(vocab.codebook_size):
        yield added_token(vocab.first_code + code, f"<I{code}>", special=False)


def chat_template(system: str | None) -> str:
    """The Jinja form of what `PromptBuilder.conversation` builds; `system` stands first where no message does."""
    turn = f"{{{{- '{TURN_START}' + message.role + '\\n' + message.content + '{TURN_END}\\n' }}}}"
    default = ""
    if system is not None:
        text = json.dumps(system, ensure_ascii=False)
        default = (
            "{%- if messages[0].role != 'system' %}"
            f"{{{{- '{TURN_START}system\\n' + {text} + '{TURN_END}\\n' }}}}"
            "{%- endif %}"
        )
    opened = f"{{%- if add_generation_prompt %}}{{{{- '{TURN_START}assistant\\n' }}}}{{%- endif %}}"
    return f"{default}{{%- for message in messages %}}{turn}{{%- endfor %}}{opened}"


def _language_part(folder: Path) -> tuple[Path, str]:
    """The language folder of a model folder (or `folder` itself, when it is one) and its licence."""
    values = read_config(folder)
    if "kind" not in values:
        if "opentar" not in values:
            refuse_foreign(folder, MODEL)
        return folder, ""
    config = read_model_config(folder)
    return folder / "language", config.part_licences.get("language") or config.licence


def _check_memory(part: Path, shard_bytes: int) -> None:
    """Raise ModelError unless there is memory for one file, and for the numbers where they cannot be mapped."""
    stored = sum(path.stat().st_size for path in part.glob("*.safetensors"))
    # bfloat16 may be written as float32; int8 is unpacked into float32 first.
    unpacked = 4 * stored if read_config(part).get("storage") == "int8" else 0
    check_memory(f"exporting {shown(part)}", unpacked + min(shard_bytes, max(unpacked, 2 * stored)))


def _stored_dtype(part: Path) -> torch.dtype:
    return torch.bfloat16 if read_config(part).get("storage") == "bfloat16" else torch.float32


def _counted(state: Mapping[str, Tensor], step: Progress | None) -> Iterator[tuple[str, Tensor]]:
    """The tensors one by one, each told to `step` when the next is asked for."""
    for done, (name, tensor) in enumerate(state.items(), 1):
        yield name, tensor
        if step is not None:
            step("weights", done, len(state))


def _texts(language: Language, kind: torch.dtype, licence: str) -> dict[str, str]:
    """File name -> content of everything but the weights."""
    model, builder = language
    qwen = {
        **json.loads(model.config.qwen().to_json_string()),
        "architectures": ["Qwen2ForCausalLM"],
        "torch_dtype": str(kind).removeprefix("torch."),
        # Twice, because readers older than rope_parameters know only this one.
        "rope_theta": model.config.rope_theta,
    }
    qwen.pop("dtype", None)
    end, padding = model.config.end, model.config.padding
    generation = {"do_sample": False, "eos_token_id": [end, padding], "pad_token_id": padding}
    tokenizer = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": model.config.max_length,
        "bos_token": None,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template(builder.template.system),
    }
    return {
        CONFIG: _pretty(qwen),
        "generation_config.json": _pretty(generation),
        "tokenizer_config.json": _pretty(tokenizer),
        FILE: builder.tokenizer.to_json(list(image_tokens(builder))),
        "README.md": _card(builder, licence),
    }


def _card(builder: PromptBuilder, licence: str) -> str:
    vocab = builder.vocab
    system = "no system turn" if builder.template.system is None else f'the system text "{builder.template.system}"'
    lengths = ", ".join(f"{scale.length} after `<S{scale.index}>`" for scale in vocab.scales)
    spelling = (
        "- It learned one spelling: small letters (sentences and questions begin with a capital), single spaces, no\n"
        "  hyphens between words. OpenTar brings prompts into it; other programs must do so themselves.\n"
    )
    spelling = spelling if builder.template.fold else ""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
---

# A language model of words and pictures

A plain Qwen2 model with image tokens, written by OpenTar (`opentar export qwen2`). It loads with transformers'
`AutoModelForCausalLM` and `AutoTokenizer` and with engines that read this format, without code of its own.

| ids | tokens |
|---|---|
| {vocab.image_start}, {vocab.image_end} | `<im_start>`, `<im_end>` |
| {vocab.scale_token(0)} to {vocab.scale_token(2)} | `<S0>`, `<S1>`, `<S2>` |
| {vocab.first_code} to {vocab.size - 1} | `<I0>` to `<I{vocab.codebook_size - 1}>` |

- Prompts are in the chat form with {system}; the chat template is in the folder.
{spelling}- Reading: the codes of a picture stand bare in the user turn, then a line end and the question.
- Drawing: the assistant turn begins with `<im_start><S2>` (or another scale), then codes alone may be chosen, as many
  as the grid has: {lengths}. Codes become a picture with the other parts of the model.
- The tokenizer turns `<I12>` in a text into an image token. Texts of strangers must be encoded without added tokens.

Licence of the weights: {licence or "not stated"}.
"""


def _pretty(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"
