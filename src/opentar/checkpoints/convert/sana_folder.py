"""A published SANA folder: checked by name, shape and setting without loading it, and written as a part of a model.

The transformer, the autoencoder and the scheduler are taken over; the negative features leave their pickle. The text
encoder and the tokenizer are not even looked at, and neither is any code that lies in the folder.
"""

from __future__ import annotations

import inspect
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from opentar.core.bounds import bounded_by
from opentar.core.config import to_dict
from opentar.core.errors import OpenTarError, WeightsError, nearest, shown
from opentar.core.foreign import refuse_foreign
from opentar.core.foreign_files import SANA
from opentar.core.storage import write_tensors
from opentar.core.tensors import check_kind, check_numbers, check_plain, copy_checked, each_tensor_of
from opentar.core.torch_files import read_torch_file
from opentar.tokens_to_image.detokenizer import write_settings
from opentar.tokens_to_image.sana import SanaConfig
from opentar.tokens_to_image.sana_parts import (
    CLASSES,
    CONFIGS,
    NEGATIVE_NAME,
    NEGATIVE_PICKLE,
    STEM,
    check_numbers_of,
    class_of,
    diffusers_library,
    read_json,
)

WEIGHTS, INDEX = f"{STEM}.safetensors", f"{STEM}.safetensors.index.json"


class PublishedSana(NamedTuple):
    """What a published SANA folder holds."""

    folder: Path
    image_size: int
    """Side of the pictures its transformer was trained at."""
    feature_size: int
    """Width of the features it takes."""
    classes: dict[str, str]
    """transformer, vae, scheduler -> class of diffusers"""
    configs: dict[str, dict[str, Any]]
    """transformer, vae, scheduler -> config"""
    files: dict[str, tuple[str, ...]]
    """transformer, vae -> names of its weights files"""
    tensors: dict[str, dict[str, tuple[tuple[int, ...], torch.dtype]]]
    """transformer, vae -> name of a tensor -> its shape and type"""
    negative_LD: Tensor | None
    """Features of "no condition", float32."""
    notes: tuple[str, ...]
    """What is left out or missing, one line each."""


def read_sana(folder: str | Path) -> PublishedSana:
    """Check a published SANA folder; of the numbers only the negative features are read.

    Raises:
        ModelError: diffusers is not installed.
        WeightsError: a part is missing, damaged or of another class, or a setting, a tensor or a shape is not known.
    """
    folder = Path(folder)
    refuse_foreign(folder, SANA)
    index = read_json(folder / "model_index.json")
    classes = {name: class_of(index, name, folder) for name in CONFIGS}
    configs = {name: _config(folder, name, classes[name]) for name in classes}
    sources = {name: _weight_files(folder / name) for name in CLASSES}
    files = {name: source.files for name, source in sources.items()}
    tensors = {name: _headers(folder / name, files[name]) for name in CLASSES}
    built = {}
    for name in CLASSES:
        with bounded_by([math.prod(shape) for shape, _ in tensors[name].values()], shown(folder / name)):
            built[name] = _built(classes[name], configs[name], folder / name)
    for name in CLASSES:
        expected = {key: tuple(tensor.shape) for key, tensor in built[name].state_dict().items()}
        _check_tensors(folder / name, tensors[name], expected)
    _check_scheduler(classes["scheduler"], configs["scheduler"], folder / "scheduler" / CONFIGS["scheduler"])
    width = built["transformer"].config.caption_channels
    given, taken = built["transformer"].config.in_channels, built["vae"].config.latent_channels
    if given != taken:
        raise WeightsError(f"{folder}: the transformer paints {given} channels, the vae takes {taken}; get it again")
    factor = 2 ** (len(built["vae"].config.encoder_block_out_channels) - 1)
    negative_LD = _negative(folder, width)
    return PublishedSana(
        folder=folder,
        image_size=built["transformer"].config.sample_size * factor,
        feature_size=width,
        classes=classes,
        configs=configs,
        files=files,
        tensors=tensors,
        negative_LD=negative_LD,
        notes=(*(one.note for one in sources.values() if one.note), *_notes(folder, configs, negative_LD)),
    )


def check_sana(sana: PublishedSana, storage: str | None) -> None:
    """Read every number of the folder, one tensor at a time; `storage` is that of `write_sana`.

    Raises:
        WeightsError: a tensor holds NaN, infinity or what its type will not hold, or cannot be read.
    """
    for name in CLASSES:
        for _ in _each(sana, name, storage):
            pass


