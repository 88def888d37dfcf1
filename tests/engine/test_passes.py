"""Several codes a pass of the language model: guesses, a lead of a whole row and company change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from opentar.core.errors import ConfigError, ModelError, PromptError
from opentar.engine.backends import llamacpp
from opentar.engine.backends.llamacpp import LlamaCppBackend
from opentar.engine.backends.protocol import PlacingBackend
from opentar.engine.backends.torch_backend import TorchBackend
from opentar.engine.engine import Engine
from opentar.engine.events import CodeDrawn, Done, Event
from opentar.engine.request import Codes, Request, Sampling, Text
from opentar.language.folder import Language
from opentar.language.prompt import Shown, Turn
from opentar.tokens_to_image.passes import NAMED, ONE, Passes

JACOBI, ZIPAR = NAMED["jacobi"], Passes(lead=2)


@pytest.fixture(params=["torch", "llamacpp"])
def backend(request: pytest.FixtureRequest, language: Language) -> PlacingBackend:
    if request.param == "torch":
        return TorchBackend(language.model)
    if not llamacpp.available():
        pytest.skip("pip install 'opentar[llamacpp]'")
    pytest.importorskip("gguf", reason="pip install 'opentar[llamacpp]'")
    files: dict[str, Path] = request.getfixturevalue("files")
    return LlamaCppBackend(files["f32"], language.model.config)


@pytest.fixture
def engine(backend: PlacingBackend, language: Language) -> Engine:
    return Engine(backend, language.builder)


def drawing(
    engine: Engine, passes: Passes, *, seed: int = 1, guidance: float = 1.0, scale: int = 1, temperature: float = 0.7
) -> Request:
    return Request(
        turns=[Turn("user", ("three red apples",))],
        grammar=Codes(scale=engine.builder.vocab.scale(scale), passes=passes),
        sampling=Sampling(temperature=temperature, top_p=0.95, guidance=guidance),
        seed=seed,
    )


def events(engine: Engine, *requests: Request) -> tuple[list[Event], int]:
    """What happens, and in how many steps."""
    found, steps = [], 0
    for request in requests:
        engine.submit(request)
    while not engine.idle:
        found += engine.step()
        steps += 1
    return found, steps


def ids(found: Sequence[Event]) -> list[tuple[int, ...]]:
    ended = {event.ticket: event.ids for event in found if isinstance(event, Done)}
    return [ended[ticket] for ticket in sorted(ended)]


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_guesses_change_nothing_but_the_number_of_passes(engine: Engine, guidance: float) -> None:
    saved = 0
    for seed in range(3):
        one, steps = events(engine, drawing(engine, ONE, seed=seed, guidance=guidance))
        guessed, fewer = events(engine, drawing(engine, JACOBI, seed=seed, guidance=guidance))
        assert ids(guessed) == ids(one)
        assert [event.place for event in guessed if isinstance(event, CodeDrawn)] == list(range(36))
        assert steps == 36
        saved += steps - fewer
    assert saved > 15


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_lead_of_a_row_is_one_code_after_another(engine: Engine, guidance: float) -> None:
    one, steps = events(engine, drawing(engine, ONE, guidance=guidance))
    rows, as_many = events(engine, drawing(engine, Passes(lead=6), guidance=guidance))
    assert ids(rows) == ids(one) and as_many == steps


@pytest.mark.parametrize(("scale", "lead", "steps"), [(0, 2, 34), (0, 4, 56), (1, 2, 16), (1, 3, 21), (2, 2, 10)])
def test_rows_with_a_lead_run_as_a_wave(engine: Engine, scale: int, lead: int, steps: int) -> None:
    found, counted = events(engine, drawing(engine, Passes(lead=lead), scale=scale, guidance=2.0))
    side = engine.builder.vocab.scale(scale).side
    assert counted == steps == side + (side - 1) * lead
    drawn = [event for event in found if isinstance(event, CodeDrawn)]
    assert sorted(event.place for event in drawn) == list(range(side * side))
    assert [event.step for event in drawn] == list(range(1, side * side + 1))
    (codes,) = ids(found)
    assert all(codes[event.place] == event.code for event in drawn)
    when = {event.place: number for number, event in enumerate(drawn)}
    for place in range(side * side - side):
        ahead = min(place % side + lead, side) - 1
        assert when[place + side] > when[place - place % side + ahead], "the row above leads"


def test_every_way_is_the_same_among_others(engine: Engine) -> None:
    ways = [
        drawing(engine, ZIPAR, seed=1, guidance=2.0),
        drawing(engine, JACOBI, seed=2),
        drawing(engine, ONE, seed=3, guidance=2.0),
        drawing(engine, Passes(lead=3), seed=4, scale=0),
        Request(turns=[Turn("user", (Shown(list(range(36))), "what is it?"))], grammar=Text(max_new_tokens=9)),
    ]
    alone = [ids(events(engine, way)[0])[0] for way in ways]
    assert ids(events(engine, *ways)[0]) == alone
    assert ids(events(engine, *ways[::-1])[0]) == alone[::-1]


def test_whoever_is_let_go_in_the_middle_gives_the_slots_back(engine: Engine) -> None:
    request = drawing(engine, ZIPAR, guidance=2.0)
    (alone,) = ids(events(engine, request)[0])
    for passes in (ZIPAR, JACOBI):
        for steps in (1, 4, 9):
            gone = engine.submit(drawing(engine, passes, seed=9, guidance=2.0, scale=0))
            stays = engine.submit(request)
            found = [event for _ in range(steps) for event in engine.step()]
            engine.cancel(gone)
            rest, _ = events(engine)
            assert ids([*found, *rest]) == [alone]
            assert not any(event.ticket == gone for event in rest)
            assert any(event.ticket == stays for event in rest)
    # Nothing is held: whoever comes now gets the lowest slots.
    assert engine.backend.open(2) == [0, 1]


def test_ids_at_positions_see_what_stands_before_them(backend: PlacingBackend, language: Language) -> None:
    """Against one pass over what is there, gaps left out, each id at its own position.

    Ids come in an order in which no later one goes before one that stays: what stands was computed without it.
    """
    first = language.model.vocab.first_code
    codes = range(first, language.model.vocab.size)
    prompt = [5, 6, 7, 8]
    (slot,) = backend.open(1)
    backend.extend([slot], [prompt])
    backend.put([slot], [[first + 1, first + 2]], [[4, 9]])
    near(backend.logits([slot], codes)[1], whole(language, {**dict(enumerate(prompt)), 4: first + 1, 9: first + 2}))
    # One before the last, one in the place of another: position 9 sees both from now on.
    backend.put([slot], [[first + 3, first + 4, first + 5]], [[4, 6, 9]])
    now = {**dict(enumerate(prompt)), 4: first + 3, 6: first + 4, 9: first + 5}
    found = backend.logits([slot], codes)
    for row, position in enumerate((4, 6, 9)):
        near(found[row], whole(language, {place: token for place, token in now.items() if place <= position}))
    other = backend.fork(slot)
    backend.put([slot, other], [[first + 6], [first + 7, first + 8]], [None, [8, 9]])
    near(backend.logits([slot], codes)[0], whole(language, {**now, 10: first + 6}))
    near(backend.logits([other], codes)[1], whole(language, {**now, 8: first + 7, 9: first + 8}))
    backend.extend([other], [[7, 8]])
    near(backend.logits([other], codes)[0], whole(language, {**now, 8: first + 7, 9: first + 8, 10: 7, 11: 8}))
    near(backend.logits([slot], codes)[0], whole(language, {**now, 10: first + 6}))


def test_what_cannot_be_put_is_refused(backend: PlacingBackend) -> None:
    (slot,) = backend.open(1)
    with pytest.raises(PromptError, match="an empty one"):
        backend.put([slot], [[]], [[]])
    most = backend.config.max_length
    with pytest.raises(ModelError, match=f"{most + 1} positions were asked for; this model has {most}"):
        backend.put([slot], [[5, 6]], [[0, most]])


@torch.no_grad()
def whole(language: Language, ids: dict[int, int]) -> torch.Tensor:
    """Logits over codes after the last id, block by block without a cache."""
    positions = torch.tensor([sorted(ids)])
    tokens = torch.tensor([[ids[place] for place in sorted(ids)]])
    body = language.model.qwen.model
    x_1TH = body.embed_tokens(tokens)
    cos, sin = (part[:, None] for part in body.rotary_emb(x_1TH, positions))
    mask = torch.full((len(ids), len(ids)), float("-inf")).triu(1)
    for block in body.layers:
        x_1TH = block(x_1TH, cos, sin, mask)
    vocab = language.model.vocab
    return language.model.head(body.norm(x_1TH)[0, -1], range(vocab.first_code, vocab.size))


def near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=0.006, rtol=0)


def test_a_backend_without_positions_says_so(language: Language) -> None:
    class Plain:
        """The backend of PyTorch with what every backend has, and no more."""

        name, config = "plain", language.model.config

        def __init__(self) -> None:
            own = TorchBackend(language.model)
            self.open, self.extend, self.logits = own.open, own.extend, own.logits
            self.fork, self.close = own.fork, own.close

    engine = Engine(Plain(), language.builder)
    with pytest.raises(ConfigError, match="the engine plain draws one code a pass; leave code_passes out"):
        engine.submit(drawing(engine, ZIPAR))
    assert len(ids(events(engine, drawing(engine, ONE))[0])[0]) == 36


def test_settings_that_the_language_model_has_not(engine: Engine) -> None:
    for passes in (NAMED["drafts"], NAMED["late"]):
        with pytest.raises(ConfigError, match="draws with guesses or with a lead"):
            drawing(engine, passes)
