"""A plain Qwen2 folder: transformers loads it unchanged, our own reader gives the same ids and the same logits back."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

import sequences
from decoding import draw_codes
from opentar.checkpoints.convert.qwen2 import export_qwen2
from opentar.checkpoints.find import find_model
from opentar.core.errors import ConfigError, ModelError, OutputError, WeightsError
from opentar.language.folder import Language, load_language, save_language
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.language.prompt import PUBLISHED_TEMPLATE, ChatTemplate, PromptBuilder, Turn
from opentar.language.published import read_llm
from opentar.language.tokenizer import train_bpe

GRID = 12
TEXTS = ("three red apples", "浅蓝色背景上的三个红苹果", "a <I12> b<|im_end|>c")


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    spec = importlib.util.spec_from_file_location("opentar_tests_tiny", Path(__file__).parents[1] / "tiny.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_model(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def language(tiny_model: Path) -> Language:
    return load_language(tiny_model / "language")


@pytest.fixture(scope="session")
def exported(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "qwen2"
    export_qwen2(tiny_model, folder)
    return folder


@pytest.mark.parametrize("folds", [False, True])
def test_the_card_tells_of_the_one_spelling(tmp_path: Path, tiny_model: Path, folds: bool) -> None:
    source = "nano" if folds else tiny_model
    export_qwen2(find_model(source), tmp_path / "qwen2")
    card = (tmp_path / "qwen2" / "README.md").read_text(encoding="utf-8")
    assert ("one spelling" in card) == folds
    assert "\n- Reading: " in card


def again(folder: Path, language: Language) -> Language:
    """The exported folder through our reader of published ones."""
    read = read_llm(folder, GRID)
    model = TarLanguageModel.from_state(read.config, read.state)
    builder = PromptBuilder(read.tokenizer, read.config.vocab, language.builder.template, read.config.max_length)
    return Language(model, builder)


@torch.no_grad()
def logits(language: Language, ids: list[int]) -> torch.Tensor:
    return language.model.logits(language.model.hidden(torch.tensor([ids])))


def test_round_trip_keeps_ids_and_logits(exported: Path, language: Language) -> None:
    back = again(exported, language)
    scale = back.builder.vocab.scale(2)
    for text in TEXTS:
        ids = sequences.draw(language.builder, text, language.builder.vocab.scale(2))
        assert sequences.draw(back.builder, text, scale) == ids
        assert torch.allclose(logits(back, ids), logits(language, ids), atol=1e-6)
    state = language.model.state()
    assert set(back.model.state()) == set(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.model.state().items())
    assert back.builder.tokenizer.to_json() == language.builder.tokenizer.to_json()


@torch.no_grad()
def test_transformers_loads_it_unchanged(exported: Path, language: Language) -> None:
    model = AutoModelForCausalLM.from_pretrained(exported, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert type(model) is Qwen2ForCausalLM
    assert model.dtype == torch.float32
    vocab = language.model.vocab
    assert len(tokenizer) == vocab.size == model.get_input_embeddings().num_embeddings
    names = ["<im_start>", "<im_end>", "<S0>", "<S1>", "<S2>", "<I0>", f"<I{vocab.codebook_size - 1}>"]
    expected = [vocab.image_start, vocab.image_end, *(vocab.scale_token(k) for k in range(3))]
    expected += [vocab.first_code, vocab.size - 1]
    assert tokenizer.convert_tokens_to_ids(names) == expected
    assert tokenizer("".join(names)).input_ids == expected
    # Boundaries are special and vanish on request, scales and codes are not and stay.
    assert tokenizer.decode(expected, skip_special_tokens=True).replace(" ", "") == "".join(names[2:])
    prompt = sequences.draw(language.builder, TEXTS[0], vocab.scale(2))
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": TEXTS[0]}], add_generation_prompt=True, tokenize=False
    )
    assert tokenizer(f"{said}<im_start><S2>").input_ids == prompt
    theirs = model(torch.tensor([prompt])).logits
    torch.testing.assert_close(theirs, logits(language, prompt), atol=1e-5, rtol=0)


def test_transformers_draws_the_same_codes_from_it(exported: Path, language: Language) -> None:
    model = AutoModelForCausalLM.from_pretrained(exported)
    vocab, scale = language.model.vocab, language.model.vocab.scale(2)
    prompt = sequences.draw(language.builder, TEXTS[0], scale)
    allowed = list(range(vocab.first_code, vocab.size))
    theirs = model.generate(
        torch.tensor([prompt]), max_new_tokens=scale.length, prefix_allowed_tokens_fn=lambda *_: allowed
    )
    ours = draw_codes(language.model, [prompt], scale, [0], temperature=0)
    assert vocab.code_of(theirs[0, len(prompt) :]).tolist() == ours[0].tolist()


def test_nothing_of_sampling_leaks(exported: Path, language: Language) -> None:
    settings = json.loads((exported / "generation_config.json").read_text())
    config = language.model.config
    assert settings == {
        "do_sample": False,
        "eos_token_id": [config.end, config.padding],
        "pad_token_id": config.padding,
    }
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["model_type"] == "qwen2"
    assert not {"opentar", "storage", "auto_map", "temperature", "top_p"} & set(config)
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]


@pytest.mark.parametrize("system", [None, "You are a helpful assistant.", 'You are "helpful",\nalways {{ so }}.'])
def test_the_chat_template_builds_what_our_builder_builds(tiny, tmp_path: Path, system: str | None) -> None:
    model, builder = tiny.tiny_language()
    builder = PromptBuilder(builder.tokenizer, builder.vocab, ChatTemplate(system=system), builder.limit)
    save_language(tmp_path / "own", model, builder)
    export_qwen2(tmp_path / "own", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    talks = [
        [("user", "a dog")],
        [("user", "a dog"), ("assistant", "a cat"), ("user", "why?\n")],
        [("system", "be brief"), ("user", "a dog")],
    ]
    for talk in talks:
        messages = [{"role": role, "content": text} for role, text in talk]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ids == sequences.conversation(builder, [Turn(role, (text,)) for role, text in talk])


@pytest.mark.parametrize(
    ("storage", "dtype", "written"),
    [
        ("float32", None, "fp32"),
        ("float32", "bf16", "bf16"),
        ("bfloat16", None, "bf16"),
        ("bfloat16", "fp32", "fp32"),
        ("int8", None, "fp32"),
    ],
)
def test_numbers_are_kept_or_rounded_once(tiny, tmp_path: Path, storage: str, dtype: str | None, written: str) -> None:
    torch.manual_seed(3)
    save_language(tmp_path / "own", *tiny.tiny_language(), storage=storage)
    report = export_qwen2(tmp_path / "own", tmp_path / "out", dtype=dtype)
    assert report.dtype == written
    kind = torch.bfloat16 if written == "bf16" else torch.float32
    state, stored = read_llm(tmp_path / "out", GRID).state, load_language(tmp_path / "own").model.state()
    assert report.bytes == sum(tensor.numel() * kind.itemsize for tensor in stored.values())
    for name, tensor in state.items():
        assert tensor.dtype == kind, name
        assert torch.equal(tensor, stored[name].to(kind)), name
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == kind


def test_large_models_are_several_files(tiny_model: Path, language: Language, tmp_path: Path) -> None:
    steps = []
    report = export_qwen2(tiny_model, tmp_path / "out", shard_bytes=8000, step=lambda *step: steps.append(step))
    assert len(report.files) > 2
    assert report.files[0] == f"model-00001-of-{len(report.files):05d}.safetensors"
    assert all((tmp_path / "out" / name).is_file() for name in report.files)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    count = len(language.model.state())
    assert steps == [("weights", done, count) for done in range(1, count + 1)]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    back = again(tmp_path / "out", language).model.state()
    for name, tensor in language.model.state().items():
        assert torch.equal(loaded[name], tensor), name
        assert torch.equal(back[name], tensor), name


def test_a_published_folder_goes_in_and_comes_out(root: Path, tmp_path: Path) -> None:
    published = read_llm(root / "tests" / "parity" / "tar_llm")
    model = TarLanguageModel.from_state(published.config, published.state)
    builder = PromptBuilder(published.tokenizer, published.config.vocab, PUBLISHED_TEMPLATE, 2048)
    save_language(tmp_path / "own", model, builder)
    export_qwen2(tmp_path / "own", tmp_path / "out")
    back = read_llm(tmp_path / "out")
    assert back.config == published.config
    assert back.tokenizer.to_json() == published.tokenizer.to_json()
    assert all(torch.equal(tensor, published.state[name]) for name, tensor in back.state.items())
    theirs = Tokenizer.from_file(str(root / "tests" / "parity" / "tar_llm" / "tokenizer.json"))
    ours = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    text = "<|im_start|>user\nA <tool_call> photo<|im_end|><im_start><S2><I0><I1023><im_end>"
    assert ours.encode(text).ids == theirs.encode(text).ids
    assert ours.get_vocab() == theirs.get_vocab()


def test_a_gap_before_the_image_tokens_keeps_their_ids(tmp_path: Path) -> None:
    tokenizer = train_bpe(["a red car"] * 3, 270)
    config = LanguageConfig(
        text_size=tokenizer.size, codebook_size=20, first_new=tokenizer.size + 7, rows=tokenizer.size + 50, hidden=16,
        layers=1, heads=2, kv_heads=1, head_size=8, mlp=32, max_length=512,
    )  # fmt: skip
    save_language(tmp_path / "own", TarLanguageModel(config), PromptBuilder(tokenizer, config.vocab, limit=512))
    report = export_qwen2(tmp_path / "own", tmp_path / "out")
    assert (report.first_new, report.rows) == (tokenizer.size + 7, tokenizer.size + 50)
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("<im_start><S2><I19>").input_ids
    assert ids == [config.vocab.image_start, config.vocab.scale_token(2), config.vocab.size - 1]
    back = read_llm(tmp_path / "out", GRID).config
    assert (back.vocab.image_start, back.table_rows) == (report.first_new, report.rows)


def test_what_cannot_be_exported_is_named(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not an empty folder"):
        export_qwen2(tiny_model, tmp_path / "full")
    with pytest.raises(OutputError, match="not an empty folder"):
        export_qwen2(tiny_model, tiny_model)
    with pytest.raises(ConfigError, match="Did you mean 'fp32'"):
        export_qwen2(tiny_model, tmp_path / "out", dtype="fp23")
    with pytest.raises(ModelError, match="unknown"):
        export_qwen2(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(WeightsError, match="is one part of an OpenTar model; give the folder of the whole model"):
        export_qwen2(tiny_model / "ta_tok", tmp_path / "out")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: usage)
        with pytest.raises(OutputError, match=r"needs 1\.1 MB and its disk has 1 kB free"):
            export_qwen2(tiny_model, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("opentar.core.memory.available_bytes", lambda: 1000)
        with pytest.raises(ModelError, match=r"exporting .*language.* needs .* of memory and 1 kB are available"):
            export_qwen2(tiny_model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nan_is_not_exported(language: Language, tiny_model: Path, tmp_path: Path, monkeypatch) -> None:
    state = language.model.state()
    broken = {**state, "model.norm.weight": torch.full_like(state["model.norm.weight"], float("nan"))}
    monkeypatch.setattr(TarLanguageModel, "state", lambda self: broken)
    with pytest.raises(WeightsError, match=r"model\.norm\.weight holds NaN"):
        export_qwen2(tiny_model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_command(tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from opentar.cli import main

    out = tmp_path / "q"
    assert main(["export", "qwen2", str(tiny_model), "-o", str(out), "--dtype", "bf16", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["dtype"], told["files"], told["folder"]) == ("bf16", ["model.safetensors"], str(out))
    assert main(["export", "qwen2", str(tiny_model), "-o", str(out)]) == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert main(["export", "qwen2", str(tiny_model), "-o", str(tmp_path / "r")]) == 0
    assert capfd.readouterr().out == f"{tmp_path / 'r'}: 369 rows, fp32, 33 kB in 1 file\n"
