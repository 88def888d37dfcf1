"""Drawings are complete by construction; cache, batch, order and streaming change nothing; text is only text."""

import pytest
import torch

from opentar.core.errors import ConfigError, ModelError, PromptError
from opentar.language.generate import (
    Decoding,
    choice_scores,
    draw_codes,
    generate_text,
    pad_left,
    spell,
    stream_batch,
    stream_text,
)
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.language.prompt import PromptBuilder

TEXTS = ["three red apples", "a dog", "浅蓝色背景上的三个红苹果"]


@torch.no_grad()
def draw_without_cache(model: TarLanguageModel, prompt: list[int], length: int) -> list[int]:
    ids = list(prompt)
    for _ in range(length):
        code = int(model.code_logits(model.hidden(torch.tensor([ids]))[0, -1]).argmax())
        ids.append(model.vocab.code_token(code))
    return [model.vocab.code_of(token) for token in ids[len(prompt) :]]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_cache_equals_no_cache(model: TarLanguageModel, builder: PromptBuilder, index: int) -> None:
    scale = builder.vocab.scale(index)
    prompt = builder.draw("three red apples", scale)
    codes = draw_codes(model, [prompt], scale, [0], temperature=0)
    assert codes[0].tolist() == draw_without_cache(model, prompt, scale.length)
    assert len(set(codes[0].tolist())) > 1


@pytest.mark.parametrize("guidance", [None, 3.0])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batch_equals_single(
    model: TarLanguageModel, builder: PromptBuilder, temperature: float, guidance: float | None
) -> None:
    scale = builder.vocab.scale(1)
    prompts = [builder.draw(text, scale) for text in TEXTS]
    options = {
        "temperature": temperature,
        "top_k": 40,
        "top_p": 0.95,
        "guidance": guidance,
        "unconditional": [builder.unconditional(scale)],
    }
    together = draw_codes(model, prompts, scale, [5, 6, 7], **options)
    for row, prompt in enumerate(prompts):
        alone = draw_codes(model, [prompt], scale, [5 + row], **options)
        assert alone[0].tolist() == together[row].tolist()


