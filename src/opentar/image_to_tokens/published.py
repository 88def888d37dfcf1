"""The published ta_tok.pth -> our config and our names. The only place that knows them.

A file is {"model": {"args": ARGS, "sd": STATE}}, a pickle with `easydict.EasyDict` inside; it is read with
weights_only, so it cannot run code. Every key, shape and argument must be one that is known here; anything else is
refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from opentar.core.errors import ConfigError, WeightsError, nearest, shown
from opentar.core.foreign_files import TA_TOK
from opentar.core.tensors import check_plain
from opentar.core.torch_files import model_of
from opentar.image_to_tokens.decoder import DecoderConfig
from opentar.image_to_tokens.encoder import VisionConfig
from opentar.image_to_tokens.quantizer import QuantizerConfig
from opentar.image_to_tokens.ta_tok import TATok, TATokConfig

ENCODER_HEADS = 16
"""google/siglip2-so400m; not in the file"""
DECODER_HEADS = 12
"""the default of transformers' Siglip2VisionConfig, which the authors kept; not in the file"""

_LAYER = r"(layers\.\d+\.(?:self_attn\.(?:[kvq]_proj|out_proj)|layer_norm[12]|mlp\.fc[12])\.(?:weight|bias))"
_ENCODER, _DECODER = r"encoder\.(?:vision_model\.)?", r"decoder\.(?:vision_model\.)?"
# transformers 4 wraps a vision model in `vision_model.`, transformers 5 does not: both are in use
NAMES: tuple[tuple[str, str], ...] = (
    (_ENCODER + r"embeddings\.patch_embedding\.(weight|bias)", r"encoder.stem.\1"),
    (_ENCODER + r"embeddings\.position_embedding\.weight", "encoder.position_ND"),
    (_ENCODER + r"encoder\." + _LAYER, r"encoder.\1"),
    (_DECODER + r"embeddings\.patch_embedding\.(weight|bias)", r"decoder.patch_embedding.\1"),
    (_DECODER + r"embeddings\.position_embedding\.weight", "decoder.position_PD"),
    (_DECODER + r"encoder\." + _LAYER, r"decoder.\1"),
    (_DECODER + r"post_layernorm\.(weight|bias)", r"decoder.post_layernorm.\1"),
    (r"encode_task_layer\.0\.(weight|bias)", r"encode_task_layer.0.\1"),
    (r"decode_task_layer\.([02])\.(weight|bias)", r"decoder.task_layer.\1.\2"),
    (r"bottleneck\.in_linear\.(weight|bias)", r"in_linear.\1"),
    (r"bottleneck\.out_linear\.(weight|bias)", r"decoder.out_linear.\1"),
    (r"bottleneck\.regularizer\.(embedding\.weight|embedding_proj\.(?:weight|bias))", r"quantizer.\1"),
    (r"bottleneck\.regularizer\.stochastic_temperature_inv", "quantizer.stochastic_temperature_inv"),
)
"""published name (regular expression) -> our name"""

DROPPED = (
    _ENCODER + r"post_layernorm\.(weight|bias)",
    _ENCODER + r"head\..+",
    _DECODER + r"head\..+",
    r"scale_layer\.(shift|scale)",
)
"""Names that are in the file and take no part: both attention-pooling heads and the encoder's last norm, which
hidden_states[-2] does not see (neither does it see the encoder's last layer, dropped as well), and the pixel scaling,
which is checked to be 0.5 and is preprocess.py here."""

_ARGS: dict[str, tuple[str, ...]] = {
    "args": (
        *("bottleneck", "bottleneck_token_num", "input_size", "pool_scale"),
        *("teacher", "ckpt_path", "rand_scale"),
    ),
    "args.bottleneck": ("name", "args"),
    "args.bottleneck.args": ("bottleneck_dim", "norm", "regularizer"),
    "args.bottleneck.args.regularizer": ("name", "args"),
    "args.bottleneck.args.regularizer.args": (
        *("codebook_size", "l2_normalized", "stochastic", "stochastic_temperature"),
        *("commitment_loss_weight", "codebook_loss_weight", "entropy_loss_weight", "entropy_loss_temperature"),
        *("top_k", "top_k_prob", "residual_weight"),
    ),
}
"""the arguments known at each place; those that shape the result are read below, the others have no effect on it"""

_LARGEST = 1_000_000_000
"""A number among the arguments beyond this is none of a tokenizer, and too large for a shape."""


