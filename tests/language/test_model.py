"""The model: padding is invisible, the cheap loss is the full loss, code rows start where they should."""

import dataclasses
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

import sequences
from opentar.core.errors import ConfigError, ModelError, OpenTarError, WeightsError
from opentar.language.folder import load_language, save_language
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.language.prompt import IGNORED, PromptBuilder

SIZES = {
    "text_size": 300,
    "codebook_size": 20,
    "grid_side": 6,
    "hidden": 64,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "head_size": 32,
    "mlp": 96,
}


def build(**changes: object) -> TarLanguageModel:
    torch.manual_seed(1)
    return TarLanguageModel(LanguageConfig(**{**SIZES, **changes})).eval()  # type: ignore[arg-type]


@torch.no_grad()
def test_both_kinds_of_attention_agree_and_fill_on_the_right_is_unseen() -> None:
    eager, fused = build(attention="eager"), build(attention="sdpa")
    ids = torch.randint(0, 300, (2, 9))
    torch.testing.assert_close(eager.hidden(ids), fused.hidden(ids), atol=1e-5, rtol=1e-5)
    changed = ids.clone()
    changed[:, 6:] = 1
    torch.testing.assert_close(eager.hidden(ids)[:, :6], eager.hidden(changed)[:, :6])


@torch.no_grad()
def test_loss_is_the_full_cross_entropy_and_splits_into_parts() -> None:
    model = build()
    vocab = model.vocab
    ids = torch.randint(0, 300, (3, 12))
    ids[:, 6:] = vocab.code_token(torch.randint(0, 20, (3, 6)))
    labels = ids.clone()
    labels[:, :4] = IGNORED
    labels[2, 9:] = IGNORED
    full = model.logits(model.hidden(ids))[:, :-1].reshape(-1, model.config.table_rows)
    expected = torch.nn.functional.cross_entropy(full, labels[:, 1:].reshape(-1), ignore_index=IGNORED)
    torch.testing.assert_close(model.loss(ids, labels), expected)
    parts = model.loss_parts(ids, labels)
    codes, text = 6 + 6 + 3, 2 * 3
    torch.testing.assert_close((parts.codes * codes + parts.text * text) / (codes + text), expected)


@torch.no_grad()
def test_heads_are_rows_of_the_whole_head() -> None:
    model = build()
    hidden = torch.randn(4, 64)
    everything = model.logits(hidden)
    for ids in (range(300), range(model.vocab.first_code, model.vocab.size), range(7, 9)):
        torch.testing.assert_close(model.head(hidden, ids), everything[:, ids.start : ids.stop])


def test_gradients_reach_every_weight_and_training_learns() -> None:
    model = build().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    ids = torch.randint(0, 300, (2, 10))
    first = None
    for _ in range(30):
        loss = model.loss(ids, ids)
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        first = first if first is not None else loss.item()
    assert loss.item() < 0.5 * first


@pytest.mark.parametrize("tie", [True, False])
def test_codebook_of_the_same_width_is_copied_into_every_table(tie: bool) -> None:
    model = build(tie=tie)
    codebook = torch.nn.functional.normalize(torch.randn(20, 64), dim=1)
    text_before = model.qwen.model.embed_tokens.weight[:300].clone()
    assert "copied" in model.start_code_rows(codebook)
    for table in (model.qwen.model.embed_tokens.weight, model.qwen.lm_head.weight):
        rows = table[model.vocab.first_code :].detach()
        torch.testing.assert_close(torch.nn.functional.normalize(rows, dim=1), codebook)
        torch.testing.assert_close(rows.norm(dim=1).mean(), table[:297].detach().norm(dim=1).mean())
    torch.testing.assert_close(model.qwen.model.embed_tokens.weight[:300], text_before)


