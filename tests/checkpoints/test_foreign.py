"""What people give in the place of weights: each told as what it is, in one line, wherever it is given."""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_files import ar_blob, change_json, vq_blob
from safetensors.torch import load_file, save_file

from opentar import Tar
from opentar.checkpoints.convert.importing import import_tar
from opentar.cli import main
from opentar.core.errors import OpenTarError, WeightsError
from opentar.core.torch_files import read_torch_file
from opentar.tokens_to_image.published import read_ar_dtok, read_vqgan

pytest.importorskip("diffusers")
Own = Callable[[str], Path]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 3087467144\n"
PAGE = b"<!DOCTYPE html>\n<html class=''><head><title>csuhan/TA-Tok</title></head></html>\n"
PLAIN = {"model.embed_tokens.weight": torch.zeros(4, 2)}


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Tar/ta_tok.pth", b"x")


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(path.parent, "empty", recursive=False)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pointer": (lambda path: path.write_bytes(POINTER), "is a git-lfs pointer, not the file it points to"),
    "page": (lambda path: path.write_bytes(PAGE), "is a web page"),
    "answer": (lambda path: path.write_bytes(b"Entry not found"), "is a text ('Entry not found')"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "gguf": (lambda path: path.write_bytes(b"GGUF\3\0\0\0" + bytes(100)), "is a GGUF file (llama.cpp)"),
    "zip": (_zip, "is a zip archive"),
    "tar": (_tar, "is a tar archive"),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(50)), "is a gzip archive"),
    "cut": (lambda path: path.write_bytes(b"PK\3\4" + bytes(500)), "is cut short or damaged"),
    "numpy": (lambda path: np.save(path.open("wb"), np.ones(3)), "is a NumPy array"),
    "optimizer": (
        lambda path: torch.save({"state": {}, "param_groups": [{"lr": 1e-4}]}, path),
        "is the state of an optimizer",
    ),
    "safetensors": (lambda path: save_file(PLAIN, path), "is a safetensors file"),
    "cut safetensors": (
        lambda path: (save_file(PLAIN, path), path.write_bytes(path.read_bytes()[:-8])),
        "is a safetensors file that is cut short (",
    ),
    "lora": (lambda path: torch.save({"q_proj.lora_A.weight": torch.zeros(2, 2)}, path), "is a LoRA adapter"),
    "language": (lambda path: torch.save(PLAIN, path), "is the weights of a language model in PyTorch's format"),
}
"""kind of file -> how it is made, what is told"""


