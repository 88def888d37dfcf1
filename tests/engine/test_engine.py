"""Drawings are complete by construction; cache, batch, order and company change nothing; text is only text."""

from dataclasses import replace

import pytest
import torch

import sequences
from decoding import code_ids
from opentar.core.errors import ConfigError, PromptError
from opentar.engine.backends.torch_backend import TorchBackend
from opentar.engine.engine import Engine
from opentar.engine.events import CodeDrawn, Done, Failed, TokenSaid
from opentar.engine.request import Choice, Codes, Request, Sampling, Text, unprompted
from opentar.engine.running import may_say
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.language.prompt import Drawn, PromptBuilder, Shown, Turn
from opentar.vocab import Scale

TEXTS = ["three red apples", "a dog", "浅蓝色背景上的三个红苹果"]


def asked(*parts) -> list[Turn]:
    return [Turn("user", parts)]


def drawing(text: str, scale: Scale, seed: int = 0, **sampling) -> Request:
    settings = Sampling(**({"temperature": 1.0} | sampling))
    return Request(turns=asked(text), grammar=Codes(scale=scale), sampling=settings, seed=seed)


def reading(*parts, seed: int = 0, tokens: int = 12, temperature: float = 0.0) -> Request:
    sampling = Sampling(temperature=temperature)
    return Request(turns=asked(*parts), grammar=Text(max_new_tokens=tokens), sampling=sampling, seed=seed)


@pytest.fixture
def engine(model: TarLanguageModel, builder: PromptBuilder) -> Engine:
    return Engine(TorchBackend(model), builder)


def answers(engine: Engine, *requests: Request) -> list[list[int]]:
    """Ids of each request, in order; a failure is raised."""
    found: dict[int, list[int]] = {}
    for event in engine.run(requests):
        assert not isinstance(event, Failed), event
        if isinstance(event, Done):
            found[event.ticket] = list(event.ids)
    return [found[ticket] for ticket in sorted(found)]


@torch.no_grad()
def draw_without_cache(model: TarLanguageModel, prompt: list[int], length: int) -> list[int]:
    ids = list(prompt)
    for _ in range(length):
        code = int(model.head(model.hidden(torch.tensor([ids]))[0, -1], code_ids(model)).argmax())
        ids.append(model.vocab.code_token(code))
    return [model.vocab.code_of(token) for token in ids[len(prompt) :]]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_cache_equals_no_cache(engine: Engine, model: TarLanguageModel, index: int) -> None:
    scale = engine.builder.vocab.scale(index)
    (codes,) = answers(engine, drawing("three red apples", scale, temperature=0))
    prompt = engine.builder.prefix(asked("three red apples"), scale)
    assert codes == draw_without_cache(model, prompt, scale.length)
    assert len(set(codes)) > 1


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_drawing_alone_equals_one_among_others(engine: Engine, temperature: float, guidance: float) -> None:
    scale = engine.builder.vocab.scale(1)
    options = {"temperature": temperature, "top_k": 40, "top_p": 0.95, "guidance": guidance}
    requests = [drawing(text, scale, seed=5 + row, **options) for row, text in enumerate(TEXTS)]
    between = [reading("say"), drawing("a dog", engine.builder.vocab.scale(2))]
    together = answers(engine, *requests, *between)
    for row, request in enumerate(requests):
        assert answers(engine, request)[0] == together[row]


def test_seed_repeats_and_another_seed_differs(engine: Engine) -> None:
    scale = engine.builder.vocab.scale(1)
    first, again, other = (answers(engine, drawing("a dog", scale, seed=seed))[0] for seed in (3, 3, 4))
    assert first == again != other


def test_every_setting_changes_the_drawing(engine: Engine) -> None:
    scale = engine.builder.vocab.scale(0)
    (plain,) = answers(engine, drawing("a dog", scale, seed=3))
    for change in ({"temperature": 0.3}, {"top_k": 2}, {"top_p": 0.2}, {"guidance": 4.0}):
        assert answers(engine, drawing("a dog", scale, seed=3, **change))[0] != plain, change


def test_guidance_is_the_sum_of_both_sides(engine: Engine, model: TarLanguageModel) -> None:
    scale, builder = engine.builder.vocab.scale(2), engine.builder
    turns = asked("a dog")
    sides = []
    for side in (turns, unprompted(turns)):
        with torch.no_grad():
            sides.append(model.head(model.hidden(torch.tensor([builder.prefix(side, scale)]))[0, -1], code_ids(model)))
    wanted = int((sides[1] + 2.5 * (sides[0] - sides[1])).argmax())
    first = next(iter(engine.run([drawing("a dog", scale, temperature=0, guidance=2.5)])))
    assert isinstance(first, CodeDrawn) and (first.code, first.step, first.total) == (wanted, 1, scale.length)


def test_the_other_side_keeps_pictures_and_earlier_turns() -> None:
    turns = [*asked("hello"), Turn("assistant", ("hi",)), *asked(Shown([1, 2]), "\n", "make it red")]
    assert unprompted(turns)[:2] == turns[:2]
    assert unprompted(turns)[2] == Turn("user", (Shown([1, 2]), "\n", ""))


def test_grid_is_complete_whatever_the_text_says(engine: Engine, injection: str) -> None:
    scale = engine.builder.vocab.scale(1)
    (codes,) = answers(engine, drawing(injection, scale, temperature=2.0))
    ids, _ = sequences.train_conversation(engine.builder, [*asked(injection), Turn("assistant", (Drawn(codes),))])
    assert engine.builder.vocab.scale_of_length(len(codes)) == scale
    assert ids[-2] == engine.builder.vocab.image_end


def test_grid_is_complete_though_the_model_wants_to_stop(config: LanguageConfig, builder: PromptBuilder) -> None:
    torch.manual_seed(0)
    model = TarLanguageModel(config).eval()
    vocab, scale = builder.vocab, builder.vocab.scale(0)
    # The last hidden state itself as the row of an id makes that id by far the likeliest everywhere.
    with torch.no_grad():
        wanted = model.hidden(torch.tensor([builder.prefix(asked("a dog"), scale)]))[0, -1]
        for token in (vocab.image_end, config.end, vocab.scale_token(0)):
            model.qwen.lm_head.weight[token] = 10 * wanted
        assert not vocab.is_code(int(model.logits(wanted).argmax()))
    (codes,) = answers(Engine(TorchBackend(model), builder), drawing("a dog", scale))
    assert len(codes) == scale.length
    assert all(0 <= code < vocab.codebook_size for code in codes)


def test_codes_come_one_by_one(engine: Engine) -> None:
    scale = engine.builder.vocab.scale(1)
    requests = [drawing(text, scale, seed=row) for row, text in enumerate(TEXTS)]
    events = list(engine.run(requests))
    for ticket in range(3):
        own = [event for event in events if event.ticket == ticket]
        assert [event.step for event in own[:-1]] == list(range(1, scale.length + 1))
        assert [event.code for event in own[:-1]] == list(own[-1].ids)


def test_what_cannot_run_is_refused_before_anything_runs(engine: Engine) -> None:
    scale = engine.builder.vocab.scale(1)
    with pytest.raises(PromptError, match="this model has 160"):
        list(engine.run([drawing("a dog", scale), drawing("a dog " * 200, scale)]))
    assert engine.idle, "the first one has been let go"
    with pytest.raises(ConfigError, match=r"guidance is 0\.5"):
        drawing("a dog", scale, guidance=0.5)
    with pytest.raises(PromptError, match="at least 1"):
        reading("a dog", tokens=0)
    with pytest.raises(PromptError, match="no choice"):
        Choice(texts=())
    for pieces in ([], [[]]):
        with pytest.raises(PromptError, match="no prompt"):
            engine.backend.extend(engine.backend.open(len(pieces)), pieces)


def test_answers_hold_only_text_and_do_not_depend_on_company(engine: Engine) -> None:
    codes = list(range(9))
    parts = [(Shown(codes), "\n", "what is it?"), ("say",), (Shown(codes), "\n", Shown(codes[:4]), "\n", "same?")]
    for temperature in (0.0, 1.5):
        requests = [reading(*one, seed=4 + row, temperature=temperature) for row, one in enumerate(parts)]
        together = answers(engine, *requests)
        assert all(token < engine.builder.tokenizer.pieces for answer in together for token in answer)
        assert [answers(engine, request)[0] for request in requests] == together
        assert any(together)


