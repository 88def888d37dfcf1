"""Requests of all kinds beside each other: who comes, goes, fails or is let go changes nothing for the others."""

from dataclasses import replace

import pytest
import torch

from opentar.core.errors import ModelError
from opentar.engine.backends.torch_backend import TorchBackend
from opentar.engine.beginnings import MOST
from opentar.engine.engine import Engine
from opentar.engine.events import CodeDrawn, Done, Event, Failed
from opentar.engine.request import Choice, Codes, Request, Sampling, Text
from opentar.language.model import TarLanguageModel
from opentar.language.prompt import PromptBuilder, Shown, Turn


def asked(*parts: object) -> list[Turn]:
    return [Turn("user", parts)]  # type: ignore[arg-type]


@pytest.fixture
def engine(model: TarLanguageModel, builder: PromptBuilder) -> Engine:
    return Engine(TorchBackend(model), builder)


@pytest.fixture
def mixed(builder: PromptBuilder) -> list[Request]:
    """Drawings of all sizes, guided and not, texts of all lengths, choices, questions about pictures."""
    picture = Shown(list(range(9)))
    warm = Sampling(temperature=1.0, top_p=0.9)
    return [
        Request(turns=asked("a dog"), grammar=Codes(scale=builder.vocab.scale(0)), sampling=warm, seed=1),
        Request(
            turns=asked("three red apples"),
            grammar=Codes(scale=builder.vocab.scale(2)),
            sampling=replace(warm, guidance=3.0),
            seed=2,
        ),
        Request(turns=asked(picture, "\n", "what is it?"), grammar=Text(max_new_tokens=9), sampling=warm, seed=3),
        Request(turns=asked(picture, "\n", "is it red?"), grammar=Choice(texts=("yes", "no", "not at all"))),
        Request(turns=asked("say"), grammar=Text(max_new_tokens=3)),
        Request(turns=asked(picture, "\n", "make it red"), grammar=Codes(scale=builder.vocab.scale(2)), seed=5),
    ]


def results(events: list[Event]) -> dict[int, Done]:
    return {event.ticket: event for event in events if isinstance(event, Done)}


def finish(engine: Engine) -> list[Event]:
    events: list[Event] = []
    while not engine.idle:
        events += engine.step()
    return events


def same(one: Done, other: Done) -> bool:
    near = torch.allclose(torch.tensor(one.probabilities), torch.tensor(other.probabilities), atol=1e-5)
    return one.ids == other.ids and near


def test_all_kinds_beside_each_other_are_what_they_are_alone(engine: Engine, mixed: list[Request]) -> None:
    alone = [engine.results([request])[0] for request in mixed]
    for order in (mixed, mixed[::-1]):
        together = engine.results(order)
        expected = alone if order is mixed else alone[::-1]
        assert all(same(one, other) for one, other in zip(together, expected, strict=True))
    assert len({one.ids for one in alone}) > 3


def test_whoever_comes_later_starts_at_once(engine: Engine, mixed: list[Request]) -> None:
    alone = [engine.results([request])[0] for request in mixed]
    events: list[Event] = []
    tickets = []
    for request in mixed:
        tickets.append(engine.submit(request))
        events += engine.step()
        events += engine.step()
    long = tickets[0]
    begun = {event.ticket for event in events if not isinstance(event, Failed)}
    # A choice tells nothing before its end.
    assert begun | {tickets[3]} == set(tickets), "nobody waits for the longest drawing"
    assert long not in results(events)
    found = results(events + finish(engine))
    assert all(same(found[ticket], one) for ticket, one in zip(tickets, alone, strict=True))


def test_no_more_run_than_the_batch_allows(model: TarLanguageModel, builder: PromptBuilder, mixed: list) -> None:
    engine = Engine(TorchBackend(model), builder, batch=2)
    alone = [engine.results([request])[0] for request in mixed]
    events: list[Event] = []
    tickets = [engine.submit(request) for request in mixed]
    open_at_most = 0
    while not engine.idle:
        step = engine.step()
        events += step
        open_at_most = max(open_at_most, len({event.ticket for event in step}))
    assert open_at_most == 2
    assert all(same(results(events)[ticket], one) for ticket, one in zip(tickets, alone, strict=True))


