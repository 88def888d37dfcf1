"""The published ar_dtok_*.pth and vq_ds16_t2i.pt -> our configs and our names. The only place that knows them.

Both are pickles, read with weights_only so that they cannot run code. Every key, shape and argument must be one that
is known here; anything else is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opentar.core.errors import ConfigError, WeightsError, nearest, shown
from opentar.core.foreign_files import AR
from opentar.core.foreign_files import VQGAN as VQ
from opentar.core.tensors import check_plain
from opentar.core.torch_files import model_of
from opentar.tokens_to_image.ar import ARConfig, ARTransformer
from opentar.tokens_to_image.vqgan import VQGAN, VQGANConfig

SIZES: dict[str, tuple[int, int, int]] = {
    "llama-abs-S": (12, 6, 384),
    "llama-abs-B": (12, 12, 768),
    "llama-abs-L": (24, 16, 1024),
    "llama-abs-LP": (30, 20, 1280),
    "llama-abs-XL": (36, 20, 1280),
    "llama-abs-XXL": (48, 24, 1536),
    "llama-abs-XXXL": (48, 40, 2560),
}
"""published name -> layers, heads, width"""

AR_NAMES: tuple[tuple[str, str], ...] = (
    (r"abs_pe", "positions"),
    (r"clip_proj\.(weight|bias)", r"features_in.\1"),
    (r"tok_embeddings\.weight", "codes_in.weight"),
    (r"layers\.(\d+)\.attention\.wqkv\.weight", r"blocks.\1.qkv.weight"),
    (r"layers\.(\d+)\.attention\.wo\.weight", r"blocks.\1.attention_out.weight"),
    (r"layers\.(\d+)\.feed_forward\.w1\.weight", r"blocks.\1.mlp_gate.weight"),
    (r"layers\.(\d+)\.feed_forward\.w2\.weight", r"blocks.\1.mlp_down.weight"),
    (r"layers\.(\d+)\.feed_forward\.w3\.weight", r"blocks.\1.mlp_up.weight"),
    (r"layers\.(\d+)\.attention_norm\.weight", r"blocks.\1.attention_norm.weight"),
    (r"layers\.(\d+)\.ffn_norm\.weight", r"blocks.\1.mlp_norm.weight"),
    (r"norm\.weight", "norm.weight"),
    (r"output\.weight", "logits.weight"),
)
"""published name (regular expression) -> our name, AR de-tokenizer"""

_CODER = r"(encoder|decoder)\."
_LEVEL = _CODER + r"conv_blocks\.(\d+)\."
_RESIDUAL = r"((?:norm|conv)[12]\.(?:weight|bias))"
VQ_NAMES: tuple[tuple[str, str], ...] = (
    (_CODER + r"((?:conv_in|norm_out|conv_out)\.(?:weight|bias))", r"\1.\2"),
    (_LEVEL + r"res\.(\d+)\." + _RESIDUAL, r"\1.levels.\2.blocks.\3.\4"),
    (_LEVEL + r"res\.(\d+)\.nin_shortcut\.(weight|bias)", r"\1.levels.\2.blocks.\3.shortcut.\4"),
    (_LEVEL + r"attn\.(\d+)\.(norm|q|k|v|proj_out)\.(weight|bias)", r"\1.levels.\2.attention.\3.<\4>.\5"),
    (_LEVEL + r"(?:downsample|upsample)\.conv\.(weight|bias)", r"\1.levels.\2.conv.\3"),
    (_CODER + r"mid\.([02])\." + _RESIDUAL, r"\1.middle.\2.\3"),
    (_CODER + r"mid\.1\.(norm|q|k|v|proj_out)\.(weight|bias)", r"\1.middle.1.<\2>.\3"),
    (r"quantize\.embedding\.weight", "codebook"),
    (r"quant_conv\.(weight|bias)", r"codes_in.\1"),
    (r"post_quant_conv\.(weight|bias)", r"codes_out.\1"),
)
"""published name (regular expression) -> our name, VQGAN; `<q>` is looked up in the next table"""

_ATTENTION = {"<norm>": "norm", "<q>": "query", "<k>": "key", "<v>": "value", "<proj_out>": "out"}

VQ_DROPPED = ("quantize.codebook_used",)
"""a training statistic"""

AR_ARGS: dict[str, tuple[type, ...]] = {
    "model_type": (str,), "cond_dim": (int,), "cls_token_num": (int,), "max_seq_len": (int,), "vocab_size": (int,),
    "ffn_dim_multiplier": (int, float, type(None)), "multiple_of": (int,), "norm_eps": (int, float),
    "use_fixed_pe": (bool,), "class_dropout_prob": (int, float), "num_classes": (int,), "initializer_range": (float,),
    "dim": (int,), "n_layer": (int,), "n_head": (int,), "n_kv_head": (int, type(None)), "rope_base": (int, float),
    "token_dropout_p": (int, float), "attn_dropout_p": (int, float), "resid_dropout_p": (int, float),
    "ffn_dropout_p": (int, float), "drop_path_rate": (int, float), "caption_dim": (int,), "block_size": (int,),
    "max_batch_size": (int,),
}  # fmt: skip
"""known arguments and their types; those not read below shape training only, or a layer that is not in the file"""

_LARGEST = 1_000_000_000
"""A size beyond this is none of a de-tokenizer, and its tensors would have more numbers than can be counted."""


def read_ar_dtok(path: str | Path) -> tuple[ARConfig, dict[str, Tensor]]:
    """Read a published AR de-tokenizer.

    Args:
        path: ar_dtok_*.pth, {"model": {"name", "args", "sd"}}.

    Returns:
        the config (with the authors' sampling: guidance 4, temperature 1) and the state of an ``ARTransformer``.

    Raises:
        WeightsError: unreadable or damaged file, or an unknown name, argument, key or shape, by name.
    """
    where = str(path)
    model = model_of(Path(path), "an AR de-tokenizer", "ar_dtok_*.pth", AR)
    name, args, stored = model.get("name"), model.get("args"), model.get("sd")
    if not isinstance(name, str) or name not in SIZES:
        raise WeightsError(f"{where}: model.name is {shown(name)}; known are {', '.join(SIZES)}")
    if not isinstance(args, Mapping) or not isinstance(stored, Mapping):
        raise WeightsError(f"{where}: model.args and model.sd must be mappings; give an ar_dtok_*.pth")
    _check_args(args, where)
    config = _ar_config(name, args, where)
    state = _renamed(stored, AR_NAMES, (), where)
    if state.get("positions", torch.zeros(0)).ndim == 3 and len(state["positions"]) == 1:
        state["positions"] = state["positions"][0]
    _check_shapes(ARTransformer, config, state, where)
    return config, state


def read_vqgan(path: str | Path) -> tuple[VQGANConfig, dict[str, Tensor]]:
    """Read a published VQGAN.

    Args:
        path: vq_ds16_t2i.pt, {"model": state}; other keys beside "model" are ignored.

    Returns:
        the config that the shapes say, and the state of a ``VQGAN``.

    Raises:
        WeightsError: unreadable or damaged file, or an unknown key or shape, by name.
    """
    where = str(path)
    stored = model_of(Path(path), "a VQGAN", "vq_ds16_t2i.pt", VQ)
    state = _renamed(stored, VQ_NAMES, VQ_DROPPED, where)
    levels = len({name.split(".")[2] for name in state if name.startswith("encoder.levels.")})
    blocks = len({name.split(".")[4] for name in state if name.startswith("encoder.levels.0.blocks.")})
    widths = tuple(_shape(state, f"encoder.levels.{n}.blocks.0.conv2.weight", 4, where)[0] for n in range(levels))
    entries, code_size = _shape(state, "codebook", 2, where)
    latent_channels = _shape(state, "encoder.conv_out.weight", 4, where)[0]
    try:
        config = VQGANConfig(
            channels=widths, blocks=blocks, latent_channels=latent_channels, code_size=code_size, codebook_size=entries
        )
    except ConfigError as error:
        raise WeightsError(f"{where} describes no VQ-16: {error}") from error
    _check_shapes(VQGAN, config, state, where)
    return config, state


def _check_args(args: Mapping[str, Any], where: str) -> None:
    for name, value in args.items():
        if name not in AR_ARGS:
            known = ", ".join(AR_ARGS)
            hint = nearest(str(name), AR_ARGS)
            raise WeightsError(f"{where}: model.args has the unknown argument {shown(name)}; known are {known}.{hint}")
        if not isinstance(value, AR_ARGS[name]):
            kinds = " or ".join(kind.__name__ for kind in AR_ARGS[name])
            raise WeightsError(f"{where}: model.args.{name} is {shown(value)}; expected {kinds}")
    for name, expected in (("model_type", "clip_cond"), ("n_kv_head", None)):
        if args.get(name, expected) != expected:
            raise WeightsError(f"{where}: model.args.{name} is {shown(args[name])}; only {expected!r} is known")
    for name in ("cond_dim", "cls_token_num", "max_seq_len", "vocab_size"):
        if not 1 <= args.get(name, 0) <= _LARGEST:
            raise WeightsError(
                f"{where}: model.args.{name} is {shown(args.get(name))}; a whole number from 1 to {_LARGEST} is needed"
            )
    for name, largest in (("ffn_dim_multiplier", 1000), ("norm_eps", 1)):
        value = args.get(name)
        # NaN is in no range.
        if value is not None and not 0 < value <= largest:
            raise WeightsError(
                f"{where}: model.args.{name} is {shown(value)}; a number above 0 and up to {largest} is needed"
            )


def _ar_config(name: str, args: Mapping[str, Any], where: str) -> ARConfig:
    layers, heads, width = SIZES[name]
    for key, own in (("n_layer", layers), ("n_head", heads), ("dim", width)):
        if args.get(key, own) != own:
            raise WeightsError(f"{where}: model.args.{key} is {args[key]}; {name} has {own}")
    mlp_size = int(2 * (4 * width) / 3)
    if args.get("ffn_dim_multiplier") is not None:
        mlp_size = int(args["ffn_dim_multiplier"] * mlp_size)
    multiple = args.get("multiple_of", 256)
    try:
        if not 1 <= multiple <= _LARGEST:
            raise ConfigError(f"model.args.multiple_of is {shown(multiple)}; give a whole number from 1 to {_LARGEST}")
        return ARConfig(
            feature_size=args["cond_dim"],
            prefix=args["cls_token_num"],
            codes=args["max_seq_len"],
            codebook_size=args["vocab_size"],
            hidden_size=width,
            layers=layers,
            heads=heads,
            mlp_size=multiple * -(-mlp_size // multiple),
            norm_eps=float(args.get("norm_eps", 1e-5)),
            attention="sdpa",
            guidance=4.0,
            temperature=1.0,
            top_p=1.0,
        )
    except ConfigError as error:
        raise WeightsError(f"{where} describes no AR de-tokenizer: {error}") from error


def _renamed(
    stored: Mapping[str, Any], table: tuple[tuple[str, str], ...], dropped: tuple[str, ...], where: str
) -> dict[str, Tensor]:
    state = {}
    for name, tensor in stored.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise WeightsError(f"{where}: {shown(name)} is not a tensor; only named tensors are expected")
        if name not in dropped:
            ours = _rename(name, table, where)
            check_plain(where, name, tensor)
            state[ours] = tensor
    return state


def _rename(name: str, table: tuple[tuple[str, str], ...], where: str) -> str:
    for pattern, ours in table:
        match = re.fullmatch(pattern, name)
        if match:
            return re.sub(r"<\w+>", lambda part: _ATTENTION[part[0]], match.expand(ours))
    raise WeightsError(f"{where} has the unknown key {shown(name)}; export the file again with its own keys only")


def _shape(state: Mapping[str, Tensor], name: str, dimensions: int, where: str) -> tuple[int, ...]:
    if name not in state:
        raise WeightsError(f"{where} lacks the tensor of {name}; a whole file is needed")
    if state[name].ndim != dimensions:
        raise WeightsError(f"{where}: {name} has shape {list(state[name].shape)}; {dimensions} dimensions are expected")
    return tuple(state[name].shape)


def _check_shapes(kind: type[nn.Module], config: Any, state: Mapping[str, Tensor], where: str) -> None:
    """Compare with a module of that config built without memory."""
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in kind(config).state_dict().items()}
    for name, size in expected.items():
        if name not in state:
            raise WeightsError(f"{where} lacks the tensor of {name} {list(size)}; a whole file is needed")
        if tuple(state[name].shape) != size:
            raise WeightsError(f"{where}: {name} has shape {list(state[name].shape)}; expected {list(size)}")
    for name in state:
        if name not in expected:
            raise WeightsError(f"{where} has {name}, which its arguments do not call for; give a whole file")