def read_ta_tok(path: str | Path) -> tuple[TATokConfig, dict[str, torch.Tensor]]:
    """Read a published tokenizer file.

    Args:
        path: the .pth file.

    Returns:
        the config and the state that `TATok(config).load_state_dict(state)` takes, tensors as stored.

    Raises:
        WeightsError: unreadable or damaged file, or a key, shape or argument that is not known, named with what was
            expected.
    """
    args, stored = _read_file(Path(path))
    where = str(path)
    for place, known in _ARGS.items():
        _check_names(_at(args, place, where), known, f"{where}: {place}")
    _check_fixed(args, stored, where)
    state = {}
    for name, tensor in stored.items():
        if any(re.fullmatch(pattern, name) for pattern in DROPPED):
            continue
        renamed = _rename(name, where)
        if renamed in state:
            raise WeightsError(f"{where} holds {shown(name)} twice, with and without vision_model; export it again")
        check_plain(where, name, tensor)
        state[renamed] = tensor
    config = _config_of(args, state, where)
    unused_layer = f"encoder.layers.{config.vision.layers}."
    state = {name: tensor for name, tensor in state.items() if not name.startswith(unused_layer)}
    learned = state.get("quantizer.stochastic_temperature_inv")
    if learned is not None:
        if learned.numel() != 1:
            found = list(learned.shape)
            raise WeightsError(f"{where}: stochastic_temperature_inv has shape {found}; expected a single number")
        state["quantizer.stochastic_temperature_inv"] = learned.reshape(())
    _check_shapes(config, state, where)
    return config, state


def _read_file(path: Path) -> tuple[Mapping[str, Any], Mapping[str, torch.Tensor]]:
    model = model_of(path, "a tokenizer file", "ta_tok.pth", TA_TOK)
    args, stored = model.get("args"), model.get("sd")
    if not isinstance(args, Mapping) or not isinstance(stored, Mapping):
        raise WeightsError(f"{path}: model.args and model.sd must be mappings; give a ta_tok.pth")
    for name, tensor in stored.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise WeightsError(f"{path}: {shown(name)} is not a tensor; model.sd must hold named tensors only")
    return args, stored


def _at(args: Mapping[str, Any], place: str, where: str) -> Mapping[str, Any]:
    """The mapping at a dotted place that begins with "args"."""
    value: Any = args
    for step in place.split(".")[1:]:
        value = value.get(step)
        if not isinstance(value, Mapping):
            raise WeightsError(f"{where}: {place} is {shown(value)}; expected a mapping with {', '.join(_ARGS[place])}")
    return value


