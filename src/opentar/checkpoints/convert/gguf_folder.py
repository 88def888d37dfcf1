"""A model folder whose language model lies in a GGUF file, for the engine llamacpp.

Only the part `language` changes: its folder holds config.json, the tokenizer and `model.gguf` in the place of
safetensors. What is stored how is told by `storage` in its config.json.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

from opentar.checkpoints import model_folder
from opentar.checkpoints.convert.gguf import GgufReport, Source, check_type, read_source, write_gguf
from opentar.checkpoints.convert.gguf_tensors import GgufType
from opentar.checkpoints.convert.qwen2 import Step
from opentar.checkpoints.find import find_model
from opentar.core import folder as checkpoint
from opentar.core.disk import check_room
from opentar.core.errors import ConfigError, OutputError, nearest, shown
from opentar.core.folder import CONFIG, atomic_folder
from opentar.language.folder import GGUF_STORAGE, folder_config
from opentar.language.gguf_facts import GGUF_FILE, SOURCE_KEY
from opentar.language.tokenizer import FILE

TARGETS = tuple(GGUF_STORAGE + kind for kind in ("q8_0", "q4_0", "q4_k_m", "f16", "bf16", "f32"))
"""What a language part can become: `gguf-` and how its numbers are stored."""
_PART = "language"


def quantize_gguf(model: str | Path, out: str | Path, *, to: str, step: Step | None = None) -> GgufReport:
    """Write the model folder `out`: that of `model` with its language model in GGUF; the other parts are copied.

    Args:
        model: a bundled or fetched name, or a model folder.
        out: the new folder; it must not exist or be empty.
        to: one of TARGETS.
        step: called after each tensor.

    Raises:
        ConfigError: an unknown target. OutputError: `out` holds something, or the disk is too small or refuses.
        ModelError, WeightsError: as `export_gguf`; or `model` is damaged.
    """
    check_target(to)
    folder, out = find_model(model), Path(out)
    config = model_folder.read_config(folder)
    checkpoint.verify(folder, remember=True)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise OutputError(f"{shown(out)} exists and is not an empty folder; choose another name")
    files = [name for part in config.parts if part != _PART for name in _files(folder, part)]
    check_room(out, sum((folder / name).stat().st_size for name in files))
    source = read_source(folder)
    with atomic_folder(out) as unfinished:
        report = write_gguf_part(unfinished / _PART, source, to, step)
        for name in files:
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, unfinished / name)
        model_folder.write_config(unfinished, dataclasses.replace(config, name=f"{config.name}-{to}"))
    return GgufReport(**{**report.__dict__, "path": out / _PART / GGUF_FILE})


def write_gguf_part(folder: Path, source: Source, to: str, step: Step | None = None) -> GgufReport:
    """Write the language folder `folder`, whole or not at all; raises as `quantize_gguf`."""
    kind = check_target(to)
    model, builder = source.language
    config = folder_config(model.config, builder.template)
    config["opentar"] = config["opentar"] | {SOURCE_KEY: source.hash}
    with atomic_folder(folder) as stage:
        report = write_gguf(stage / GGUF_FILE, source, kind, step)
        text = json.dumps({**config, "storage": to}, indent=2, ensure_ascii=False)
        (stage / CONFIG).write_text(text + "\n", encoding="utf-8")
        (stage / FILE).write_text(builder.tokenizer.to_json(), encoding="utf-8")
    return GgufReport(**{**report.__dict__, "path": folder / GGUF_FILE})


def check_target(to: str) -> GgufType:
    """How a target stores its numbers. Raises ConfigError for an unknown one, ModelError without the package gguf."""
    if to not in TARGETS:
        raise ConfigError(f"{shown(to)} is unknown; choose {', '.join(TARGETS)}.{nearest(to, TARGETS)}")
    return check_type(to.removeprefix(GGUF_STORAGE))


def _files(folder: Path, part: str) -> list[str]:
    """Files of a part that its manifest names, its manifest among them."""
    return [f"{part}/{name}" for name in checkpoint.saved_files(folder / part)]
