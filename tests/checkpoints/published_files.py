"""Tiny files in every published format that fit each other, with random numbers; the same calls, the same files.

The language model and the SANA folder are those of tests/parity; ta_tok.pth is rebuilt as there. The AR de-tokenizers
and the VQGAN of the parity tests were made for other sizes, so small ones are made here.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from opentar.tokens_to_image.vqgan import VQGAN, VQGANConfig

SIZE_NAME, SIZE = "llama-abs-T", (2, 2, 32)
"""a size that is not published, so that files stay small; tests add it to the known ones"""
FEATURES, PICTURE_CODES = 48, 32
PREFIX = 729


def ar_blob(codes: int, prefix: int = PREFIX, **args: Any) -> dict[str, Any]:
    """An ar_dtok_*.pth of `codes` picture codes."""
    layers, _, width = SIZE
    given = {
        "model_type": "clip_cond",
        "cond_dim": FEATURES,
        "cls_token_num": prefix,
        "max_seq_len": codes,
        "vocab_size": PICTURE_CODES,
        **args,
    }
    mlp = 256
    random = torch.Generator().manual_seed(codes)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random) * 0.1

    tensors = {
        "abs_pe": tensor(1, prefix + codes - 1, width),
        "clip_proj.weight": tensor(width, given["cond_dim"]),
        "clip_proj.bias": tensor(width),
        "tok_embeddings.weight": tensor(given["vocab_size"], width),
        "norm.weight": torch.ones(width),
        "output.weight": tensor(given["vocab_size"], width),
    }
    for layer in range(layers):
        here = f"layers.{layer}"
        tensors[f"{here}.attention.wqkv.weight"] = tensor(3 * width, width)
        tensors[f"{here}.attention.wo.weight"] = tensor(width, width)
        tensors[f"{here}.feed_forward.w1.weight"] = tensor(mlp, width)
        tensors[f"{here}.feed_forward.w3.weight"] = tensor(mlp, width)
        tensors[f"{here}.feed_forward.w2.weight"] = tensor(width, mlp)
        tensors[f"{here}.attention_norm.weight"] = torch.ones(width)
        tensors[f"{here}.ffn_norm.weight"] = torch.ones(width)
    return {"model": {"name": SIZE_NAME, "args": given, "sd": tensors}}


def vq_blob(entries: int = PICTURE_CODES) -> dict[str, Any]:
    """A vq_ds16_t2i.pt of three levels: one code paints 4 x 4 pixels."""
    config = VQGANConfig(channels=(32, 32, 32), blocks=1, latent_channels=8, code_size=4, codebook_size=entries)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        state = VQGAN(config).state_dict()
    renamed = {_published_vq(name): tensor for name, tensor in state.items()}
    return {"model": renamed | {"quantize.codebook_used": torch.zeros(8)}, "optimizer": {}}


def _published_vq(name: str) -> str:
    fixed = {"codebook": "quantize.embedding.weight"}
    for ours, theirs in (("codes_in.", "quant_conv."), ("codes_out.", "post_quant_conv.")):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    attention = {"query": "q", "key": "k", "value": "v", "out": "proj_out", "norm": "norm"}
    name = fixed.get(name, name)
    name = re.sub(r"levels\.(\d+)\.blocks\.", r"conv_blocks.\1.res.", name)
    name = re.sub(
        r"levels\.(\d+)\.attention\.(\d+)\.(\w+)\.",
        lambda found: f"conv_blocks.{found[1]}.attn.{found[2]}.{attention[found[3]]}.",
        name,
    )
    name = re.sub(r"^(encoder)\.levels\.(\d+)\.conv\.", r"\1.conv_blocks.\2.downsample.conv.", name)
    name = re.sub(r"^(decoder)\.levels\.(\d+)\.conv\.", r"\1.conv_blocks.\2.upsample.conv.", name)
    name = re.sub(r"middle\.1\.(\w+)\.", lambda found: f"mid.1.{attention[found[1]]}.", name)
    return name.replace("middle.", "mid.").replace(".shortcut.", ".nin_shortcut.")


def write_files(folder: Path, parity: Path, ta_tok: Path) -> Path:
    """Everything a whole model is made of, under its published names."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ta_tok, folder / "ta_tok.pth")
    torch.save(ar_blob(16), folder / "ar_dtok_lp_256px.pth")
    torch.save(ar_blob(64), folder / "ar_dtok_lp_512px.pth")
    torch.save(vq_blob(), folder / "vq_ds16_t2i.pt")
    shutil.copytree(parity / "tar_llm", folder / "Tar-1.5B")
    shutil.copytree(parity / "tar_sana", folder / "Tar-SANA-600M-512px")
    return folder


def trainer_shape(folder: Path, **changes: Any) -> None:
    """Change a language folder into what the authors' trainer saves: another type, and the vision tower inside."""
    change_json(folder / "config.json", model_type="llava_qwen", architectures=["LlavaQwenForCausalLM"], **changes)
    state = load_file(folder / "model.safetensors")
    state["model.vision_tower.vision_tower.encoder.weight"] = torch.zeros(3, 3)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def shard(folder: Path) -> None:
    """Change a language folder of one file into one of two."""
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in halves.items():
        save_file({key: state[key] for key in keys}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {key: file for file, keys in halves.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def change_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None takes one away."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")