def _check_names(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in given:
        if not isinstance(name, str) or name not in known:
            hint = nearest(str(name), known)
            raise WeightsError(f"{where} has the unknown argument {shown(name)}; known are {', '.join(known)}.{hint}")


def _value(given: Mapping[str, Any], name: str, kind: type, where: str, default: Any = None) -> Any:
    """A value of that type, or `default` where there is none; a whole number will do as a float, a bool as neither."""
    value = given.get(name, default)
    right = isinstance(value, (int, float) if kind is float else kind)
    if not right or (isinstance(value, bool) and kind is not bool):
        raise WeightsError(f"{where}.{name} is {shown(value)}; expected a value of type {kind.__name__}")
    if kind is bool:
        return value
    if not abs(value) <= _LARGEST:
        raise WeightsError(f"{where}.{name} is {shown(value)}; expected a number from -{_LARGEST} to {_LARGEST}")
    return kind(value)


def _check_fixed(args: Mapping[str, Any], stored: Mapping[str, torch.Tensor], where: str) -> None:
    """Arguments and tensors that can have one value only."""
    bottleneck = args["bottleneck"]
    regularizer = bottleneck["args"]["regularizer"]
    for place, given, expected in (
        ("args.bottleneck.name", bottleneck.get("name"), ("bottleneck",)),
        ("args.bottleneck.args.norm", bottleneck["args"].get("norm"), (None, "none")),
        ("args.bottleneck.args.regularizer.name", regularizer.get("name"), ("simvq",)),
        ("args.pool_scale", args.get("pool_scale", 1), (1,)),
    ):
        # Tensors may stand among the arguments, and a comparison with one has no single answer.
        if isinstance(given, torch.Tensor) or given not in expected:
            raise WeightsError(f"{where}: {place} is {shown(given)}; expected {shown(expected[-1])}")
    for name in ("scale_layer.shift", "scale_layer.scale"):
        if name not in stored:
            continue
        check_plain(where, name, stored[name])
        if not torch.all(stored[name] == 0.5):
            raise WeightsError(f"{where}: {name} is not 0.5; expected pixels scaled as (x - 0.5) / 0.5")


def _rename(name: str, where: str) -> str:
    for pattern, ours in NAMES:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(ours)
    raise WeightsError(f"{where} has the unknown key {shown(name)}; expected the keys of a TA-Tok only")


def _config_of(args: Mapping[str, Any], state: Mapping[str, torch.Tensor], where: str) -> TATokConfig:
    """The config that args and shapes say together."""

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        if name not in state:
            raise WeightsError(f"{where} lacks the tensor of {name}; expected a whole ta_tok.pth")
        if state[name].ndim != dimensions:
            size = list(state[name].shape)
            raise WeightsError(f"{where}: {name} has shape {size}; expected {dimensions} dimensions")
        return tuple(state[name].shape)

    def layers(part: str) -> int:
        numbers = {int(name.split(".")[2]) for name in state if name.startswith(f"{part}.layers.")}
        if not numbers or numbers != set(range(len(numbers))):
            raise WeightsError(f"{where}: the {part} has layers {sorted(numbers)}; expected all from 0 on")
        return len(numbers)

    bottleneck = args["bottleneck"]["args"]
    simvq, place = bottleneck["regularizer"]["args"], f"{where}: args.bottleneck.args.regularizer.args"
    width, _, _, patch = shape("encoder.stem.weight", 4)
    image_size = _value(args, "input_size", int, f"{where}: args")
    output_size, hidden_size = shape("decoder.task_layer.2.weight", 2)
    try:
        config = TATokConfig(
            vision=VisionConfig(
                image_size=image_size,
                grid_side=image_size // patch,
                hidden_size=width,
                layers=layers("encoder") - 1,
                heads=ENCODER_HEADS,
                mlp_size=shape("encoder.layers.0.mlp.fc1.weight", 2)[0],
            ),
            quantizer=QuantizerConfig(
                codebook_size=_value(simvq, "codebook_size", int, place),
                width=_value(bottleneck, "bottleneck_dim", int, f"{where}: args.bottleneck.args"),
                row_width=shape("quantizer.embedding.weight", 2)[1],
                l2_normalized=_value(simvq, "l2_normalized", bool, place),
                stochastic=_value(simvq, "stochastic", bool, place),
                temperature=_temperature(simvq, state, place),
                codebook_weight=_value(simvq, "codebook_loss_weight", float, place, 1.0),
                commitment_weight=_value(simvq, "commitment_loss_weight", float, place, 0.25),
            ),
            decoder=DecoderConfig(
                input_size=shape("decoder.out_linear.weight", 2)[0],
                hidden_size=hidden_size,
                output_size=output_size,
                layers=layers("decoder"),
                heads=DECODER_HEADS,
                mlp_size=shape("decoder.layers.0.mlp.fc1.weight", 2)[0],
                position_side=math.isqrt(shape("decoder.position_PD", 2)[0]),
            ),
        )
    except ConfigError as error:
        raise WeightsError(f"{where} describes no tokenizer: {error}") from error
    tokens = _value(args, "bottleneck_token_num", int, f"{where}: args", config.vision.cells)
    if tokens != config.vision.cells:
        raise WeightsError(f"{where}: args.bottleneck_token_num is {shown(tokens)}; expected {config.vision.cells}")
    return config


def _temperature(simvq: Mapping[str, Any], state: Mapping[str, torch.Tensor], place: str) -> float:
    """The fixed temperature, or 0 where the file carries a learned one (the choice itself is for training only)."""
    stochastic = _value(simvq, "stochastic", bool, place)
    temperature = _value(simvq, "stochastic_temperature", float, place) if stochastic else 0.03
    learned = "quantizer.stochastic_temperature_inv" in state
    given = _value(simvq, "stochastic_temperature", float, place, 0.0) if learned else 0.0
    if given > 0:
        raise WeightsError(
            f"{place}.stochastic_temperature is {given}, yet the file holds stochastic_temperature_inv;"
            " expected 0 or less"
        )
    return 0.0 if learned else temperature


def _check_shapes(config: TATokConfig, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Compare with a TATok of that config built without memory."""
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in TATok(config).state_dict().items()}
    for name, size in expected.items():
        if name not in state:
            raise WeightsError(f"{where} lacks the tensor of {name} {list(size)}; expected a whole ta_tok.pth")
        if tuple(state[name].shape) != size:
            raise WeightsError(f"{where}: {name} has shape {list(state[name].shape)}; expected {list(size)}")
    for name in state:
        if name not in expected:
            raise WeightsError(f"{where} has {name}, which its arguments do not call for; expected a whole ta_tok.pth")