def told(call: Callable[[], object]) -> str:
    with pytest.raises(OpenTarError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return str(caught.value)


@pytest.mark.parametrize("kind", FILES)
def test_files(published: Path, tmp_path: Path, kind: str) -> None:
    make, expected = FILES[kind]
    path = tmp_path / "weights.pth"
    make(path)
    llm, ta_tok = published / "Tar-1.5B", published / "ta_tok.pth"
    ar, vqgan = published / "ar_dtok_lp_256px.pth", published / "vq_ds16_t2i.pt"
    calls = (
        lambda: import_tar(tmp_path / "out", llm=llm, ta_tok=path),
        lambda: import_tar(tmp_path / "out", llm=path, ta_tok=ta_tok),
        lambda: read_ar_dtok(path),
        lambda: read_vqgan(path),
        lambda: import_tar(tmp_path / "out", llm=llm, ta_tok=ta_tok, ar=[ar], vqgan=vqgan, sana=[path]),
        lambda: Tar.from_pretrained(path),
    )
    for call in calls:
        line = told(call)
        assert "weights.pth" in line
        assert expected in line
    assert sorted(one.name for one in tmp_path.iterdir()) == ["weights.pth"]


@pytest.mark.parametrize("name", ["ta_tok.pth.incomplete", "ta_tok.pth.part", "ta_tok.pth.crdownload"])
def test_downloads_that_were_broken_off(published: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\3\4" + bytes(500))
    line = told(lambda: import_tar(tmp_path / "out", llm=published / "Tar-1.5B", ta_tok=tmp_path / name))
    assert "is an interrupted download" in line


@pytest.mark.parametrize(
    ("given", "argument", "expected"),
    [
        ("ar_dtok_lp_256px.pth", "ta_tok", "is an AR de-tokenizer (ar_dtok_*.pth), not a tokenizer file"),
        ("vq_ds16_t2i.pt", "ta_tok", "is a VQGAN (vq_ds16_t2i.pt), not a tokenizer file"),
        ("ta_tok.pth", "ar", "is an image tokenizer (ta_tok.pth), not an AR de-tokenizer"),
        ("vq_ds16_t2i.pt", "ar", "is a VQGAN (vq_ds16_t2i.pt), not an AR de-tokenizer"),
        ("ta_tok.pth", "vqgan", "is an image tokenizer (ta_tok.pth), not a VQGAN"),
        ("ar_dtok_lp_256px.pth", "vqgan", "is an AR de-tokenizer (ar_dtok_*.pth), not a VQGAN"),
        ("ta_tok.pth", "llm", "is an image tokenizer (ta_tok.pth); give it to `opentar import tar` as --ta-tok"),
        ("Tar-SANA-600M-512px", "llm", "is a diffusers pipeline (SanaPipeline); it is a diffusion de-tokenizer: give"),
        ("Tar-1.5B", "sana", "is a language model of transformers (qwen2); give it to `opentar import tar` as --llm"),
        ("Tar-1.5B", "ta_tok", "is a language model of transformers (qwen2)"),
        ("Tar-SANA-600M-512px", "ta_tok", "as --sana"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_the_right_file_at_the_wrong_place(
    own: Own, published: Path, tmp_path: Path, given: str, argument: str, expected: str, zipped: bool
) -> None:
    path = published / given
    if not zipped and path.is_file():
        path = own(given)
        torch.save(torch.load(path, weights_only=False), path, _use_new_zipfile_serialization=False)
    files: dict[str, Any] = {
        "llm": published / "Tar-1.5B",
        "ta_tok": published / "ta_tok.pth",
        "ar": [published / "ar_dtok_lp_256px.pth"],
        "vqgan": published / "vq_ds16_t2i.pt",
    }
    changed = {argument: [path] if argument in ("ar", "sana") else path}
    assert expected in told(lambda: import_tar(tmp_path / "out", **files | changed))


def _adapter(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "csuhan/Tar-1.5B"})
    )
    save_file({"base_model.lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")


def _without_weights(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"GGUF" + bytes(20))

    return change


def _quantized(declared: dict[str, Any] | None, tensor: str, kind: torch.dtype) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        change_json(folder / "config.json", quantization_config=declared)
        path = folder / "model.safetensors"
        if tensor:
            save_file(load_file(path) | {tensor: torch.zeros(2, 2).to(kind)}, path, metadata={"format": "pt"})

    return change


def _replaced(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


LAYER = "model.layers.0.mlp.up_proj"
FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "adapter": (_adapter, "is a PEFT adapter (LORA of 'csuhan/Tar-1.5B'), which holds changes to a model"),
    "gguf": (_without_weights("tar-q4_k_m.gguf"), "is a folder with weights in GGUF (llama.cpp); no command takes it"),
    "bin": (_without_weights("pytorch_model.bin"), "weights in PyTorch's pickle format (.bin); no command takes it"),
    "bins": (_without_weights("pytorch_model-00001-of-00002.bin"), "weights in PyTorch's pickle format (.bin)"),
    "onnx": (_without_weights("onnx/model.onnx"), "is a folder with a model in ONNX"),
    "training": (_without_weights("optimizer.pt"), "is a folder with the state of a training (optimizer.pt)"),
    "partial": (_without_weights("model.safetensors.part"), "is a folder that is partly downloaded"),
    "awq": (
        _quantized({"quant_method": "awq", "bits": 4}, f"{LAYER}.qweight", torch.int32),
        f"is a quantized model (awq, such as '{LAYER}.qweight'); no command takes it",
    ),
    "gptq": (_quantized({"quant_method": "gptq"}, f"{LAYER}.qzeros", torch.int32), "is a quantized model (gptq"),
    "bitsandbytes": (
        _quantized({"load_in_4bit": True}, f"{LAYER}.weight.absmax", torch.float32),
        "is a quantized model (bitsandbytes",
    ),
    "compressed-tensors": (
        _quantized({"quant_method": "compressed-tensors"}, f"{LAYER}.weight_scale", torch.float32),
        "is a quantized model (compressed-tensors",
    ),
    "declared only": (
        _quantized({"quant_method": "fp8"}, "", torch.float32),
        "whose config.json declares a quantization (fp8) that its tensors do not have; remove quantization_config",
    ),
    "tensors only": (
        _quantized(None, f"{LAYER}.weight_scale", torch.float32),
        "whose config.json declares no quantization",
    ),
    "int8 only": (_quantized(None, f"{LAYER}.weight", torch.int8), f"('{LAYER}.weight' of type I8) whose config.json"),
    "fp8 only": (_quantized(None, "model.norm.weight", torch.float8_e4m3fn), "of type F8_E4M3) whose config.json"),
    "pointer": (_replaced("model.safetensors", POINTER), "whose 'model.safetensors' is a git-lfs pointer"),
    "pointer config": (_replaced("config.json", POINTER), "whose 'config.json' is a git-lfs pointer"),
    "page config": (_replaced("config.json", PAGE), "whose 'config.json' is a web page"),
    "page": (_replaced("model.safetensors", PAGE), "whose 'model.safetensors' is a web page"),
    "empty": (_replaced("model.safetensors", b""), "whose 'model.safetensors' is empty"),
}
"""kind of folder -> what is done to a language folder, what is told"""


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders(own: Own, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    change, expected = FOLDERS[kind]
    folder = own("Tar-1.5B")
    change(folder)
    for dry_run in (True, False):
        line = told(
            lambda dry_run=dry_run: import_tar(
                tmp_path / "out", llm=folder, ta_tok=published / "ta_tok.pth", dry_run=dry_run
            )
        )
        assert expected in line
    assert expected in told(lambda: Tar.from_pretrained(folder))
    for argv in (["info", folder], ["export", "qwen2", folder, "-o", tmp_path / "out"]):
        assert main([str(word) for word in argv]) in (1, 2)
        err = capsys.readouterr().err
        assert expected in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_models_of_ours_with_pointers_for_weights(published: Path, tmp_path: Path) -> None:
    """A clone without git-lfs."""
    folder = import_tar(tmp_path / "out", llm=published / "Tar-1.5B", ta_tok=published / "ta_tok.pth").folder
    (folder / "language" / "model.safetensors").write_bytes(POINTER)
    line = told(lambda: Tar.from_pretrained(folder))
    assert "holds git-lfs pointers in the place of its weights (language/model.safetensors); run git lfs pull" in line


def test_our_own_folders_at_the_wrong_place(published: Path, tmp_path: Path) -> None:
    folder = import_tar(tmp_path / "out", llm=published / "Tar-1.5B", ta_tok=published / "ta_tok.pth").folder
    assert "is one part of an OpenTar model" in told(lambda: Tar.from_pretrained(folder / "language"))
    given = {"llm": folder, "ta_tok": published / "ta_tok.pth"}
    assert "is a whole model of OpenTar; give it as --model" in told(lambda: import_tar(tmp_path / "new", **given))


def test_pointers_inside_a_sana_folder(own: Own, published: Path, tmp_path: Path) -> None:
    folder = own("Tar-SANA-600M-512px")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(POINTER)
    given = {"llm": published / "Tar-1.5B", "ta_tok": published / "ta_tok.pth"}
    line = told(lambda: import_tar(tmp_path / "out", **given, sana=[folder]))
    assert "whose 'vae/diffusion_pytorch_model.safetensors' is a git-lfs pointer" in line


class Called:
    """What a harmful pickle holds: a function and what it is called with."""

    def __init__(self, function: Callable[..., Any], *given: object) -> None:
        self.function, self.given = function, given

    def __reduce__(self) -> tuple[Any, Any]:
        return self.function, self.given


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda canary: Called(os.system, f"echo run > {canary}"), f"{os.system.__module__}.system"),
        (lambda canary: Called(eval, f"open({str(canary)!r}, 'w')"), "eval"),
        (lambda canary: functools.partial(print, str(canary)), "functools.partial"),
        (lambda canary: torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (lambda canary: np.ones(3), "numpy._core.multiarray._reconstruct"),
        (lambda canary: np.float32, "numpy.float32"),
    ],
    ids=["system", "eval", "partial", "module", "array", "type"],
)
def test_refused_pickles_name_the_class_and_the_key(
    tmp_path: Path, make: Callable[[Path], object], name: str, zipped: bool
) -> None:
    canary, path = tmp_path / "canary", tmp_path / "ta_tok.pth"
    blob = {"model": {"args": argparse.Namespace(hooks=[1, {"deep": make(canary)}]), "sd": {}}}
    torch.save(blob, path, _use_new_zipfile_serialization=zipped)
    line = told(lambda: read_torch_file(path, "a tokenizer file", "ta_tok.pth"))
    assert f"plain values: {name} at 'model.args.hooks.deep'; nothing of it was run" in line
    assert not canary.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_namespaces_and_numpy_scalars_are_plain_values(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "file.pt"
    plain: dict[str, Any] = {"lr": 0.5, "half": 0.25, "steps": 4, "byte": 200, "flag": True, "text": "hé", "big": 7}
    numpy = [np.float64(0.5), np.float16(0.25), np.int64(4), np.uint8(200), np.bool_(True), np.str_("hé")]
    values = dict(zip(plain, [*numpy, np.dtype(">i4").type(7)], strict=True))
    given = argparse.Namespace(**values, inner=argparse.Namespace(a=1), dtype=np.dtype("float32"))
    torch.save({"args": given, "model": {}}, path, _use_new_zipfile_serialization=zipped)
    found = read_torch_file(path, "a VQGAN", "vq_ds16_t2i.pt")["args"]
    assert {name: found[name] for name in plain} == plain
    assert all(type(found[name]) is type(value) for name, value in plain.items())
    assert found["inner"] == {"a": 1}
    assert found["dtype"] == "float32"


def test_checkpoints_with_such_arguments_are_read(published: Path, tmp_path: Path) -> None:
    blob = ar_blob(16)
    args = blob["model"]["args"] | {"norm_eps": np.float64(1e-5), "multiple_of": np.int64(256)}
    blob["model"]["args"] = argparse.Namespace(**args)
    torch.save(blob, tmp_path / "ar.pth")
    torch.save(vq_blob() | {"args": argparse.Namespace(lr=np.float32(1))}, tmp_path / "vq.pt")
    assert read_ar_dtok(tmp_path / "ar.pth")[0] == read_ar_dtok(published / "ar_dtok_lp_256px.pth")[0]
    assert read_vqgan(tmp_path / "vq.pt")[0] == read_vqgan(published / "vq_ds16_t2i.pt")[0]


def test_a_damaged_scalar_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save({"model": {"args": np.datetime64("2020-01-01")}}, path)
    with pytest.raises(WeightsError, match=r"file\.pt"):
        read_torch_file(path, "a VQGAN", "vq_ds16_t2i.pt")


def test_folders_that_are_right_are_not_suspected(own: Own, published: Path, tmp_path: Path) -> None:
    """Leftovers of a download beside a whole folder, and files of other programs, are nobody's business."""
    folder = own("Tar-1.5B")
    for name in ("model.safetensors.part", "tar.gguf", "pytorch_model.bin", "optimizer.pt"):
        shutil.copyfile(folder / "config.json", folder / name)
    given = {"llm": folder, "ta_tok": published / "ta_tok.pth"}
    assert import_tar(tmp_path / "out", **given, dry_run=True).parts
