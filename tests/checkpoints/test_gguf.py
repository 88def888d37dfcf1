"""A GGUF file holds the numbers, the tokenizer and the alphabet of the model it was made of, whole or not at all."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from opentar.checkpoints.convert import gguf_tensors
from opentar.checkpoints.convert.gguf import export_gguf
from opentar.checkpoints.convert.gguf_folder import TARGETS
from opentar.checkpoints.convert.gguf_tensors import GGUF_TYPES, kind_of, packer
from opentar.checkpoints.convert.gguf_tokenizer import gguf_tokenizer
from opentar.checkpoints.convert.quantizing import quantize_model
from opentar.checkpoints.find import find_model
from opentar.cli import main
from opentar.core import folder as checkpoint
from opentar.core.errors import ConfigError, ModelError, OutputError, WeightsError
from opentar.core.gguf_header import read_gguf
from opentar.language.folder import load_builder, load_language, save_language
from opentar.language.gguf_facts import check_facts
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.language.prompt import PromptBuilder
from opentar.language.tokenizer import TextTokenizer, train_bpe
from opentar.nn import llama_library

gguf = pytest.importorskip("gguf", reason="pip install 'opentar[llamacpp]'")
needs_library = pytest.mark.skipif(not llama_library.available(), reason="pip install 'opentar[llamacpp]'")
ERRORS = {"f32": 0.0, "f16": 5e-4, "bf16": 4e-3, "q8_0": 0.005, "q4_0": 0.08, "q4_k_m": 0.08}
"""Largest mean error of a number, as a share of their standard deviation: half a step of each type and a little."""


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    spec = importlib.util.spec_from_file_location("opentar_tests_tiny", Path(__file__).parents[1] / "tiny.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_model(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def written(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a file as float32, by the package's own reader."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        rows = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found[tensor.name] = torch.from_numpy(np.array(rows, np.float32)).reshape(*tensor.shape.tolist()[::-1])
    return found


@pytest.mark.parametrize("to", GGUF_TYPES)
def test_numbers_are_those_of_the_model(tmp_path: Path, to: str) -> None:
    if to == "q4_k_m" and not llama_library.available():
        pytest.skip("pip install 'opentar[llamacpp]'")
    steps: list[tuple[str, int, int]] = []
    report = export_gguf("nano", tmp_path / "n.gguf", to=to, step=lambda *step: steps.append(step))
    model = load_language(find_model("nano") / "language", torch.float32).model
    state = gguf_tensors.named(model.state())
    tensors = written(report.path)
    assert set(tensors) == set(state) and steps[-1] == ("weights", len(state), len(state))
    for name, tensor in tensors.items():
        error = (tensor - state[name]).abs().mean() / state[name].std()
        assert error <= (ERRORS[to] if tensor.ndim > 1 else 0), (name, float(error))
    header = read_gguf(report.path)
    check_facts(report.path, header, model.config, checkpoint.folder_hash(find_model("nano")))
    assert (report.rows, report.first_code) == (model.config.table_rows, model.config.vocab.first_code)
    assert report.bytes == report.path.stat().st_size and report.notes == ()
    assert header.values["opentar.licence"].startswith("Apache-2.0")


@needs_library
def test_the_library_and_the_package_pack_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for to in ("q8_0", "q4_0"):
        one = export_gguf("nano", tmp_path / f"{to}-library.gguf", to=to).path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(llama_library, "available", lambda: False)
            other = export_gguf("nano", tmp_path / f"{to}-package.gguf", to=to).path.read_bytes()
        differing = np.count_nonzero(np.frombuffer(one, np.uint8) != np.frombuffer(other, np.uint8))
        assert len(one) == len(other) and differing <= len(one) // 1000, to


def test_four_bit_blocks_without_the_library_name_the_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(llama_library, "available", lambda: False)
    assert [packer({0, 8}), packer({2}), packer({0, 1, 30})] == ["gguf", "gguf", "torch"]
    with pytest.raises(ModelError, match=r"pip install 'opentar\[llamacpp\]', or choose q8_0 or q4_0"):
        export_gguf("nano", tmp_path / "n.gguf", to="q4_k_m")
    assert list(tmp_path.iterdir()) == []


def test_the_mixture_of_q4_k_m() -> None:
    kinds = [kind_of(f"blk.{layer}.ffn_down.weight", (256, 512), "q4_k_m", 16, tied=True) for layer in range(16)]
    assert [layer for layer, kind in enumerate(kinds) if kind == 14] == [0, 1, 4, 7, 10, 13, 14, 15]
    assert kind_of("blk.0.attn_q.weight", (256, 256), "q4_k_m", 16, tied=True) == 12
    assert kind_of("token_embd.weight", (999, 256), "q4_k_m", 16, tied=True) == 14
    assert kind_of("token_embd.weight", (999, 256), "q4_k_m", 16, tied=False) == 12
    assert kind_of("output.weight", (999, 256), "q4_k_m", 16, tied=False) == 14
    # Rows that are no whole blocks go into larger types, as llama.cpp does it.
    assert kind_of("blk.0.attn_q.weight", (96, 96), "q4_k_m", 16, tied=True) == 6
    assert kind_of("token_embd.weight", (999, 96), "q4_k_m", 16, tied=True) == 8
    assert kind_of("blk.0.attn_q.weight", (40, 40), "q4_0", 16, tied=True) == 1
    assert kind_of("blk.0.attn_q.bias", (256,), "q4_0", 16, tied=True) == 0


@needs_library
def test_narrow_rows_are_told(tiny_model: Path, tmp_path: Path) -> None:
    report = export_gguf(tiny_model, tmp_path / "t.gguf", to="q4_k_m")
    assert report.notes == ("8 tensors have rows that are no whole blocks of q4_k_m and are stored in a larger type",)
    assert {tensor.kind for tensor in read_gguf(report.path).tensors.values()} == {0, 1, 8}


def test_the_tokenizer_has_an_entry_for_each_row(tmp_path: Path) -> None:
    tokenizer = train_bpe(["a red car"] * 3, 270)
    config = LanguageConfig(
        text_size=tokenizer.size, codebook_size=20, first_new=tokenizer.size + 7, rows=tokenizer.size + 50, hidden=16,
        layers=1, heads=2, kv_heads=1, head_size=8, mlp=32, max_length=512,
    )  # fmt: skip
    builder = PromptBuilder(tokenizer, config.vocab, limit=512)
    found = gguf_tokenizer(builder, config.table_rows)
    assert not isinstance(found, str)
    assert len(found.tokens) == len(found.types) == config.table_rows == len(set(found.tokens))
    vocab = config.vocab
    assert [found.tokens[vocab.image_start], found.tokens[vocab.first_code]] == ["<im_start>", "<I0>"]
    assert [found.types[vocab.image_start], found.types[vocab.scale_token(1)], found.types[vocab.first_code]] == [
        3,
        4,
        4,
    ]
    assert found.types[config.end] == 3 and found.types[0] == 1
    # The gap before the image tokens and the rows behind them.
    assert {found.types[number] for number in (tokenizer.size, config.table_rows - 1)} == {5}
    spelled = json.loads(tokenizer.to_json())["model"]
    assert [found.tokens[number] for number in sorted(spelled["vocab"].values())] == sorted(
        spelled["vocab"], key=spelled["vocab"].get
    )
    assert found.merges == [merge if isinstance(merge, str) else " ".join(merge) for merge in spelled["merges"]]


def test_a_foreign_tokenizer_is_left_out(tiny: ModuleType, tmp_path: Path) -> None:
    model, builder = tiny.tiny_language()
    data = json.loads(builder.tokenizer.to_json())
    data["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s+"
    foreign = PromptBuilder(TextTokenizer.from_data(data), builder.vocab, builder.template, builder.limit)
    save_language(tmp_path / "own", model, foreign)
    report = export_gguf(tmp_path / "own", tmp_path / "t.gguf")
    assert report.tokenizer == "none"
    assert report.notes == ("the file holds no tokenizer and takes ids only: it does not split text as Qwen2 does",)
    assert "tokenizer.ggml.tokens" not in read_gguf(report.path).values
    data["pre_tokenizer"] = json.loads(builder.tokenizer.to_json())["pre_tokenizer"]
    for normalizer, told in (({"type": "NFC"}, ""), ({"type": "Lowercase"}, "its normalizer is Lowercase")):
        data["normalizer"] = normalizer
        Tokenizer.from_str(json.dumps({**data, "added_tokens": []}))
        same = PromptBuilder(TextTokenizer.from_data(data), builder.vocab, builder.template, builder.limit)
        found = gguf_tokenizer(same, model.config.table_rows)
        assert (found if told else "") == told


def test_what_cannot_be_written_is_named(tiny: ModuleType, tiny_model: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "t.gguf"
    with pytest.raises(ConfigError, match=r"'q8' is no type of GGUF; choose f32, .*Did you mean 'q8_0'"):
        export_gguf(tiny_model, out, to="q8")
    with pytest.raises(ModelError, match="unknown"):
        export_gguf(tmp_path / "nowhere", out)
    with pytest.raises(WeightsError, match="is one part of an OpenTar model"):
        export_gguf(tiny_model / "ta_tok", out)
    out.write_text("mine")
    with pytest.raises(OutputError, match="exists; choose the name of a new file"):
        export_gguf(tiny_model, out)
    assert out.read_text() == "mine"
    out.unlink()
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: usage)
        with pytest.raises(OutputError, match=r"needs 1\.1 MB and its disk has 1 kB free"):
            export_gguf(tiny_model, out)
    with monkeypatch.context() as patch:
        patch.setattr("opentar.core.memory.available_bytes", lambda: 1000)
        with pytest.raises(ModelError, match=r"writing .* as GGUF needs .* of memory and 1 kB are available"):
            export_gguf(tiny_model, out)
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(ModelError, match=r"needs the package gguf; install it with: pip install 'opentar\[llama"):
            export_gguf(tiny_model, out)
    model, builder = tiny.tiny_language()
    narrow = TarLanguageModel(dataclasses.replace(model.config, head_size=6)).eval()
    save_language(tmp_path / "narrow", narrow, builder)
    with pytest.raises(ModelError, match="2 heads of 6 stand against a width of 16"):
        export_gguf(tmp_path / "narrow", out)
    assert not out.exists() and not list(tmp_path.glob(".*"))


def test_numbers_that_a_type_cannot_hold_are_refused(tiny: ModuleType, tmp_path: Path, monkeypatch) -> None:
    model, builder = tiny.tiny_language()
    with torch.no_grad():
        model.qwen.model.layers[0].mlp.up_proj.weight[0, 0] = 1e5
    save_language(tmp_path / "large", model, builder)
    with pytest.raises(WeightsError, match=r"blk\.0\.ffn_up\.weight holds numbers too large for float16; choose bf16"):
        export_gguf(tmp_path / "large", tmp_path / "t.gguf", to="f16")
    assert export_gguf(tmp_path / "large", tmp_path / "t.gguf", to="bf16").bytes
    state = model.state()
    broken = {**state, "model.norm.weight": torch.full_like(state["model.norm.weight"], float("nan"))}
    monkeypatch.setattr(TarLanguageModel, "state", lambda self: broken)
    with pytest.raises(WeightsError, match=r"output_norm\.weight holds NaN"):
        export_gguf(tmp_path / "large", tmp_path / "u.gguf", to="f32")
    assert not (tmp_path / "u.gguf").exists() and not list(tmp_path.glob(".*"))


def test_a_model_folder_with_its_language_model_in_gguf(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = quantize_model(tiny_model, out, "gguf-f16")
    file = out / "language" / "model.gguf"
    assert report.forms["language"].keys() == {"f16"} and not report.forms["detok_ar"]
    checkpoint.verify(out)
    assert "language/model.gguf" in checkpoint.saved_files(out)
    config = checkpoint.read_config(out / "language")
    assert config["storage"] == "gguf-f16"
    assert config["opentar"]["gguf_source"] == checkpoint.folder_hash(tiny_model)
    assert not list((out / "language").glob("*.safetensors"))
    for part in ("ta_tok", "detok_ar", "detok_diffusion"):
        assert checkpoint.folder_hash(out / part) == checkpoint.folder_hash(tiny_model / part)
    builder = load_builder(out / "language")
    assert builder.tokenizer.encode("three red apples") == load_builder(tiny_model / "language").tokenizer.encode(
        "three red apples"
    )
    with pytest.raises(ModelError, match="holds a GGUF file, which PyTorch does not run; use the engine llamacpp"):
        load_language(out / "language")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match="has changed since it was saved"):
        checkpoint.verify(out)


def test_a_gguf_file_that_no_manifest_names_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "own")
    (tmp_path / "own" / "language" / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(WeightsError, match=r"model\.gguf.* would be read, but manifest\.json does not name it"):
        load_language(tmp_path / "own" / "language")


def test_targets_of_quantizing_are_named(tiny_model: Path, tmp_path: Path) -> None:
    assert {"gguf-q8_0", "gguf-q4_k_m"} <= set(TARGETS)
    with pytest.raises(ConfigError, match=r"cannot quantize to 'gguf-q8'; there are: int8, .*Did you mean 'gguf-q8_0'"):
        quantize_model(tiny_model, tmp_path / "out", "gguf-q8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not an empty folder"):
        quantize_model(tiny_model, tmp_path / "full", "gguf-q8_0")


def test_the_command(tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.gguf"
    assert main(["export", "gguf", str(tiny_model), "-o", str(out), "--to", "bf16", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["to"], told["path"], told["bytes"], told["tokenizer"]) == (
        "bf16",
        str(out),
        out.stat().st_size,
        "gpt2",
    )
    assert main(["export", "gguf", str(tiny_model), "-o", str(out)]) == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert main(["export", "gguf", str(tiny_model), "-o", "-"]) == 2
    assert "is not the name of a file" in capfd.readouterr().err
    assert main(["export", "gguf", str(tiny_model), "-o", str(tmp_path / "u.gguf")]) == 0
    assert capfd.readouterr().out.startswith(f"{tmp_path / 'u.gguf'}: 369 rows, f16, ")
    quantize_model(tiny_model, tmp_path / "q", "gguf-q8_0")
    capfd.readouterr()
    assert main(["info", str(tmp_path / "q"), "--json"]) == 0
    part = json.loads(capfd.readouterr().out)["parts"]["language"]
    assert part["storage"] == "gguf-q8_0" and part["parameters"] > 5000 and "float16" in part["dtypes"]