def test_seed_repeats_and_another_seed_differs(model: TarLanguageModel, builder: PromptBuilder) -> None:
    scale = builder.vocab.scale(1)
    prompts = [builder.draw("a dog", scale)]
    first, again, other = (draw_codes(model, prompts, scale, [seed]) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@torch.no_grad()
def test_every_setting_changes_the_drawing(model: TarLanguageModel, builder: PromptBuilder) -> None:
    scale = builder.vocab.scale(0)
    prompts = [builder.draw("a dog", scale)]
    plain = draw_codes(model, prompts, scale, [3])
    for change in (
        {"temperature": 0.3},
        {"top_k": 2},
        {"top_p": 0.2},
        {"guidance": 4.0, "unconditional": [builder.unconditional(scale)]},
    ):
        assert not torch.equal(plain, draw_codes(model, prompts, scale, [3], **change)), change


def test_guidance_is_the_sum_of_both_sides(model: TarLanguageModel, builder: PromptBuilder) -> None:
    scale = builder.vocab.scale(2)
    prompt, other = builder.draw("a dog", scale), builder.unconditional(scale)
    with torch.no_grad():
        sides = [model.code_logits(model.hidden(torch.tensor([ids]))[0, -1]) for ids in (prompt, other)]
    wanted = int((sides[1] + 2.5 * (sides[0] - sides[1])).argmax())
    codes = next(spell(model, [prompt], scale, [0], temperature=0, guidance=2.5, unconditional=[other]))
    assert codes.tolist() == [wanted]


def test_grid_is_complete_whatever_the_text_says(
    model: TarLanguageModel, builder: PromptBuilder, injection: str
) -> None:
    scale = builder.vocab.scale(1)
    codes = draw_codes(model, [builder.draw(injection, scale)], scale, [0], temperature=2.0)
    ids, _ = builder.train_draw(injection, codes[0].tolist())
    assert builder.vocab.scale_of_length(codes.shape[1]) == scale
    assert ids[-2] == builder.vocab.image_end


def test_grid_is_complete_though_the_model_wants_to_stop(config: LanguageConfig, builder: PromptBuilder) -> None:
    torch.manual_seed(0)
    model = TarLanguageModel(config).eval()
    vocab, scale = builder.vocab, builder.vocab.scale(0)
    prompt = builder.draw("a dog", scale)
    # The last hidden state itself as the row of an id makes that id by far the likeliest everywhere.
    with torch.no_grad():
        wanted = model.hidden(torch.tensor([prompt]))[0, -1]
        for token in (vocab.image_end, config.end, vocab.scale_token(0)):
            model.qwen.lm_head.weight[token] = 10 * wanted
        assert not vocab.is_code(int(model.logits(wanted).argmax()))
    codes = draw_codes(model, [prompt], scale, [0])
    assert codes.shape == (1, scale.length)
    assert bool(((codes >= 0) & (codes < vocab.codebook_size)).all())


def test_codes_come_one_by_one_and_the_callback_sees_them(model: TarLanguageModel, builder: PromptBuilder) -> None:
    scale = builder.vocab.scale(1)
    prompts = [builder.draw(text, scale) for text in TEXTS]
    seen: list[tuple[int, list[list[int]]]] = []
    codes = draw_codes(
        model, prompts, scale, [1, 2, 3], callback=lambda step, so_far: seen.append((step, so_far.tolist()))
    )
    assert [step for step, _ in seen] == list(range(1, scale.length + 1))
    assert seen[4][1] == codes[:, :5].tolist()
    streamed = list(spell(model, prompts, scale, [1, 2, 3]))
    assert torch.equal(torch.stack(streamed, 1), codes)


def test_wrong_prompts_and_counts_are_refused(model: TarLanguageModel, builder: PromptBuilder) -> None:
    scale = builder.vocab.scale(1)
    prompt = builder.draw("a dog", scale)
    with pytest.raises(ModelError, match="does not open a drawing"):
        draw_codes(model, [builder.text("a dog")], scale, [0])
    with pytest.raises(ModelError, match="scale 2"):
        draw_codes(model, [prompt], builder.vocab.scale(2), [0])
    with pytest.raises(ConfigError, match="2 seeds"):
        draw_codes(model, [prompt], scale, [0, 1])
    with pytest.raises(ModelError, match="0 unconditional"):
        draw_codes(model, [prompt], scale, [0], guidance=2.0)
    with pytest.raises(PromptError, match="this model has 160"):
        draw_codes(model, [[1] * 158 + prompt[-2:]], scale, [0])
    with pytest.raises(PromptError, match="no prompt"):
        Decoding(model, [])


def test_answers_hold_only_text_and_batches_equal_singles(model: TarLanguageModel, builder: PromptBuilder) -> None:
    codes = list(range(9))
    prompts = [builder.read([codes], "what is it?"), builder.text("say"), builder.read([codes, codes[:4]], "same?")]
    for temperature in (0.0, 1.5):
        options = {"max_new_tokens": 12, "temperature": temperature}
        answers = generate_text(model, prompts, seeds=[4, 5, 6], **options)
        assert all(token < builder.tokenizer.pieces for answer in answers for token in answer)
        for row, prompt in enumerate(prompts):
            assert answers[row] == generate_text(model, [prompt], seeds=[4 + row], **options)[0]
            assert answers[row] == list(stream_text(model, prompt, seed=4 + row, **options))
        assert any(answers)


def test_answer_ends_where_the_model_ends_it(builder: PromptBuilder, config: LanguageConfig) -> None:
    torch.manual_seed(0)
    model = TarLanguageModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    pairs = [("is there a cat?", "yes"), ("is there a dog?", "no no no")]
    for _ in range(60):
        for question, answer in pairs:
            ids, labels = builder.train_read([[1, 2, 3, 4]], question, answer)
            model.loss(torch.tensor([ids]), torch.tensor([labels])).backward()
        optimizer.step()
        optimizer.zero_grad()
    prompts = [builder.read([[1, 2, 3, 4]], question) for question, _ in pairs]
    answers = generate_text(model.eval(), prompts, max_new_tokens=30)
    assert [builder.tokenizer.decode(answer) for answer in answers] == ["yes", "no no no"]
    steps = list(stream_batch(model, prompts, 30))
    assert len(steps) == max(len(answer) for answer in answers)
    assert steps[-1][0] is None
    scores = choice_scores(model, prompts, [builder.answer("yes"), builder.answer("no no no")])
    assert scores[0, 0] > 0.9
    assert scores[1, 1] > 0.9


@torch.no_grad()
def test_choice_scores_are_the_probabilities_of_whole_answers(model: TarLanguageModel, builder: PromptBuilder) -> None:
    prompts = [builder.read([list(range(9))], "is there a cat?"), builder.read([[1, 2, 3, 4]], "and a dog?")]
    choices = [builder.answer("yes"), builder.answer("no cat at all"), builder.answer("n")]
    logs = torch.zeros(2, 3)
    for row, prompt in enumerate(prompts):
        for column, choice in enumerate(choices):
            said = [*choice, model.config.end]
            hidden = model.hidden(torch.tensor([[*prompt, *said]]))[0, len(prompt) - 1 : -1]
            logs[row, column] = model.text_logits(hidden).log_softmax(-1)[range(len(said)), said].sum()
    torch.testing.assert_close(choice_scores(model, prompts, choices), logs.softmax(-1), atol=1e-5, rtol=1e-4)
    with pytest.raises(PromptError, match="no choice"):
        choice_scores(model, prompts, [])


def test_room_is_kept_and_bad_lengths_are_refused(model: TarLanguageModel, builder: PromptBuilder) -> None:
    full = [1] * (model.config.max_length - 3)
    assert len(generate_text(model, [full], max_new_tokens=50)[0]) <= 3
    with pytest.raises(PromptError, match="fills all 160"):
        generate_text(model, [[1] * 160])
    with pytest.raises(PromptError, match="at least 1"):
        generate_text(model, [[1]], max_new_tokens=0)


def test_pad_left() -> None:
    ids, real = pad_left([[1, 2, 3], [4]], 9)
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert real.tolist() == [[True, True, True], [False, False, True]]