def test_whoever_is_let_go_gives_the_slots_back(engine: Engine, mixed: list[Request]) -> None:
    alone = [engine.results([request])[0] for request in mixed]
    for steps in (0, 1, 3):
        tickets = [engine.submit(request) for request in mixed]
        events = [event for _ in range(steps) for event in engine.step()]
        for gone in tickets[::2]:
            engine.cancel(gone)
        found = results(events + finish(engine))
        assert all(same(found[ticket], alone[place]) for place, ticket in enumerate(tickets) if place % 2)
        assert not set(found) & set(tickets[::2]) or steps == 3
    kept = engine.backend._numbers.used  # type: ignore[attr-defined]
    assert kept == len(engine._beginnings._kept) == 1
    engine._beginnings.clear()
    assert engine.backend._numbers.used == 0  # type: ignore[attr-defined]


def test_more_pictures_at_once_than_are_kept_are_those_of_one_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [Shown([(7 * place + start) % 50 for place in range(36)]) for start in range(2 * MOST + 1)]
    requests = [
        Request(turns=asked(picture, "\n", "is it red?"), grammar=Choice(texts=("yes", "no")))
        for picture in [*pictures, pictures[0], pictures[-1]]
    ]
    alone = [engine.results([request])[0].probabilities for request in requests]
    engine._beginnings.clear()
    passes, plain = [], engine.backend.extend

    def extend(slots, pieces) -> None:
        passes.append(len(slots))
        plain(slots, pieces)

    monkeypatch.setattr(engine.backend, "extend", extend)
    together = [done.probabilities for done in engine.results(requests)]
    assert together == [pytest.approx(one, abs=1e-6) for one in alone]
    assert passes[:2] == [MOST, MOST]
    assert len(engine._beginnings._kept) == MOST == engine.backend._numbers.used
    engine._beginnings.clear()


def test_a_picture_asked_several_times_is_read_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    plain = engine.backend.extend

    def counted(slots, pieces) -> None:
        read.append(sum(map(len, pieces)))
        plain(slots, pieces)

    monkeypatch.setattr(engine.backend, "extend", counted)
    pictures = [Shown([(7 * place + start) % 50 for place in range(36)]) for start in range(MOST + 1)]
    questions = [f"is it {word}?" for word in ("red", "a dog", "blue")]
    choice = Choice(texts=("yes", "no"))
    first = engine.results([Request(turns=asked(pictures[0], "\n", one), grammar=choice) for one in questions])
    whole = [len(engine.builder.prefix(asked(pictures[0], "\n", one))) for one in questions]
    assert sum(read[:2]) == sum(whole) - 2 * read[0] and read[0] > 36
    # Others push it out, and the answers stay what they were.
    for picture in pictures[1:]:
        engine.results([Request(turns=asked(picture, "\n", questions[0]), grammar=choice)])
    assert len(engine._beginnings._kept) == MOST
    again = engine.results([Request(turns=asked(pictures[0], "\n", one), grammar=choice) for one in questions])
    assert [one.probabilities for one in again] == [one.probabilities for one in first]