def write_sana(sana: PublishedSana, unfinished: Path, storage: str | None) -> Iterator[int]:
    """Write the part into the empty folder `unfinished`; yields the number of tensors done after each step.

    Args:
        sana: what `read_sana` returned; numbers are checked on their way, as `check_sana` does.
        unfinished: an unfinished folder (`atomic_folder`).
        storage: "float32" or "bfloat16" converts every number; None copies the files as they are.

    Raises:
        WeightsError: a tensor cannot be read, or holds what `check_sana` refuses.
        OSError: the disk refuses.
    """
    done = 0
    for name in CLASSES:
        (unfinished / name).mkdir()
        if storage is not None:
            write_tensors(unfinished / name, _each(sana, name, storage), storage, stem=STEM)
            done += len(sana.tensors[name])
            yield done
            continue
        for file in sana.files[name]:
            source = sana.folder / name / file
            kinds = {key: kind for key, (_, kind) in sana.tensors[name].items()}
            for _ in copy_checked(source, unfinished / name / file, kinds, _check_of(source, name, storage)):
                done += 1
                yield done
        if sana.files[name] != (WEIGHTS,):
            shutil.copyfile(sana.folder / name / INDEX, unfinished / name / INDEX)
    if sana.negative_LD is not None:
        write_tensors(unfinished, {NEGATIVE_NAME: sana.negative_LD}, "float32", stem=NEGATIVE_NAME)
    (unfinished / "scheduler").mkdir()
    for name, file in CONFIGS.items():
        _write_json(unfinished / name / file, sana.configs[name])
    parts = {name: ["diffusers", kind] for name, kind in sorted(sana.classes.items())}
    _write_json(unfinished / "model_index.json", {"_class_name": "SanaPipeline", "text_encoder": [None, None], **parts})
    write_settings(unfinished, "sana", to_dict(SanaConfig()))


def _config(folder: Path, name: str, kind: str) -> dict[str, Any]:
    """The config of a part, with settings that its class knows only."""
    path = folder / name / CONFIGS[name]
    config = read_json(path)
    if config.get("_class_name", kind) != kind:
        raise WeightsError(f"{path} is of a {shown(config['_class_name'])}; model_index.json says {kind}")
    known = list(_defaults(kind))
    for key in config:
        # `auto_map` would name code of the folder; a leading underscore marks remarks of diffusers.
        if key not in known and not key.startswith("_") and key != "auto_map":
            raise WeightsError(
                f"{path} has the unknown setting {shown(key)}; {kind} of the installed diffusers knows "
                f"{', '.join(known)}.{nearest(key, known)}"
            )
    check_numbers_of(name, config, path)
    return config


def _defaults(kind: str) -> dict[str, Any]:
    """The settings that a class of diffusers knows, with their defaults."""
    signature = inspect.signature(getattr(diffusers_library(), kind).__init__)
    return {name: setting.default for name, setting in signature.parameters.items() if name != "self"}


class _Source(NamedTuple):
    """Which files of a part hold its weights."""

    files: tuple[str, ...]
    note: str = ""
    """what was not taken, and why"""


def _weight_files(folder: Path) -> _Source:
    """Those that the index names, as diffusers has it; the single file where the index is out of date or absent."""
    whole = (folder / WEIGHTS).is_file()
    if not (folder / INDEX).is_file():
        if not whole:
            raise WeightsError(f"{folder} has no {WEIGHTS}; only weights in safetensors are read")
        return _Source((WEIGHTS,))
    files = read_json(folder / INDEX).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise WeightsError(f"{folder / INDEX} has no weight_map of names; get the file again")
    names = tuple(sorted(set(files.values())))
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise WeightsError(f"{folder / INDEX} names {shown(name)}; only safetensors files beside it are read")
    if not whole or WEIGHTS in names:
        return _Source(names)
    gone = [name for name in names if not (folder / name).is_file()]
    if gone:
        return _Source(
            (WEIGHTS,),
            f"{folder.name}/{INDEX} is out of date (it names {shown(gone[0])}, which is not there): {WEIGHTS} is taken",
        )
    return _Source(
        names,
        f"{folder.name}/{WEIGHTS} stands beside {INDEX}: the {len(names)} files of the index are taken, "
        "as diffusers does",
    )


