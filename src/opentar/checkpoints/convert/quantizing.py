"""A model folder with quantized weights, made part by part; one tensor is unpacked and one file held at a time.

| part | int8 | int4 |
|---|---|---|
| language | layers and table int8 | layers int4 (for OpenVINO int4z); keys, values and table int8 |
| language of a target in GGUF | one file for llama.cpp | the same |
| language of a target for OpenVINO | as above; config.json says who runs it | the same |
| detok_ar, transformer | layers and table int8 | layers int4, head and table int8 |
| ta_tok, vision tower and feature decoder | layers int8 | layers int8 |
| ta_tok, codebook and the layers before it; canvases, flow, SANA | as they are | as they are |

Beside a quantized GGUF and weights for OpenVINO the other parts are those of int8; beside f32, f16 and bf16 they stay
as they are.
Norms, biases and positions are always as they are. 4-bit layers whose width no group divides are int8. A rounded
codebook would move codes, and rounded autoencoders show in every picture.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from opentar.checkpoints import model_folder
from opentar.checkpoints.convert import gguf_folder
from opentar.checkpoints.convert.calibrating import calibrated_language
from opentar.checkpoints.convert.gguf import read_source
from opentar.core.config import from_dict
from opentar.core.disk import check_room
from opentar.core.errors import ConfigError, ModelError, OutputError, WeightsError, nearest, shown
from opentar.core.folder import (
    CONFIG,
    MANIFEST,
    atomic_folder,
    is_quantized,
    read_config,
    save_part,
    saved_files,
    verify,
)
from opentar.core.headers import SCALE, read_header
from opentar.core.progress import Progress
from opentar.core.quantization import GROUPS, OPENVINO_GROUPS, WITH_ZERO, Quantized, form_of
from opentar.core.storage import each_restored
from opentar.image_to_tokens.ta_tok import TATok, TATokConfig
from opentar.language.folder import ENGINE_KEY, GGUF_STORAGE, load_language
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.tokens_to_image.ar import ARConfig, ARTransformer

Calibration = Sequence[Sequence[int]]
"""Sequences of ids."""
CALIBRATED = ("int4", "openvino-int4")
"""Targets whose weights are chosen by what the model is given."""
_NOT_SHOWN = "4 bits: what is lost was not shown to stay below 3 points of 100"
_Each = tuple[str, Tensor | Quantized, bool]
"""Name of a tensor, itself, whether it was int8."""
_SHARD_BYTES = 500_000_000
"""Files are small, because one is held in memory while it is filled."""
OPENVINO = "openvino-"
"""How targets begin that OpenVINO runs. Their tensors lie as those of int8 and int4, so PyTorch runs them, too:
OpenVINO's own files would hold the same numbers and a graph that is made in a moment."""
_FEWEST = 4096
"""Matrices with fewer numbers cost nothing as they are."""


@dataclass(frozen=True, kw_only=True)
class QuantizeReport:
    """What was written."""

    folder: Path
    """the new model folder"""
    target: str
    """int8 or int4"""
    bytes_before: int
    """size of all files of the source"""
    bytes_after: int
    """size of all files of the new one"""
    forms: dict[str, dict[str, int]]
    """part -> form -> numbers that are computed in it; parts that are as they were have none"""


class Target(NamedTuple):
    """Something that a model can be quantized to."""

    text: str
    """for the help and the documentation"""
    make: Callable[[Path, Path, str, Progress | None, Calibration], QuantizeReport]
    """writes it: source folder, new folder, name of the target, progress, what it is calibrated with"""


def experimental(to: str, *, calibrated: bool) -> str:
    """Why the quality of a target did not pass (docs/performance.md); empty where it did."""
    return _NOT_SHOWN if to == "gguf-q4_0" or (to in CALIBRATED and not calibrated) else ""


def quantize_model(
    source: Path, out: Path, to: str, step: Progress | None = None, calibration: Calibration = ()
) -> QuantizeReport:
    """Write a quantized copy of a model folder.

    Args:
        source: a model folder, not quantized itself.
        out: the new folder; it must not exist or be empty.
        to: a name in TARGETS.
        step: called after each tensor.
        calibration: ids that the language model is given while its 4-bit weights are chosen (calibrating.py); without
            any they are rounded one by one. Other targets take none.

    Raises:
        ConfigError: an unknown target.
        ModelError, WeightsError: the source is no model, damaged, or already quantized.
        OutputError: `out` holds something, or the disk is too small or refuses.
    """
    if to not in TARGETS:
        raise ConfigError(f"cannot quantize to {shown(to)}; there are: {', '.join(TARGETS)}.{nearest(to, TARGETS)}")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise OutputError(f"{shown(out)} exists and is not an empty folder; choose another name")
    if calibration and to not in CALIBRATED:
        raise ConfigError(f"{to} is not calibrated, only {' and '.join(CALIBRATED)} are; leave the calibration out")
    return TARGETS[to].make(source, out, to, step, calibration)


