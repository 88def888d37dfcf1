"""The published language-model folder: what is read, what is refused, and what must not come along."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sequences
from decoding import code_ids, draw_codes, generate_text
from opentar.core.errors import WeightsError
from opentar.language.folder import check_tokenizer
from opentar.language.model import TarLanguageModel
from opentar.language.prompt import PUBLISHED_TEMPLATE, PromptBuilder
from opentar.language.published import PublishedLanguage, read_llm
from opentar.nn.sampling import guide

pytestmark = pytest.mark.parity

DRAWINGS = ("A photo of a macaw", "three red apples on a light blue background, seen from above", "A dog")


@pytest.fixture(scope="module")
def published(parity_dir: Path) -> PublishedLanguage:
    return read_llm(parity_dir / "tar_llm")


@pytest.fixture(scope="module")
def model(published: PublishedLanguage) -> TarLanguageModel:
    return TarLanguageModel.from_state(published.config, published.state, "tar_llm")


@pytest.fixture(scope="module")
def builder(published: PublishedLanguage) -> PromptBuilder:
    return PromptBuilder(published.tokenizer, published.config.vocab, PUBLISHED_TEMPLATE, published.config.max_length)


@pytest.fixture(scope="module")
def listed(parity_dir: Path) -> dict[str, int]:
    """Added tokens of tokenizer.json."""
    data = json.loads((parity_dir / "tar_llm" / "tokenizer.json").read_text())
    return {entry["content"]: entry["id"] for entry in data["added_tokens"]}


def shown(builder: PromptBuilder, index: int) -> list[int]:
    """Some codes of a scale."""
    length = builder.vocab.scale(index).length
    return [(37 * place + index) % builder.vocab.codebook_size for place in range(length)]


def test_alphabet_is_read_from_the_folder(published: PublishedLanguage, listed: dict[str, int]) -> None:
    vocab = published.config.vocab
    assert (vocab.image_start, vocab.image_end) == (listed["<im_start>"], listed["<im_end>"])
    assert [vocab.scale_token(index) for index in range(3)] == [listed[f"<S{index}>"] for index in range(3)]
    assert vocab.first_code == listed["<I0>"]
    assert vocab.size - 1 == listed[f"<I{vocab.codebook_size - 1}>"]
    assert f"<I{vocab.codebook_size}>" not in listed
    assert (published.config.padding, published.config.end) == (listed["<|endoftext|>"], listed["<|im_end|>"])
    check_tokenizer(published.config, published.tokenizer)


def test_answers_are_text_and_drawings_are_codes(model: TarLanguageModel, builder: PromptBuilder) -> None:
    prompt = sequences.read(builder, [shown(builder, 0)], "Describe the image shortly.")
    (answer,) = generate_text(model, [prompt], max_new_tokens=20)
    assert answer
    assert all(token < builder.tokenizer.pieces for token in answer)
    scale = builder.vocab.scale(2)
    codes = draw_codes(model, [sequences.draw(builder, DRAWINGS[0], scale)], scale, [0])
    assert codes.shape == (1, scale.length)


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 1.5, 4.0])
def test_guidance_with_the_published_template(model: TarLanguageModel, builder: PromptBuilder, scale: float) -> None:
    """Step by step without a cache: the same template without the text is the other side."""
    grid = builder.vocab.scale(2)
    given, without = sequences.draw(builder, DRAWINGS[0], grid), sequences.unconditional(builder, grid)
    text = builder.tokenizer.encode(f"user\n{DRAWINGS[0]}")[len(builder.tokenizer.encode("user\n")) :]
    assert len(given) == len(without) + len(text)
    codes = draw_codes(model, [given], grid, [0], temperature=0, guidance=scale, unconditional=[without])
    spelled: list[int] = []
    for code in codes[0, :12].tolist():
        sides = [
            model.head(model.hidden(torch.tensor([[*ids, *spelled]]))[:, -1], code_ids(model))
            for ids in (given, without)
        ]
        logits = guide(*sides, scale)[0]
        assert logits[code] > logits.max() - 1e-4
        spelled.append(builder.vocab.code_token(code))


@pytest.mark.parametrize("guidance", [None, 3.0])
def test_a_batch_of_prompts_of_any_length_draws_what_each_draws_alone(
    model: TarLanguageModel, builder: PromptBuilder, guidance: float | None
) -> None:
    scale = builder.vocab.scale(2)
    options = {
        "top_k": 50,
        "top_p": 0.95,
        "guidance": guidance,
        "unconditional": [sequences.unconditional(builder, scale)],
    }
    prompts = [sequences.draw(builder, text, scale) for text in DRAWINGS]
    together = draw_codes(model, prompts, scale, [3, 4, 5], **options)
    for row, prompt in enumerate(prompts):
        assert draw_codes(model, [prompt], scale, [3 + row], **options)[0].tolist() == together[row].tolist()


def test_a_batch_of_readings_at_any_scale_answers_what_each_answers_alone(
    model: TarLanguageModel, builder: PromptBuilder
) -> None:
    prompts = [
        sequences.read(builder, [shown(builder, 2)], "What is it?"),
        sequences.read(builder, [shown(builder, 1), shown(builder, 2)], "Which picture is darker?"),
        sequences.read(builder, [shown(builder, 2)], "How many?"),
    ]
    together = generate_text(model, prompts, 12)
    assert together == [generate_text(model, [prompt], 12)[0] for prompt in prompts]


def test_generation_settings_of_the_folder_change_nothing(
    parity_dir: Path, published: PublishedLanguage, model: TarLanguageModel, builder: PromptBuilder, tmp_path: Path
) -> None:
    folder = tmp_path / "loud"
    shutil.copytree(parity_dir / "tar_llm", folder)
    loud = {"repetition_penalty": 5.0, "do_sample": True, "temperature": 9.0, "top_k": 1, "eos_token_id": 7}
    (folder / "generation_config.json").write_text(json.dumps(loud))
    again = read_llm(folder)
    assert again.config == published.config
    changed = TarLanguageModel.from_state(again.config, again.state)
    scale = builder.vocab.scale(2)
    prompt = [sequences.draw(builder, DRAWINGS[0], scale)]
    first, second = (draw_codes(one, prompt, scale, [3], top_p=0.95) for one in (model, changed))
    assert torch.equal(first, second)
    question = [sequences.read(builder, [shown(builder, 2)], "What is it?")]
    assert generate_text(model, question, 12) == generate_text(changed, question, 12)


def test_trainer_shape_loads_to_the_same_weights(
    parity_dir: Path, published: PublishedLanguage, tmp_path: Path
) -> None:
    folder = tmp_path / "llava"
    shutil.copytree(parity_dir / "tar_llm", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "llava_qwen", "architectures": ["LlavaQwenForCausalLM"], "image_start_tag_id": 1}
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
        assert max(ids) < published.tokenizer.pieces
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


def test_damaged_folders_are_refused(parity_dir: Path, listed: dict[str, int], tmp_path: Path) -> None:
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
    with pytest.raises(WeightsError, match=f"<I7> has id 9999; in the published order it is {listed['<I7>']}"):
        read_llm(folder)
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        read_llm(tmp_path / "nowhere")
