"""What a file or a folder really is, where weights were expected: told by its first bytes, its names and its config.

People give what a page or a tool left on their disk: adapters, pointers of git-lfs, web pages, quantized folders, the
right file at the wrong place. Nothing is loaded and nothing is unpickled here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from opentar.core.errors import WeightsError, shown
from opentar.core.foreign_files import (
    AGAIN,
    AR,
    LANGUAGE,
    MODEL,
    NO_COMMAND,
    PARTIAL,
    SANA,
    TA_TOK,
    TORCH,
    VQGAN,
    Found,
    of_file,
)
from opentar.core.headers import read_header

_OTHER_FORMATS: tuple[tuple[str, str], ...] = (
    ("*.gguf", "weights in GGUF (llama.cpp)"),
    ("*.onnx", "a model in ONNX"),
    ("onnx/*.onnx", "a model in ONNX"),
    ("openvino*_model.xml", "a model of OpenVINO"),
    ("tf_model.h5", "weights of TensorFlow"),
    ("flax_model*.msgpack", "weights of Flax"),
    ("*pytorch_model*.bin", "weights in PyTorch's pickle format (.bin)"),
    ("consolidated*.pth", "weights in PyTorch's pickle format"),
    ("optimizer.pt", "the state of a training (optimizer.pt), no weights"),
    ("*.distcp", "the state of a distributed training"),
    ("global_step*/*.pt", "the state of a distributed training"),
)
"""Files that are there where safetensors are not -> what they are"""

_QUANTIZED_NAMES = (
    *(".qweight", ".qzeros", ".scales", ".g_idx", ".weight_scale", ".weight_scale_inv", ".weight_packed"),
    *(".absmax", ".quant_map", ".SCB", ".weight_zero_point"),
)
_QUANTIZED_TYPES = ("I8", "U8", "I4", "U4", "F8_E4M3", "F8_E5M2", "F4")


def refuse_foreign(path: Path, wanted: str) -> None:
    """Raise WeightsError where `path` is known to be something else than the argument `wanted` takes."""
    path = Path(path)
    found = of_folder(path) if path.is_dir() else of_file(path) if path.is_file() else None
    if found is None or found.kind == wanted or (found.kind == TORCH and wanted in (TA_TOK, AR, VQGAN)):
        return
    raise WeightsError(line(path, found))


def line(path: Path, found: Found) -> str:
    """The error line of something that was found."""
    return f"{shown(path)} is {found.what}; {found.then}"


def of_folder(folder: Path) -> Found | None:
    """What a folder is, or None where nothing is known about it."""
    config = _mapping(folder / "config.json")
    if damaged := _damaged_inside(folder):
        return damaged
    if (folder / "adapter_config.json").is_file() and config.get("kind") != "opentar":
        return _adapter(folder)
    if (folder / "model_index.json").is_file():
        return _pipeline(folder)
    if "storage" in config or "opentar" in config or config.get("kind") in ("ar", "flow", "sana"):
        return Found("one part of an OpenTar model", f"give the folder of the whole model, perhaps {shown('..')}")
    if config.get("kind") == "opentar":
        return Found("a whole model of OpenTar", "give it as --model", MODEL)
    if quantized := _quantized(folder, config):
        return quantized
    return _language(folder, config) or _without_weights(folder)


def _mapping(path: Path) -> Mapping[str, Any]:
    """The content of a JSON file; empty where it is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _damaged_inside(folder: Path) -> Found | None:
    """Pointers, web pages and empty files in the place of a folder's own."""
    for path in _files(folder):
        if path.suffix not in (".json", ".safetensors", ".pth", ".pt", ".bin", ".gguf"):
            continue
        found = of_file(path)
        if found is None or found.kind or not found.what.startswith(("a git-lfs", "a web page", "empty")):
            continue
        name = path.relative_to(folder).as_posix()
        return Found(f"a folder whose {shown(name)} is {found.what}", found.then)
    return None


def _files(folder: Path) -> Iterator[Path]:
    """Files in a folder and in the folders of its parts."""
    places = [folder, *(folder / name for name in ("transformer", "vae", "scheduler"))]
    for place in places:
        if place.is_dir():
            yield from (path for path in sorted(place.iterdir()) if path.is_file())


def _adapter(folder: Path) -> Found:
    config = _mapping(folder / "adapter_config.json")
    kind = config.get("peft_type", "LoRA")
    base = config.get("base_model_name_or_path")
    of = f" of {shown(base)}" if base else ""
    return Found(
        f"a PEFT adapter ({kind}{of}), which holds changes to a model and no model",
        f"{NO_COMMAND}: merge it into its base model (peft: merge_and_unload) and give the merged folder",
    )


