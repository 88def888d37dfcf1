"""The parts of a SANA folder as objects of diffusers: transformer, autoencoder, scheduler, and the negative features.

They are built without memory and take over the tensors of the files, as our own parts do. diffusers' way of reading a
folder would ask the network for what is missing, and holds numbers twice where their type changes.

Legend: L negative features, D feature width.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from opentar.core.bounds import LAYERS, SIDE, bounded_by
from opentar.core.errors import ModelError, OpenTarError, WeightsError, shown
from opentar.core.folder import assemble
from opentar.core.storage import each_tensor, read_tensors, stored_dtype

if TYPE_CHECKING:
    from opentar.core.storage import LoadDtype

NEGATIVE_NAME = "negative_prompt_embeds"
NEGATIVE, NEGATIVE_PICKLE = f"{NEGATIVE_NAME}.safetensors", f"{NEGATIVE_NAME}.pth"
"""File of the negative features as OpenTar writes it, and as it is published."""
STEM = "diffusion_pytorch_model"
"""Name of weights files without their ending."""
CLASSES = {"transformer": "SanaTransformer2DModel", "vae": "AutoencoderDC"}
CONFIGS = {"transformer": "config.json", "vae": "config.json", "scheduler": "scheduler_config.json"}
"""Part -> its class (any scheduler will do), and the file of its settings."""


_NUMBERS: dict[str, dict[str, tuple[float, float]]] = {
    "transformer": {"sample_size": (1, 4096), "timestep_scale": (1e-6, 1e6), "num_layers": LAYERS},
    "vae": {"scaling_factor": (1e-6, 1e6)},
    "scheduler": {"num_train_timesteps": (1, 100_000), "solver_order": (1, 10)},
}
"""Part -> settings that no tensor bounds, with what they may be: whole numbers where the limits are."""


class SanaParts(NamedTuple):
    """What a SANA folder is made of."""

    transformer: Any
    """SanaTransformer2DModel in the type asked for; its weights are rounded to bfloat16 in any case."""
    vae: Any
    """AutoencoderDC, channels last."""
    scheduler: Any
    """Any scheduler of diffusers."""
    negative_LD: Tensor | None
    """Float32 (L, D), or None where the folder has none."""


def read_parts(folder: Path, dtype: LoadDtype, autoencoder: torch.dtype = torch.float32) -> SanaParts:
    """Read a SANA folder; `dtype` is the transformer's, "stored" that of its file, which then stays mapped.

    `autoencoder` is the type that the autoencoder runs in.

    Raises:
        ModelError: diffusers is not installed.
        WeightsError: a part is missing, damaged or of another class.
    """
    classes, configs = _classes(folder), {name: read_json(folder / name / file) for name, file in CONFIGS.items()}
    for name, file in CONFIGS.items():
        check_numbers_of(name, configs[name], folder / name / file)
    # Convolutions on the CPU need no reordering when numbers lie channels last (about a tenth of the time).
    order = torch.channels_last
    ordered = {name: _copied(tensor, autoencoder, order) for name, tensor in each_tensor(folder / "vae", STEM)}
    vae = _assembled(classes["vae"], configs["vae"], ordered, folder / "vae", order)
    # Before the transformer, which may compute a table of positions for it.
    _check_side(configs["transformer"], vae, folder)
    weights = folder / "transformer"
    own = stored_dtype(weights, STEM)
    # In float16 its linear attention overflows.
    run = own if dtype == "stored" else torch.float32 if dtype == torch.float16 else dtype
    if run == own == torch.bfloat16:
        state = read_tensors(weights, "bfloat16", {}, "stored", STEM)
    else:
        state = {name: tensor.to(torch.bfloat16).to(run) for name, tensor in each_tensor(weights, STEM)}
    transformer = _assembled(classes["transformer"], configs["transformer"], state, weights)
    # Only what is computed may still be of another type. The base class's: diffusers warns where nothing is wrong.
    nn.Module.to(transformer, run)
    scheduler = _built(classes["scheduler"], configs["scheduler"], folder / "scheduler")
    return SanaParts(transformer, vae, scheduler, _read_negative(folder, transformer.config.caption_channels))


def _classes(folder: Path) -> dict[str, Any]:
    """transformer, vae, scheduler -> class of diffusers."""
    index = read_json(folder / "model_index.json")
    return {name: getattr(diffusers_library(), class_of(index, name, folder)) for name in CONFIGS}


def class_of(index: Mapping[str, Any], name: str, folder: Path) -> str:
    """Name of the class of a part, as model_index.json of `folder` says. Raises WeightsError for another kind."""
    entry = index.get(name)
    if entry is None:
        raise WeightsError(f"{folder}/model_index.json names no {name}; a SANA folder has {', '.join(CONFIGS)}")
    library, kind = entry if isinstance(entry, list) and len(entry) == 2 else (None, entry)
    known = kind == CLASSES[name] if name in CLASSES else isinstance(kind, str) and kind.endswith("Scheduler")
    if library != "diffusers" or not known or not hasattr(diffusers_library(), str(kind)):
        expected = CLASSES.get(name, "a scheduler")
        raise WeightsError(
            f"{folder}/model_index.json names {shown(entry)} as {name}; {expected} of diffusers is needed"
        )
    return str(kind)


def diffusers_library() -> Any:
    """diffusers itself. Raises ModelError where it is not installed."""
    try:
        import diffusers
    except ImportError as error:
        raise ModelError("SANA folders need diffusers; install it with: pip install 'opentar[published]'") from error
    return diffusers


def _copied(tensor: Tensor, dtype: torch.dtype, order: torch.memory_format) -> Tensor:
    # A copy in any case: nothing shall keep the mapping of the whole file.
    return tensor.to(dtype, memory_format=order if tensor.ndim == 4 else torch.contiguous_format, copy=True)


def _assembled(
    kind: Any,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    where: Path,
    order: torch.memory_format = torch.contiguous_format,
) -> Any:
    with bounded_by([tensor.numel() for tensor in state.values()], shown(where)):
        built = _built(kind, config, where, device="meta")
    if any(name not in built.state_dict() for name, _ in built.named_buffers()):
        # What is computed when it is built needs memory: the position table of the sizes above 1024 px.
        built = _built(kind, config, where)
    built = built.to(memory_format=order)
    return assemble(lambda: built, state, shown(where))


def _built(kind: Any, config: Mapping[str, Any], where: Path, device: str = "cpu") -> Any:
    try:
        with torch.device(device):
            return kind.from_config(dict(config))
    except OpenTarError:
        raise
    except Exception as error:
        # diffusers checks few settings itself, so a wrong one fails anywhere inside.
        reason = str(error).split("\n")[0][:160]
        raise WeightsError(f"the config in {where} cannot be used ({reason}); get the folder again") from error


def check_numbers_of(name: str, config: Mapping[str, Any], path: Path) -> None:
    """Raise WeightsError for settings of the part `name` that no tensor bounds and that are out of range."""
    for key, (low, high) in _NUMBERS[name].items():
        value = config.get(key, low)
        whole = isinstance(low, int)
        right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not right or not low <= value <= high:
            kind = "whole number" if whole else "number"
            raise WeightsError(f"{path}: {key} is {shown(value)}; expected a {kind} from {low:g} to {high:g}")


def _check_side(config: Mapping[str, Any], vae: Any, folder: Path) -> None:
    side = config.get("sample_size", 32) * 2 ** (len(vae.config.encoder_block_out_channels) - 1)
    if not SIDE.low <= side <= SIDE.high:
        raise WeightsError(f"{folder}: pictures of {side} px; expected {SIDE.low:g} to {SIDE.high:g}: get it again")


@contextmanager
def settings_tried(where: str) -> Iterator[None]:
    """What diffusers says of a setting when it is first used, as a WeightsError; it checks few of them before."""
    try:
        yield
    except (OpenTarError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = str(error).split("\n")[0][:160]
        raise WeightsError(f"the settings of {where} cannot be used ({reason}); get the folder again") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON mapping inside a folder of others. Raises WeightsError."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is missing or no JSON; give a whole SANA folder") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a mapping; give a whole SANA folder")
    return content


def _read_negative(folder: Path, width: int) -> Tensor | None:
    path = folder / NEGATIVE
    try:
        if path.is_file():
            table = load_file(path).get(NEGATIVE_NAME)
        elif (path := folder / NEGATIVE_PICKLE).is_file():
            table = torch.load(path, map_location="cpu", weights_only=True)
        else:
            return None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read as one tensor; get it again") from error
    if isinstance(table, Tensor) and table.ndim == 3 and len(table) == 1:
        table = table[0]
    if not isinstance(table, Tensor) or table.ndim != 2 or table.shape[1] != width or not len(table):
        raise WeightsError(f"{path} must hold one tensor (length, {width}); get it again")
    return table.float()