@pytest.mark.parametrize("broken", [ModelError("the slot is damaged"), MemoryError(), RuntimeError("out of memory")])
def test_a_prompt_that_cannot_be_read_fails_alone(
    engine: Engine, mixed: list[Request], broken: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [engine.results([request])[0] for request in mixed]
    engine._beginnings.clear()
    bad = engine.builder.prefix(mixed[4].turns)
    plain = engine.backend.extend

    def failing(slots, pieces) -> None:
        if any(list(piece) == bad for piece in pieces):
            raise broken
        plain(slots, pieces)

    monkeypatch.setattr(engine.backend, "extend", failing)
    tickets = [engine.submit(request) for request in mixed]
    events = finish(engine)
    failed = [event for event in events if isinstance(event, Failed)]
    assert [event.ticket for event in failed] == [tickets[4]]
    told = str(failed[0].error)
    assert told == str(broken) if isinstance(broken, ModelError) else "not enough memory" in told
    found = results(events)
    assert all(same(found[ticket], alone[place]) for place, ticket in enumerate(tickets) if place != 4)


def test_an_unknown_error_is_no_answer(engine: Engine, mixed: list[Request], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = engine.results(mixed)

    def broken(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    for request in mixed:
        engine.submit(request)
    with monkeypatch.context() as patch:
        patch.setattr(engine.backend, "extend", broken)
        engine._beginnings.clear()
        with pytest.raises(RuntimeError, match="shapes"):
            engine.step()
    assert engine.idle
    assert all(same(one, other) for one, other in zip(engine.results(mixed), whole, strict=True))


def test_numbers_that_are_none_fail_their_own_request(
    engine: Engine, mixed: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [engine.results([request])[0] for request in mixed]
    plain = engine.backend.logits
    steps = []

    def spoiled(slots, ids):
        steps.append(1)
        logits = plain(slots, ids)
        if ids.start and len(steps) > 4:
            logits[0] = float("nan")
        return logits

    monkeypatch.setattr(engine.backend, "logits", spoiled)
    tickets = [engine.submit(request) for request in mixed]
    events = finish(engine)
    failed = {event.ticket: str(event.error) for event in events if isinstance(event, Failed)}
    assert tickets[0] in failed and "NaN or infinity" in failed[tickets[0]]
    found = results(events)
    assert all(same(found[tickets[place]], alone[place]) for place in (2, 3, 4))


def test_a_backend_that_fails_leaves_those_that_wait(
    model: TarLanguageModel, builder: PromptBuilder, mixed: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(TorchBackend(model), builder, batch=2)
    tickets = [engine.submit(request) for request in mixed]
    first = engine.step()
    assert any(isinstance(event, CodeDrawn) for event in first)
    plain, calls = engine.backend.logits, []

    def once(slots, ids):
        calls.append(ids)
        if len(calls) == 1:
            raise ModelError("the weights are gone")
        return plain(slots, ids)

    monkeypatch.setattr(engine.backend, "logits", once)
    events = finish(engine)
    assert {event.ticket for event in events if isinstance(event, Failed)} == set(tickets[:2])
    assert set(results(events)) == set(tickets[2:])


def test_a_backend_that_fails_late_takes_nothing_back(
    engine: Engine, mixed: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ended in the step in which the backend fails has ended well; who could not be read has failed."""
    alone = engine.results([mixed[4]])[0]
    plain, calls = engine.backend.extend, []
    last = len(alone.ids)

    def late(slots, pieces) -> None:
        calls.append(len(slots))
        if len(calls) == 1 + last:
            raise ModelError("the weights are gone")
        plain(slots, pieces)

    monkeypatch.setattr(engine.backend, "extend", late)
    short, long = engine.submit(mixed[4]), engine.submit(mixed[0])
    events = finish(engine)
    assert same(results(events)[short], alone) and long not in results(events)
    assert [event.ticket for event in events if isinstance(event, Failed)] == [long]

    def broken(slots, pieces) -> None:
        raise ModelError("nothing can be read")

    engine.submit(mixed[0])
    monkeypatch.setattr(engine.backend, "extend", plain)
    engine.step()
    ticket = engine.submit(mixed[4])
    monkeypatch.setattr(engine.backend, "extend", broken)
    told = {event.ticket for event in engine.step() if isinstance(event, Failed)}
    assert ticket in told and len(told) == 2


def test_a_choice_without_slots_fails_alone(
    engine: Engine, mixed: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [engine.results([request])[0] for request in mixed]
    engine._beginnings.clear()
    plain, open_now = engine.backend.fork, engine.backend._numbers  # type: ignore[attr-defined]
    forks = []

    def few(slot: int) -> int:
        forks.append(slot)
        if len(forks) > 4:
            raise ModelError("no slot is free")
        return plain(slot)

    monkeypatch.setattr(engine.backend, "fork", few)
    tickets = [engine.submit(request) for request in mixed]
    events = finish(engine)
    failed = {event.ticket: str(event.error) for event in events if isinstance(event, Failed)}
    assert failed == {tickets[3]: "no slot is free"}
    found = results(events)
    assert all(same(found[ticket], alone[place]) for place, ticket in enumerate(tickets) if place != 3)
    engine._beginnings.clear()
    assert open_now.used == 0


def test_ctrl_c_leaves_nothing_half_done(engine: Engine, mixed: list[Request], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = engine.results(mixed)
    for request in mixed:
        engine.submit(request)
    with monkeypatch.context() as patch:
        patch.setattr("opentar.engine.engine.gumbel_sample", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    assert engine.idle
    assert all(same(one, other) for one, other in zip(engine.results(mixed), whole, strict=True))


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt
