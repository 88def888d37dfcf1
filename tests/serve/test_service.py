"""The service without HTTP, as a page uses it; texts as they grow; models that come and go."""

import asyncio
import threading
import time

import pytest

from opentar.core.errors import ConfigError, ModelError, PromptError
from opentar.drawing import plan, settings_of
from opentar.engine.request import Choice, Request, Sampling, Text
from opentar.language.tokenizer import TextTokenizer, train_bpe
from opentar.serve.events import Chosen, Code, Ended, Picture, Preview, Token
from opentar.serve.limits import Limits
from opentar.serve.models import Shelf
from opentar.serve.refused import BusyError, LateError, LeavingError, UnknownModelError, UnsupportedError
from opentar.serve.service import Service
from opentar.serve.speech import Speech
from opentar.serve.work import Choose, Draw, Say


def run(work, models, **limits):
    """Run `work(service)` on a service that starts and ends with it."""
    bounds = Limits(**limits)

    async def whole():
        service = Service(Shelf(models, memory=bounds.memory, batch=bounds.batch), bounds)
        service.start()
        try:
            await service.warm_up()
            return await asyncio.wait_for(work(service), 120)
        finally:
            await service.close()
            assert not service.worker.alive and not service.painter.alive

    return asyncio.run(whole())


def drawn(model, prompt="a dog", seed=0, previews=0, **options) -> Draw:
    settings = settings_of(model.config, options)
    (one,) = plan(model.tar.parts, model.tar.known_words, [prompt], 1, seed, settings)
    return Draw(drawing=one, settings=settings, previews=previews)


def said(model, text="a dog", seed=0, tokens=12, **more) -> Say:
    grammar = Text(max_new_tokens=tokens)
    sampling = Sampling(temperature=1.0)
    return Say(request=Request(turns=model.builder.saying(text), grammar=grammar, sampling=sampling, seed=seed), **more)


def test_events_of_answers_of_all_kinds_beside_each_other(tiny_model) -> None:
    async def work(service):
        assert service.why_not_ready() is None
        async with service.admit("tiny", 3) as admission:
            model = admission.model
            choice = Request(turns=model.builder.saying("a dog"), grammar=Choice(texts=("Yes.", "No.")))
            works = [drawn(model, previews=1, steps=4), said(model), Choose(request=choice)]
            await admission.submit(works)
            found = [event async for event in admission]
        assert service.active == 0
        return found

    found = run(work, {"tiny": tiny_model})
    by_index = {index: [event for event in found if event.index == index] for index in range(3)}
    kinds = [type(event) for event in by_index[0]]
    assert kinds == [Code] * 36 + [Preview, Picture, Ended]
    assert [event.step for event in by_index[0][:36]] == list(range(1, 37))
    assert tuple(event.code for event in by_index[0][:36]) == by_index[0][-2].codes
    assert {type(event) for event in by_index[1][:-1]} == {Token} and isinstance(by_index[1][-1], Ended)
    assert by_index[1][-1].answer_tokens == 12
    chosen, ended = by_index[2]
    assert isinstance(chosen, Chosen) and abs(sum(chosen.probabilities) - 1) < 1e-6 and isinstance(ended, Ended)
    first_code = next(place for place, event in enumerate(found) if isinstance(event, Code))
    first_end = next(place for place, event in enumerate(found) if isinstance(event, Ended))
    assert first_code < first_end, "told as they happen"


def test_leaving_in_the_middle_lets_go(tiny_model) -> None:
    async def work(service):
        async with service.admit() as admission:
            await admission.submit([said(admission.model, tokens=400)])
            async for _ in admission:
                break
        assert service.active == 0
        model = service.shelf.entry(None).loaded
        end = time.monotonic() + 10
        while not model.engine.idle and time.monotonic() < end:
            await asyncio.sleep(0.01)
        assert model.engine.idle and service.shelf.entry(None).users == 0
        async with service.admit() as admission:
            await admission.submit([said(admission.model)])
            assert [event async for event in admission]

    run(work, {"tiny": tiny_model})


def test_what_cannot_run_is_raised_where_it_is_asked_for(tiny_model) -> None:
    async def work(service):
        with pytest.raises(UnknownModelError, match=r"'tony' is not served here; there is tiny.*Did you mean 'tiny'"):
            service.admit("tony")
        with pytest.raises(UnsupportedError):
            service.admit(count=1000)
        async with service.admit() as admission:
            with pytest.raises(PromptError, match="tokens"):
                await admission.submit([said(admission.model, "word " * 600)])
        assert service.active == 0
        async with service.admit() as admission:
            backend = admission.model.engine.backend
            backend.extend = broken
            await admission.submit([said(admission.model)])
            with pytest.raises(ModelError, match="damaged"):
                await anext(admission)
            del backend.extend
        assert service.active == 0

    def broken(*_):
        raise ModelError("the slots are damaged")

    run(work, {"tiny": tiny_model})


def test_a_full_house_and_a_late_guest(tiny_model) -> None:
    async def work(service):
        admissions = [service.admit() for _ in range(3)]
        with pytest.raises(BusyError) as told:
            service.admit()
        assert 1 <= told.value.seconds <= 60
        for admission in admissions:
            admission.close()
            admission.close()
        assert service.active == 0
        async with service.admit() as admission:
            await admission.submit([drawn(admission.model, steps=1000)])
            with pytest.raises(LateError):
                async for _ in admission:
                    pass
        assert service.active == 0

    run(work, {"tiny": tiny_model}, batch=1, queue=2, seconds=0.2)