def _headers(folder: Path, names: tuple[str, ...]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for name in names:
        try:
            with safe_open(folder / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118, it is no dict
                    # Mapped from the disk: looking at a tensor reads nothing.
                    tensor = file.get_tensor(key)
                    found[key] = tuple(tensor.shape), tensor.dtype
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{folder / name} is missing or damaged: {error}") from error
    return found


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_") and key != "auto_map"}


def _built(kind: str, config: Mapping[str, Any], where: Path) -> Any:
    """A part of that config without memory for its numbers."""
    try:
        with torch.device("meta"):
            return getattr(diffusers_library(), kind)(**_settings(config))
    except OpenTarError:
        raise
    except Exception as error:
        # diffusers checks few settings itself, so a wrong one fails anywhere inside.
        reason = str(error).split("\n")[0][:120]
        raise WeightsError(f"the config in {where} describes no {kind}: {reason}; get the folder again") from error


def _check_scheduler(kind: str, config: Mapping[str, Any], path: Path) -> None:
    """Refuse settings that fail while drawing; the one at fault is that whose default mends it."""
    settings = _settings(config)
    reason = _failure(kind, settings)
    if not reason:
        return
    defaults = _defaults(kind)
    for name, value in settings.items():
        default = defaults[name]
        if default is not inspect.Parameter.empty and not _failure(kind, {**settings, name: default}):
            raise WeightsError(
                f"{path}: {name} is {shown(value)}, with which {kind} cannot draw ({reason}); "
                f"expected a value such as {shown(default)}, its default"
            )
    raise WeightsError(f"{path}: {kind} cannot draw with these settings ({reason}); get the folder again")


def _failure(kind: str, settings: Mapping[str, Any]) -> str:
    """Why a scheduler of those settings draws nothing in the usual steps; empty when it draws."""
    latents_BChw = torch.ones(1, 1, 2, 2)
    try:
        # A trial is no occasion for the warnings of a library.
        with warnings.catch_warnings(action="ignore"):
            scheduler = getattr(diffusers_library(), kind)(**settings)
            scheduler.set_timesteps(SanaConfig().steps, device="cpu")
            for time in scheduler.timesteps:
                latents_BChw = scheduler.step(torch.ones(1, 1, 2, 2), time, latents_BChw, return_dict=False)[0]
    except Exception as error:
        # As where a part is built: a wrong setting fails anywhere inside.
        return (str(error).split("\n")[0] or type(error).__name__)[:120]
    return "" if torch.isfinite(latents_BChw).all() else "its steps give NaN or infinity"


def _check_tensors(
    where: Path, given: Mapping[str, tuple[tuple[int, ...], torch.dtype]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    for name, size in expected.items():
        if name not in given:
            raise WeightsError(f"{where} lacks the tensor {name} {list(size)}; get the folder again")
        shape, dtype = given[name]
        if shape != size:
            raise WeightsError(f"{where}: {name} has shape {list(shape)}; expected {list(size)}")
        check_kind(where, name, dtype)
    for name in given:
        if name not in expected:
            raise WeightsError(f"{where} has the unknown tensor {shown(name)}{nearest(name, expected)}; get it again")


def _negative(folder: Path, width: int) -> Tensor | None:
    path = folder / NEGATIVE_PICKLE
    if not path.is_file():
        return None
    table = read_torch_file(path, "the negative features", NEGATIVE_PICKLE)
    if isinstance(table, Tensor):
        check_plain(path, NEGATIVE_NAME, table)
    if isinstance(table, Tensor) and table.ndim == 3 and len(table) == 1:
        table = table[0]
    if not isinstance(table, Tensor) or table.ndim != 2 or table.shape[1] != width or not len(table):
        found = list(table.shape) if isinstance(table, Tensor) else type(table).__name__
        raise WeightsError(f"{path} holds {found}; expected one tensor (length, {width})")
    # The features go through bfloat16 when they are used.
    check_numbers(path, NEGATIVE_NAME, table, torch.bfloat16)
    return table.float().clone()


def _notes(folder: Path, configs: Mapping[str, Mapping[str, Any]], negative_LD: Tensor | None) -> tuple[str, ...]:
    notes = []
    left = [name for name in ("text_encoder", "tokenizer") if (folder / name).exists()]
    if left:
        notes.append(f"{' and '.join(left)} left out: the features of TA-Tok stand in place of a text")
    if negative_LD is None:
        notes.append(f"{folder.name} has no {NEGATIVE_PICKLE}, so it can only be drawn with without guidance")
    if any("auto_map" in config for config in configs.values()):
        notes.append("a config names code of its own (auto_map): it is neither read nor run, nor needed")
    return tuple(notes)


def _each(sana: PublishedSana, name: str, storage: str | None) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a part, file by file, each checked when it is asked for."""
    for file in sana.files[name]:
        source = sana.folder / name / file
        check = _check_of(source, name, storage)
        for key, tensor in each_tensor_of(source):
            check(key, tensor)
            yield key, tensor


def _check_of(source: Path, name: str, storage: str | None) -> Callable[[str, Tensor], None]:
    # Whatever it is stored as, the transformer runs on weights rounded to bfloat16.
    narrow = storage == "bfloat16" or name == "transformer"
    return lambda key, tensor: check_numbers(source, key, tensor, torch.bfloat16 if narrow else torch.float32)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    kept = {key: value for key, value in content.items() if key != "auto_map"}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
