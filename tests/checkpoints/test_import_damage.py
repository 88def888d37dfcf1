"""Harmful and damaged files at an import: nothing runs, and the file is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published_files import change_json, shard
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")
Own = Callable[[str], Path]
SANA = "Tar-SANA-600M-512px"


class Payload:
    """What a harmful pickle holds: unpickling it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"echo run > {self.canary}",)


@pytest.mark.parametrize("place", ["ta_tok", "ar", "vqgan", "negative"])
@pytest.mark.parametrize("zipped", [True, False])
def test_payloads_never_run(refused, own: Own, tmp_path: Path, place: str, zipped: bool) -> None:
    canary = tmp_path / "canary"
    blob = {"model": {"args": {}, "sd": {}, "name": Payload(canary)}}
    path = tmp_path / "trap.pth"
    changes: dict[str, Any] = {"ta_tok": {"ta_tok": path}, "vqgan": {"vqgan": path}}.get(place, {})
    if place == "ar":
        changes = {"ar": [path], "vqgan": own("vq_ds16_t2i.pt")}
    elif place == "negative":
        path = own(SANA) / "negative_prompt_embeds.pth"
        changes = {"sana": [own(SANA)]}
    torch.save(blob, path, _use_new_zipfile_serialization=zipped)
    line = refused(**changes)
    name = f"{os.system.__module__}.system"
    assert f"holds objects other than tensors and plain values: {name} at 'model.name'; nothing of it was run" in line
    assert not canary.exists()
    # The same file, read without care, would have run: the test means something.
    torch.load(path, weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
@pytest.mark.parametrize("name", ["ta_tok.pth", "ar_dtok_lp_256px.pth", "vq_ds16_t2i.pt"])
def test_damaged_pickles(refused, own: Own, damage: str, name: str) -> None:
    path = own(name)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[: len(content) // 2], "flip": content, "empty": b""}[damage])
    changes = {
        "ta_tok.pth": {"ta_tok": path},
        "ar_dtok_lp_256px.pth": {"ar": [path], "vqgan": own("vq_ds16_t2i.pt")},
        "vq_ds16_t2i.pt": {"ar": [own("ar_dtok_lp_256px.pth")], "vqgan": path},
    }[name]
    assert name in refused(**changes)


def test_a_flipped_bit_of_a_number_is_found(refused, own: Own) -> None:
    """A mapped tensor is read without a look at the archive's checksum, so the import looks itself."""
    import zipfile

    path = own("ta_tok.pth")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
    content[largest.header_offset + largest.file_size // 2] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=False, mmap=True)
    assert "is damaged (wrong checksum of " in refused(ta_tok=path)


@pytest.mark.parametrize("damage", ["cut", "header", "nan", "gone", "missing name", "outside"])
def test_damaged_shards(refused, own: Own, damage: str) -> None:
    llm = own("Tar-1.5B")
    shard(llm)
    path = llm / "model-00002-of-00002.safetensors"
    content = bytearray(path.read_bytes())
    told = "model-00002-of-00002.safetensors is missing or damaged"
    if damage == "cut":
        path.write_bytes(content[:-100])
    elif damage == "header":
        content[6] = 255
        path.write_bytes(content)
    elif damage == "nan":
        state = load_file(path)
        name = next(name for name in state if state[name].ndim == 2)
        state[name][0, 0] = float("nan")
        save_file(state, path, metadata={"format": "pt"})
        told = f"{name} holds NaN or infinity"
    elif damage == "gone":
        path.unlink()
    elif damage == "missing name":
        state = load_file(path)
        name = sorted(state)[0]
        del state[name]
        save_file(state, path, metadata={"format": "pt"})
        told = f"lacks '{name}', which model.safetensors.index.json says is there"
    else:
        change_json(llm / "model.safetensors.index.json", weight_map={"model.norm.weight": "../secret.safetensors"})
        told = "names '../secret.safetensors'; only files beside it are read"
    assert told in refused(llm=llm)