def _quantize(source: Path, out: Path, to: str, step: Progress | None, calibration: Calibration) -> QuantizeReport:
    config = model_folder.read_config(source)
    verify(source, remember=True)
    for part in config.parts:
        if is_quantized(source / part):
            told = shown(source / part)
            raise ModelError(f"{told} is quantized already; quantize the model that it was made of")
    if to in gguf_folder.TARGETS:
        gguf_folder.check_target(to)
    before = sum(size for _, size in model_folder.part_files(source))
    # Weights are stored in at least as many bytes before, so this is enough.
    check_room(out, before)
    forms: dict[str, dict[str, int]] = {}
    with atomic_folder(out) as unfinished:
        for part in config.parts:
            if part == "language" and to in gguf_folder.TARGETS:
                own = read_source(source)
                gguf_folder.write_gguf_part(unfinished / part, own, to, step)
                numbers = sum(weight.numel() for weight in own.language.model.parameters())
                forms[part] = {to.removeprefix(GGUF_STORAGE): numbers}
            else:
                forms[part] = _part(source / part, unfinished / part, part, to, step, calibration)
        named = dataclasses.replace(
            config, name=f"{config.name}-{to}", experimental=experimental(to, calibrated=bool(calibration))
        )
        model_folder.write_config(unfinished, named)
    after = sum(size for _, size in model_folder.part_files(out))
    return QuantizeReport(folder=out, target=to, bytes_before=before, bytes_after=after, forms=forms)


TARGETS: dict[str, Target] = {
    "int8": Target("8 bits, computed by PyTorch: layers and tables", _quantize),
    "int4": Target("4 bits in groups, computed by PyTorch: layers of transformers; tables 8 bits", _quantize),
    **{to: Target("the language model for llama.cpp", _quantize) for to in gguf_folder.TARGETS},
    "openvino-int8": Target("the weights of int8, run by OpenVINO", _quantize),
    "openvino-int4": Target("the language model as in int4, run by OpenVINO; other parts as in int8", _quantize),
}
"""Every target by its name on the command line."""


def _bits(to: str, part: str) -> int | None:
    """What the layers of a part of PyTorch are quantized to; None where they stay."""
    if to in gguf_folder.TARGETS:
        # 4 bits without calibration cost more there than they save.
        return 8 if "-q" in to else None
    if to.startswith(OPENVINO) and part != "language":
        return 8
    return 8 if to.endswith("int8") else 4


def _part(
    source: Path, target: Path, part: str, to: str, step: Progress | None, calibration: Calibration
) -> dict[str, int]:
    """Write one part; returns form -> numbers."""
    bits = _bits(to, part)
    if bits is None:
        with atomic_folder(target) as unfinished:
            _copy(source, unfinished)
        return {}
    if part == "language":
        told = read_config(source).get("opentar")
        sizes = told.get("language") if isinstance(told, dict) else None
        if not isinstance(sizes, dict):
            raise WeightsError(f"{shown(source)} is no OpenTar language folder: its {CONFIG} has no opentar.language")
        with torch.device("meta"):
            model = TarLanguageModel(from_dict(LanguageConfig, sizes, "opentar.language"))
        ours = to.startswith(OPENVINO)
        how = (OPENVINO_GROUPS, WITH_ZERO) if ours else (GROUPS, "int4")
        forms = _forms(model.qwen, bits, whole=("embed_tokens", "lm_head", "k_proj", "v_proj"), how=how)
        if model.config.tie:
            del forms["lm_head.weight"]
        engine = "openvino" if ours else None
        if not calibration:
            return _weights(source, target, part, forms, step, engine=engine)
        ready = calibrated_language(load_language(source).model, calibration, forms)
        return _weights(source, target, part, forms, step, ready, engine)
    if part == "ta_tok":
        with torch.device("meta"):
            ta_tok = TATok(from_dict(TATokConfig, _own(source), f"{part}/{CONFIG}"))
        # What stands right before the codebook decides which code it is; it is small, so it stays.
        return _weights(source, target, part, _forms(ta_tok, 8, only=("encoder.layers.", "decoder.layers.")), step)
    if part.startswith("detok_ar"):
        inner = source / "transformer"
        with torch.device("meta"):
            transformer = ARTransformer(from_dict(ARConfig, _own(inner), f"{part}/transformer/{CONFIG}"))
        forms = _forms(transformer, bits, whole=("codes_in", "logits"))
        with atomic_folder(target) as unfinished:
            _copy(source, unfinished, leave="transformer/")
            return _weights(inner, unfinished / "transformer", part, forms, step)
    with atomic_folder(target) as unfinished:
        _copy(source, unfinished)
    return {}