def test_answer_ends_where_the_model_ends_it(builder: PromptBuilder, config: LanguageConfig) -> None:
    torch.manual_seed(0)
    model = TarLanguageModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    pairs = [("is there a cat?", "yes"), ("is there a dog?", "no no no")]
    given = {question: (Shown([1, 2, 3, 4]), "\n", question) for question, _ in pairs}
    for _ in range(60):
        for question, answer in pairs:
            turns = [*asked(*given[question]), Turn("assistant", (answer,))]
            ids, labels = sequences.train_conversation(builder, turns)
            model.loss(torch.tensor([ids]), torch.tensor([labels])).backward()
        optimizer.step()
        optimizer.zero_grad()
    engine = Engine(TorchBackend(model.eval()), builder)
    requests = [reading(*given[question], tokens=30) for question, _ in pairs]
    events = list(engine.run(requests))
    said = {event.ticket: event.ids for event in events if isinstance(event, Done)}
    assert [builder.tokenizer.decode(list(said[ticket])) for ticket in (0, 1)] == ["yes", "no no no"]
    for ticket in (0, 1):
        assert (
            tuple(event.token for event in events if isinstance(event, TokenSaid) and event.ticket == ticket)
            == (said[ticket])
        )
    choice = Choice(texts=("yes", "no no no"))
    weighed = [event.probabilities for event in engine.run([replace(one, grammar=choice) for one in requests])]
    assert weighed[0][0] > 0.9 and weighed[1][1] > 0.9


@torch.no_grad()
def test_choices_have_the_probabilities_of_whole_answers(engine: Engine, model: TarLanguageModel) -> None:
    builder, choices = engine.builder, ("yes", "no cat at all", "n")
    parts = [(Shown(list(range(9))), "\n", "is there a cat?"), (Shown([1, 2, 3, 4]), "\n", "and a dog?")]
    logs = torch.zeros(2, 3)
    for row, own in enumerate(parts):
        prompt = builder.prefix(asked(*own))
        for column, choice in enumerate(choices):
            said = [*builder.answer(choice), model.config.end]
            hidden = model.hidden(torch.tensor([[*prompt, *said]]))[0, len(prompt) - 1 : -1]
            banned = ~may_say(model.config)
            logits = model.head(hidden, range(len(banned))).masked_fill(banned, float("-inf"))
            logs[row, column] = logits.log_softmax(-1)[range(len(said)), said].sum()
    requests = [Request(turns=asked(*own), grammar=Choice(texts=choices)) for own in parts]
    found = torch.tensor([event.probabilities for event in engine.run(requests)])
    torch.testing.assert_close(found, logs.softmax(-1), atol=1e-5, rtol=1e-4)


def test_room_is_kept(engine: Engine, model: TarLanguageModel) -> None:
    prompt = reading("a", tokens=50)
    while True:
        longer = replace(prompt, turns=asked(prompt.turns[0].parts[0] + " dog"))
        if len(engine.builder.prefix(longer.turns)) > model.config.max_length - 3:
            break
        prompt = longer
    room = model.config.max_length - len(engine.builder.prefix(prompt.turns))
    assert len(answers(engine, prompt)[0]) <= room < 50


def test_one_that_is_cancelled_stops_and_the_others_do_not_notice(engine: Engine) -> None:
    scale = engine.builder.vocab.scale(1)
    for guidance in (1.0, 2.0):
        requests = [drawing(text, scale, seed=row, guidance=guidance) for row, text in enumerate(TEXTS)]
        undisturbed = answers(engine, *requests)
        tickets = [engine.submit(request) for request in requests]
        waiting = engine.submit(reading("say"))
        events = [*engine.step(), *engine.step()]
        engine.cancel(tickets[1])
        engine.cancel(waiting)
        while not engine.idle:
            events += engine.step()
        ended = {event.ticket: list(event.ids) for event in events if isinstance(event, Done)}
        assert ended == {tickets[0]: undisturbed[0], tickets[2]: undisturbed[2]}
        assert sum(event.ticket == tickets[1] for event in events) == 2


def test_whoever_stops_listening_leaves_the_engine_idle(engine: Engine) -> None:
    events = engine.run([drawing("a dog", engine.builder.vocab.scale(0))])
    next(events)
    events.close()
    assert engine.idle and engine.step() == []