def test_draining_waits_for_what_runs_and_takes_nothing_on(tiny_model) -> None:
    async def work(service):
        async def one():
            async with service.admit() as admission:
                await admission.submit([said(admission.model, tokens=60)])
                started.set()
                return [event async for event in admission][-1]

        started = asyncio.Event()
        running = asyncio.create_task(one())
        await started.wait()
        draining = asyncio.create_task(service.drain(20))
        await asyncio.sleep(0)
        with pytest.raises(LeavingError):
            service.admit()
        assert "end" in service.why_not_ready()
        assert await draining
        return await running

    assert run(work, {"tiny": tiny_model}).answer_tokens == 60


def test_closing_tells_whoever_waits(tiny_model) -> None:
    async def work(service):
        async with service.admit() as admission:
            await admission.submit([drawn(admission.model, steps=1000)])
            assert not await service.drain(0.05)
            await service.close()
            with pytest.raises(LeavingError):
                async for _ in admission:
                    pass

    run(work, {"tiny": tiny_model})


def test_models_make_room_for_each_other(tiny_model) -> None:
    size = Shelf({"a": tiny_model}).entries["a"].bytes

    async def work(service):
        entries = service.shelf.entries

        async def ask(name: str) -> str:
            async with service.admit(name) as admission:
                await admission.submit([said(admission.model)])
                return "".join([event.text async for event in admission if isinstance(event, Token)])

        assert [name for name, entry in entries.items() if entry.loaded] == ["a"]
        answers = [await ask(name) for name in ("b", "c", "a", "b")]
        assert len(set(answers)) == 1
        assert [name for name, entry in entries.items() if entry.loaded] == ["a", "b"], "c was not used for longest"
        async with service.admit("a"), service.admit("b"):
            with pytest.raises(BusyError, match="c does not fit beside a, b"):
                async with service.admit("c"):
                    pass
        async with service.admit("a"):
            assert await ask("c") == answers[0]
            assert [name for name, entry in entries.items() if entry.loaded] == ["a", "c"]
        several = await asyncio.gather(ask("a"), ask("c"), ask("a"))
        assert set(several) == set(answers)

    run(work, dict.fromkeys("abc", tiny_model), memory=2 * size + size // 2)
    with pytest.raises(ConfigError, match="memory"):
        Shelf({"a": tiny_model}, memory=size - 1)
    with pytest.raises(ConfigError, match="no model"):
        Shelf({})


@pytest.mark.parametrize(
    "wrong",
    [{"batch": 0}, {"queue": -1}, {"seconds": 0}, {"memory": 0}, {"ping_seconds": 0}, {"seconds": float("nan")}],
)
def test_limits_that_are_none(wrong) -> None:
    with pytest.raises(ConfigError):
        Limits(**wrong)


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return train_bpe(["three red apples on a light blue background", "浅蓝色背景上的三个红苹果 🙂"], 300)


TEXTS = [
    "three red apples", "  white space \n at both ends \n ", "浅蓝色🙂背景", "a", "", " \n ", "🙂",
    "endendend stop end", "\ufffd\ufffd kept",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_grows_to_what_it_is(tokenizer, text) -> None:
    speech = Speech(tokenizer)
    pieces = [speech.push(token) for token in tokenizer.encode(text)] + [speech.finish()]
    assert "".join(pieces) == text.strip()
    for place in range(len(pieces)):
        assert text.strip().startswith("".join(pieces[:place])), "what was given out is never taken back"


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("stop", [("end",), ("stop", "never"), ("e", "apples"), ("\n",), ("景",), ("ends \n", "endx")])
def test_a_stop_text_cuts_wherever_its_ids_begin(tokenizer, text, stop) -> None:
    speech = Speech(tokenizer, stop)
    given = ""
    for token in tokenizer.encode(text):
        given += speech.push(token)
        if speech.stopped:
            break
    if not speech.stopped:
        given += speech.finish()
    places = [text.find(one) for one in stop if one in text]
    expected = text[: min(places)] if places else text
    assert given == expected.strip()
    assert speech.stopped == bool(places)


def test_nobody_waits_for_a_model_that_others_wait_for(tiny_model, monkeypatch) -> None:
    """However many wait for a model to be loaded, one that is there answers."""

    async def work(service):
        gate = threading.Event()
        plain = service.shelf.take
        monkeypatch.setattr(service.shelf, "take", lambda entry: (gate.wait(30), plain(entry))[1])

        async def ask(name: str) -> int:
            async with service.admit(name) as admission:
                await admission.submit([said(admission.model, tokens=3)])
                return len([event async for event in admission])

        waiting = [asyncio.create_task(ask("b")) for _ in range(40)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(ask("a"), 20)
        gone = waiting.pop()
        gone.cancel()
        gate.set()
        assert len(await asyncio.gather(*waiting)) == 39
        end = time.monotonic() + 10
        while service.shelf.entry("b").users and time.monotonic() < end:
            await asyncio.sleep(0.01)
        assert (service.active, service.shelf.entry("b").users) == (0, 0)

    run(work, {"a": tiny_model, "b": tiny_model})
