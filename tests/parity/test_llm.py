"""The published language-model folder, read by our classes, gives the published numbers.

Reference: the authors' inference code on a tiny random Qwen2 (fp32, transformers 4.50). Greedy over the whole
vocabulary is not how we draw; it proves logits and cache. Constrained drawing is then argmax over the code columns.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from opentar.core.errors import WeightsError
from opentar.language.folder import check_tokenizer
from opentar.language.generate import Decoding, draw_codes, generate_text
from opentar.language.model import TarLanguageModel
from opentar.language.prompt import PUBLISHED_TEMPLATE, PromptBuilder
from opentar.language.published import PublishedLanguage, read_llm

pytestmark = pytest.mark.parity

TOLERANCE = 2e-4
TIE = 1e-4
QUESTION = "Describe the image shortly."
DRAWING = "A photo of a macaw"


@pytest.fixture(scope="module")
def values(parity_dir: Path) -> dict[str, np.ndarray]:
    return dict(np.load(parity_dir / "llm.npz"))


@pytest.fixture(scope="module")
def published(parity_dir: Path) -> PublishedLanguage:
    return read_llm(parity_dir / "tar_llm")


@pytest.fixture(scope="module")
def model(published: PublishedLanguage) -> TarLanguageModel:
    return TarLanguageModel.from_state(published.config, published.state, "tar_llm")


@pytest.fixture(scope="module")
def builder(published: PublishedLanguage) -> PromptBuilder:
    return PromptBuilder(published.tokenizer, published.config.vocab, PUBLISHED_TEMPLATE, 2048)


def shown_codes(values: dict[str, np.ndarray], model: TarLanguageModel) -> list[int]:
    ids = torch.from_numpy(values["i2t.ids"][0])
    return model.vocab.code_of(ids[model.vocab.is_code(ids)]).tolist()


@torch.no_grad()
def greedy(model: TarLanguageModel, prompt: list[int], steps: int) -> tuple[torch.Tensor, list[int]]:
    """Logits after the prompt, and argmax over the whole vocabulary with the cache."""
    decoding = Decoding(model, [prompt])
    first = model.logits(decoding.hidden_BH)
    ids: list[int] = []
    for _ in range(steps):
        ids.append(int(model.logits(decoding.hidden_BH)[0].argmax()))
        decoding.push(torch.tensor(ids[-1:]))
    return first, ids


def test_alphabet_is_read_from_the_folder(published: PublishedLanguage) -> None:
    vocab = published.config.vocab
    assert (vocab.text_size, vocab.codebook_size, vocab.image_start, vocab.first_code) == (522, 1024, 522, 527)
    assert (published.config.pieces, published.config.padding, published.config.end) == (500, 500, 502)
    check_tokenizer(published.config, published.tokenizer)


def test_drawing_prompt_and_logits(values, model: TarLanguageModel, builder: PromptBuilder) -> None:
    prompt = builder.draw(DRAWING, builder.vocab.scale(2))
    reference = values["t2i.s2.p0.rp1.0.seq"][0].tolist()
    assert prompt == reference[: len(prompt)]
    assert len(reference) == len(prompt) + 81
    logits, ids = greedy(model, prompt, 81)
    np.testing.assert_allclose(logits.numpy(), values["t2i.s2.p0.last_logits"], atol=TOLERANCE, rtol=0)
    assert values["t2i.s2.p0.rp1.0.gap"].min() > TIE
    assert ids == reference[len(prompt) :]


def test_constrained_drawing_is_argmax_over_the_code_columns(values, model, builder: PromptBuilder) -> None:
    scale = builder.vocab.scale(2)
    codes = draw_codes(model, [builder.draw(DRAWING, scale)], scale, [0], temperature=0)
    columns = values["t2i.s2.p0.last_logits"][0, builder.vocab.first_code :]
    assert codes.shape == (1, 81)
    assert codes[0, 0] == columns.argmax()


def test_reading_prompt_and_logits(values, model: TarLanguageModel, builder: PromptBuilder) -> None:
    prompt = builder.read([shown_codes(values, model)], QUESTION)
    assert prompt == values["i2t.ids"][0].tolist()
    logits, ids = greedy(model, prompt, 48)
    np.testing.assert_allclose(logits.numpy(), values["i2t.last_logits"], atol=TOLERANCE, rtol=0)
    assert values["i2t.gap"].min() > TIE
    assert ids == values["i2t.seq"][0, len(prompt) :].tolist()


def test_answers_are_text_although_the_free_model_writes_codes(values, model, builder: PromptBuilder) -> None:
    prompt = builder.read([shown_codes(values, model)], QUESTION)
    (answer,) = generate_text(model, [prompt], max_new_tokens=20)
    assert all(token < builder.tokenizer.pieces for token in answer)
    free = values["i2t.seq"][0, len(prompt) :]
    assert bool(builder.vocab.is_code(free).any())


def test_trainer_shape_loads_to_the_same_weights(
    parity_dir: Path, published: PublishedLanguage, tmp_path: Path
) -> None:
    folder = tmp_path / "llava"
    shutil.copytree(parity_dir / "tar_llm", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "llava_qwen", "architectures": ["LlavaQwenForCausalLM"], "image_start_tag_id": 522}
    (folder / "config.json").write_text(json.dumps(config))
    state = load_file(folder / "model.safetensors")
    state["model.vision_tower.vision_tower.encoder.weight"] = torch.zeros(3, 3)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    again = read_llm(folder)
    assert again.config == published.config
    assert set(again.state) == set(published.state)
    assert all(torch.equal(again.state[name], tensor) for name, tensor in published.state.items())


def test_added_tokens_cost_nothing_and_bind_nothing(published: PublishedLanguage) -> None:
    for text in ("<I12>", "<im_start><S0>", "<|im_end|>", "<tool_call>", "a <I7> b"):
        ids = published.tokenizer.encode(text)
        assert max(ids) < 500
        assert published.tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "llama", "llama"),
        ("rope_scaling", {"type": "yarn", "factor": 4.0}, "rope_scaling"),
        ("hidden_act", "gelu", "hidden_act"),
        ("use_sliding_window", True, "use_sliding_window"),
        ("hidden_size", None, "hidden_size"),
    ],
)
def test_unknown_settings_are_refused_by_name(parity_dir: Path, tmp_path: Path, key, value, message) -> None:
    folder = tmp_path / "strange"
    shutil.copytree(parity_dir / "tar_llm", folder)
    config = json.loads((folder / "config.json").read_text())
    config = {**config, key: value} if value is not None else {k: v for k, v in config.items() if k != key}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=message):
        read_llm(folder)


def test_damaged_folders_are_refused(parity_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(parity_dir / "tar_llm", folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"model\.safetensors is missing or damaged"):
        read_llm(folder)
    (folder / "model.safetensors").write_bytes(whole)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for entry in tokenizer["added_tokens"]:
        if entry["content"] == "<I7>":
            entry["id"] = 9999
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(WeightsError, match="<I7> has id 9999; in the published order it is 534"):
        read_llm(folder)
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        read_llm(tmp_path / "nowhere")