@pytest.mark.parametrize("width", [16, 100])
def test_codebook_of_another_width_is_mapped_and_said_so(width: int) -> None:
    model = build()
    torch.manual_seed(2)
    # Twenty directions fit into any width here, so even the narrowing map can keep all angles.
    low_rank = torch.randn(20, 10) @ torch.randn(10, width)
    note = model.start_code_rows(low_rank)
    assert f"{width} -> 64" in note
    rows = torch.nn.functional.normalize(model.qwen.model.embed_tokens.weight[model.vocab.first_code :].detach(), dim=1)
    wanted = torch.nn.functional.normalize(low_rank, dim=1)
    torch.testing.assert_close(rows @ rows.T, wanted @ wanted.T, atol=1e-4, rtol=1e-4)


def test_wrong_codebook_and_too_long_input_are_refused() -> None:
    model = build(max_length=8)
    with pytest.raises(ModelError, match="20 codes"):
        model.start_code_rows(torch.randn(19, 64))
    with pytest.raises(ModelError, match="this model has 8"):
        model.hidden(torch.zeros(1, 9, dtype=torch.int64))


@pytest.mark.parametrize(
    "wrong", [{"kv_heads": 3}, {"hidden": 0}, {"head_size": 33}, {"text_pieces": 299}, {"rows": 20}]
)
def test_sizes_that_cannot_be_built(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"language\."):
        LanguageConfig(**{**SIZES, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("tie", [True, False])
@torch.no_grad()
def test_state_comes_back_and_misfits_are_named(tie: bool) -> None:
    model = build(tie=tie)
    ids = torch.tensor([[1, 2, 3]])
    again = TarLanguageModel.from_state(model.config, model.state())
    assert torch.equal(model.logits(model.hidden(ids)), again.logits(again.hidden(ids)))
    assert ("lm_head.weight" in model.state()) == (not tie)
    state = model.state()
    state["model.odd"] = state.pop("model.norm.weight")
    with pytest.raises(WeightsError, match=r"missing model.norm.weight .*unknown model.odd"):
        TarLanguageModel.from_state(model.config, state)
    state = {**model.state(), "model.norm.weight": torch.ones(3)}
    with pytest.raises(WeightsError, match=r"has shape \(3,\), expected \(64,\)"):
        TarLanguageModel.from_state(model.config, state)


@torch.no_grad()
def test_bfloat16_runs_and_stays_near() -> None:
    model = build()
    ids = torch.tensor([[1, 2, 3, 8], [4, 5, 6, 7]])
    wanted = model.hidden(ids)
    half = model.to(torch.bfloat16).hidden(ids)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), wanted, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("tie", [True, False])
@torch.no_grad()
def test_folder_round_trip_and_plain_transformers_reads_it(
    config: LanguageConfig, builder: PromptBuilder, tie: bool, tmp_path
) -> None:
    model = TarLanguageModel(dataclasses.replace(config, tie=tie)).eval()
    save_language(tmp_path / "language", model, builder)
    loaded = load_language(tmp_path / "language")
    ids = torch.tensor([sequences.draw(builder, "three red apples", builder.vocab.scale(2))])
    wanted = model.logits(model.hidden(ids))
    assert loaded.model.config == model.config
    assert loaded.builder.template == builder.template
    assert sequences.draw(loaded.builder, "a cat 猫", builder.vocab.scale(1)) == sequences.draw(
        builder, "a cat 猫", builder.vocab.scale(1)
    )
    assert torch.equal(loaded.model.logits(loaded.model.hidden(ids)), wanted)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "language", dtype=torch.float32)
    torch.testing.assert_close(plain(ids).logits, wanted, atol=1e-5, rtol=1e-5)


def test_folder_with_strange_settings_is_refused(model: TarLanguageModel, builder: PromptBuilder, tmp_path) -> None:
    folder = tmp_path / "language"
    save_language(folder, model, builder)
    config = json.loads((folder / "config.json").read_text())
    config["opentar"]["language"]["heads"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(OpenTarError, match=r"config\.json"):
        load_language(folder)