def _own(folder: Path) -> dict[str, object]:
    return {name: value for name, value in read_config(folder).items() if name not in ("storage", "tied_tensors")}


def _forms(
    module: nn.Module,
    bits: int,
    only: tuple[str, ...] = ("",),
    whole: tuple[str, ...] = (),
    how: tuple[Sequence[int], str] = (GROUPS, "int4"),
) -> dict[str, str]:
    """Weight -> form, for linear layers and tables whose names begin with one of `only`; 8 bits for those of `whole`.

    `how` is groups and kind of 4 bits, as `form_of` takes them.
    Keys and values are among these: they are small where several heads share them, and 4 bits cost much there.
    """
    forms = {}
    for name, layer in module.named_modules():
        if type(layer) in (nn.Linear, nn.Embedding) and name.startswith(only):
            weight = layer.weight
            assert isinstance(weight, Tensor)
            if weight.numel() >= _FEWEST:
                forms[f"{name}.weight"] = form_of(
                    8 if name.endswith(whole) else bits, len(weight), weight.shape[1], *how
                )
    return forms


def _weights(
    source: Path,
    target: Path,
    part: str,
    forms: dict[str, str],
    step: Progress | None,
    ready: Iterable[tuple[str, Quantized]] = (),
    engine: str | None = None,
) -> dict[str, int]:
    """Write the tensors of a part in their forms, those of `ready` as they come; returns form -> numbers."""
    verify(source, remember=True)
    config = read_config(source)
    if engine is not None:
        config["opentar"] = config["opentar"] | {ENGINE_KEY: engine}
    storage, tied = str(config.pop("storage", "")), config.pop("tied_tensors", {})
    if tied:
        # No part that we write has any; a twin would have to be quantized like its source.
        raise ModelError(f"{shown(source)} stores tied tensors, which cannot be quantized; save it again untied")
    told: dict[str, str] = {}
    numbers: dict[str, int] = {}
    extra = {
        name: (source / name).read_bytes()
        for name in saved_files(source)
        if name not in (CONFIG, MANIFEST) and not name.endswith((".safetensors", ".safetensors.index.json"))
    }

    headers = [read_header(path) for path in sorted(source.glob("*.safetensors"))]
    total = sum(not name.endswith(SCALE) for header in headers for name in header)

    def tensors() -> Iterator[tuple[str, Tensor | Quantized]]:
        given: Iterator[_Each] = ((name, made, False) for name, made in ready)
        restored: Iterator[_Each] = (one for one in each_restored(source, storage) if one[0] not in told)
        for done, (name, tensor, was_int8) in enumerate(chain(given, restored), 1):
            if name in forms:
                told[name] = forms[name]
                numbers[told[name]] = numbers.get(told[name], 0) + tensor.numel()
            elif was_int8:
                # The same rows and scales come out again.
                told[name] = "int8"
            elif isinstance(tensor, Tensor) and tensor.dtype == torch.bfloat16:
                told[name] = "bfloat16"
            yield name, tensor
            if step is not None:
                step(part, done, total)
        if missing := sorted(set(forms) - set(told)):
            raise WeightsError(f"{shown(source)} lacks {missing[0]}, which its config asks for; get the folder again")

    narrow = "int8" if all(form == "int8" for form in forms.values()) else "int4"
    save_part(target, config, tensors(), narrow, extra, _SHARD_BYTES, told, list(forms))
    return numbers


def _copy(source: Path, unfinished: Path, leave: str = "\0") -> None:
    """Copy the files of a part into an unfinished folder, but not those below `leave` nor its own manifest."""
    verify(source, remember=True)
    for name in saved_files(source):
        if name != MANIFEST and not name.startswith(leave):
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, unfinished / name)
