"""A language folder whose weights lie in a GGUF file, for the engine llamacpp.

It holds config.json, the tokenizer and `model.gguf` in the place of safetensors; `storage` in its config.json says how
the numbers are stored.
"""

from __future__ import annotations

import json
from pathlib import Path

from opentar.checkpoints.convert.gguf import GgufReport, Source, check_type, write_gguf
from opentar.checkpoints.convert.gguf_tensors import GgufType
from opentar.core.errors import ConfigError, nearest, shown
from opentar.core.folder import CONFIG, atomic_folder
from opentar.core.progress import Progress
from opentar.language.folder import GGUF_STORAGE, folder_config
from opentar.language.gguf_facts import GGUF_FILE, SOURCE_KEY
from opentar.language.tokenizer import FILE

TARGETS = tuple(GGUF_STORAGE + kind for kind in ("q8_0", "q4_0", "q4_k_m", "f16", "bf16", "f32"))
"""What a language part can become: `gguf-` and how its numbers are stored."""


def write_gguf_part(folder: Path, source: Source, to: str, step: Progress | None = None) -> GgufReport:
    """Write the language folder `folder`, whole or not at all.

    Raises:
        ConfigError: an unknown target. ModelError: the package gguf is missing, or the library for its type.
        WeightsError, OutputError: as `write_gguf`.
    """
    kind = check_target(to)
    model, builder = source.language
    config = folder_config(model.config, builder.template)
    config["opentar"] = config["opentar"] | {SOURCE_KEY: source.hash}
    with atomic_folder(folder) as unfinished:
        report = write_gguf(unfinished / GGUF_FILE, source, kind, step)
        text = json.dumps({**config, "storage": to}, indent=2, ensure_ascii=False)
        (unfinished / CONFIG).write_text(text + "\n", encoding="utf-8")
        (unfinished / FILE).write_text(builder.tokenizer.to_json(), encoding="utf-8")
    return GgufReport(**{**report.__dict__, "path": folder / GGUF_FILE})


def check_target(to: str) -> GgufType:
    """How a target stores its numbers. Raises ConfigError for an unknown one, ModelError without the package gguf."""
    if to not in TARGETS:
        raise ConfigError(f"{shown(to)} is unknown; choose {', '.join(TARGETS)}.{nearest(to, TARGETS)}")
    return check_type(to.removeprefix(GGUF_STORAGE))