def test_an_answer_that_is_cut_cuts_no_other(engine: Engine, model: TarLanguageModel) -> None:
    limit, short = model.config.max_length, reading("a dog", tokens=12)
    prefix = len(engine.builder.prefix(short.turns))
    full = reading("a dog" + " dog" * (limit - prefix - 3), tokens=12)
    room = limit - len(engine.builder.prefix(full.turns))
    assert 0 < room < 12
    alone = [answers(engine, one)[0] for one in (short, full)]
    assert answers(engine, short, full, short) == [alone[0], alone[1], alone[0]]


def test_a_run_is_refused_while_the_engine_has_other_work(engine: Engine) -> None:
    ticket = engine.submit(reading("a dog"))
    with pytest.raises(ConfigError, match="at work"):
        engine.results([reading("a cat")])
    engine.cancel(ticket)
    assert len(engine.results([reading("a cat")])) == 1


def test_a_choice_that_is_too_long_is_refused_when_it_is_asked(engine: Engine, model: TarLanguageModel) -> None:
    with pytest.raises(PromptError, match="prompt and choices need"):
        engine.submit(Request(turns=asked("a dog"), grammar=Choice(texts=("no " * model.config.max_length,))))
    assert engine.idle


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@torch.no_grad()
def test_a_draft_stays_where_the_model_finds_it_likely_and_is_drawn_anew_elsewhere(
    engine: Engine, model: TarLanguageModel, temperature: float
) -> None:
    scale = engine.builder.vocab.scale(2)
    plain = drawing("a dog", scale, seed=3, temperature=temperature)
    (own,) = answers(engine, plain)
    generator = torch.Generator().manual_seed(0)
    others = torch.randint(len(code_ids(model)), (scale.length,), generator=generator).tolist()
    # Its own codes at the beginning, which stay, and others.
    draft = (*own[:2], *others[2:])
    drafted = {
        keep: answers(engine, replace(plain, grammar=Codes(scale=scale, draft=draft, keep=keep)))[0]
        for keep in (0.0, 0.9, 1.0)
    }
    assert drafted[0.0] == list(draft)
    # Its own drawing as a draft comes back whatever is asked of it: where it does not stay, the same noise draws it.
    assert answers(engine, replace(plain, grammar=Codes(scale=scale, draft=tuple(own), keep=1.0)))[0] == own
    mixed, ids = drafted[0.9], engine.builder.prefix(asked("a dog"), scale)
    kept = [code == guess for code, guess in zip(mixed, draft, strict=True)]
    assert any(kept) and not all(kept)
    for code, guess in zip(mixed, draft, strict=True):
        chances = model.head(model.hidden(torch.tensor([ids]))[0, -1], code_ids(model)).float().softmax(-1)
        stays = float(chances[guess] / chances.max()) >= 0.9
        assert code == guess if stays else temperature > 0 or code == int(chances.argmax())
        ids.append(model.vocab.code_token(code))


def test_a_drafted_drawing_is_the_same_alone_and_among_others(engine: Engine) -> None:
    scale = engine.builder.vocab.scale(2)
    drafted = replace(
        drawing("a dog", scale, guidance=2.0), grammar=Codes(scale=scale, draft=(1,) * scale.length, keep=0.9)
    )
    assert answers(engine, drafted, drawing("a dog", scale), reading("say"))[0] == answers(engine, drafted)[0]


def test_logarithms_of_said_ids_are_those_of_the_model(engine: Engine, model: TarLanguageModel) -> None:
    request = replace(reading("a dog", temperature=1.5, seed=3), grammar=Text(max_new_tokens=8, logs=4))
    said = [event for event in engine.run([request]) if isinstance(event, TokenSaid)]
    plain = list(engine.run([replace(request, grammar=Text(max_new_tokens=8))]))
    assert [event.token for event in said] == [event.token for event in plain if isinstance(event, TokenSaid)]
    assert {event.log for event in plain if isinstance(event, TokenSaid)} == {None}
    ids, allowed = engine.builder.prefix(request.turns), may_say(model.config)
    for event in said:
        with torch.no_grad():
            logits = model.head(model.hidden(torch.tensor([ids]))[0, -1], range(model.config.text_size)).double()
        logs = logits.masked_fill(~allowed, float("-inf")).log_softmax(-1)
        assert event.log == pytest.approx(float(logs[event.token]), abs=1e-4)
        assert [number for number, _ in event.likeliest] == logs.topk(4).indices.tolist()
        ids.append(event.token)
    with pytest.raises(PromptError):
        Text(logs=-1)