def _pipeline(folder: Path) -> Found:
    index = _mapping(folder / "model_index.json")
    name = str(index.get("_class_name", "unknown"))
    if "Sana" in str(index.get("transformer")) or "Sana" in name:
        what = f"a diffusers pipeline ({name})"
        return Found(what, "it is a diffusion de-tokenizer: give it to `opentar import tar` as --sana", SANA)
    if not index:
        # Whoever reads it can say what is wrong with it.
        return Found("a diffusers pipeline with a damaged model_index.json", AGAIN, SANA)
    # A folder given as --sana is told in detail, part by part, by the reader of such folders.
    kind = SANA if {"transformer", "vae", "scheduler"} & set(index) and "unet" not in index else ""
    return Found(f"a diffusers pipeline ({name})", f"{NO_COMMAND}: only SANA folders are read", kind)


def _quantized(folder: Path, config: Mapping[str, Any]) -> Found | None:
    """A quantization that the config declares, the tensors show, or both."""
    declared = config.get("quantization_config") or config.get("compression_config") or config.get("quantization")
    marks = list(_quantized_tensors(folder))
    if not declared and not marks:
        return None
    again = "get the folder it was made from, in bfloat16 or float32"
    if not declared:
        name, kind = marks[0]
        return Found(
            f"a folder of quantized tensors ({shown(name)} of type {kind}) whose config.json declares no quantization",
            f"{NO_COMMAND}: {again}",
        )
    method = _method(declared)
    if not marks and any(folder.glob("*.safetensors")):
        return Found(
            f"a folder whose config.json declares a quantization ({method}) that its tensors do not have",
            "remove quantization_config from config.json if these are the whole weights, or get the folder again",
        )
    shows = f", such as {shown(marks[0][0])}" if marks else ""
    return Found(f"a quantized model ({method}{shows})", f"{NO_COMMAND}: {again}")


def _method(declared: Any) -> str:
    if not isinstance(declared, Mapping):
        return shown(declared)
    if "quant_method" in declared:
        return str(declared["quant_method"])
    if declared.get("load_in_4bit") or declared.get("load_in_8bit"):
        return "bitsandbytes"
    return "MLX" if {"group_size", "bits"} <= set(declared) else "of an unknown method"


def _quantized_tensors(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and type of the tensors that no plain model has."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            header = read_header(path)
        except WeightsError:
            # Whoever reads the file says what is wrong with it.
            continue
        for name, tensor in header.items():
            if tensor.dtype in _QUANTIZED_TYPES or name.endswith(_QUANTIZED_NAMES):
                yield name, tensor.dtype


def _language(folder: Path, config: Mapping[str, Any]) -> Found | None:
    """A folder of transformers with safetensors."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or not any(folder.glob("*.safetensors")):
        return None
    if kind in ("qwen2", "llava_qwen"):
        return Found(f"a language model of transformers ({kind})", "give it to `opentar import tar` as --llm", LANGUAGE)
    # Given as --llm, its reader says which types are known.
    return Found(f"a model of transformers ({kind})", f"{NO_COMMAND}: only Qwen2 models of Tar are read", LANGUAGE)


def _without_weights(folder: Path) -> Found | None:
    """What lies in a folder that has no weights that are read."""
    if any(folder.glob("*.safetensors")):
        return None
    waiting = [path.name for path in sorted(folder.rglob("*")) if path.name.endswith(PARTIAL) and path.is_file()]
    if waiting:
        return Found(f"a folder that is partly downloaded ({shown(waiting[0])})", "let the download go on to its end")
    if (folder / "snapshots").is_dir() and (folder / "refs").is_dir():
        return Found("a folder of huggingface_hub's cache", "give the folder below its snapshots/")
    for pattern, what in _OTHER_FORMATS:
        if any(folder.glob(pattern)):
            then = f"{NO_COMMAND}: only weights in safetensors are read; "
            return Found(f"a folder with {what}", then + "get it so, or save it again with transformers")
    if (folder / "transformer").is_dir() or (folder / "vae").is_dir():
        # A pipeline that lacks its model_index.json: its reader says so.
        return None
    checkpoints = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".pth", ".pt", ".ckpt")]
    if checkpoints:
        return Found(f"a folder of checkpoints ({shown(checkpoints[0])})", "give the files to `opentar import tar`")
    return None
