"""Looks at a picture while its codes are drawn: how many, when, and that they change nothing of it."""

import base64
import io
import threading

import pytest
from PIL import Image

from opentar.serve.sketching import filled

DRAW = "/v1/images/generations"
TOOL = {"type": "image_generation", "detok": "diffusion", "steps": 8}


def opened(content: str) -> bytes:
    return Image.open(io.BytesIO(base64.b64decode(content))).tobytes()


def test_missing_codes_are_like_the_nearest_of_their_role() -> None:
    none = None
    assert filled([1, 2, none, none], 1) == [1, 2, 1, 2]
    # On a checkerboard, one of the other colour of squares is nearer but says another kind of thing.
    assert filled([1, 2, none, none], 2) == [1, 2, 2, 1]
    assert filled([none, 5, none, none], 2) == [5, 5, 5, 5], "where there is none of the role, any will do"
    assert filled([1, 2, 3, 4], 2) == [1, 2, 3, 4]
    column = [none, none, none, 7, none, none, none, none, 9]
    assert filled(column, 1) == [7, 7, 9, 7, 7, 9, 7, 9, 9]


@pytest.fixture
def halted(live, monkeypatch):
    """`halted(codes)`: drawings wait after so many codes until the event that it gives is set."""

    def halt(codes: int) -> threading.Event:
        engine, go, seen = live.service.shelf.entry(None).loaded.engine, threading.Event(), []
        plain = engine.step

        def step():
            if len(seen) >= codes:
                assert go.wait(60)
            events = plain()
            seen.extend(events)
            return events

        monkeypatch.setattr(engine, "step", step)
        return go

    return halt


@pytest.mark.parametrize(("wanted", "codes"), [(1, 12), (2, 12), (3, 9)])
def test_the_first_look_comes_while_codes_are_drawn(live, halted, wanted, codes) -> None:
    """The engine stands still after so many of 36 codes, and the first look is there."""
    asked = {"model": "tiny", "prompt": "three red apples"}
    body = {"seed": 5, "steps": 8, "detok": "diffusion"}
    whole = live.client.images.generate(**asked, extra_body=body)
    go = halted(codes)
    events = iter(live.client.images.generate(**asked, stream=True, partial_images=wanted, extra_body=body))
    first = next(events)
    assert (first.type, first.partial_image_index) == ("image_generation.partial_image", 0)
    go.set()
    *partial, last = events
    assert [one.partial_image_index for one in partial] == list(range(1, wanted))
    assert last.b64_json == whole.data[0].b64_json, "looking changes nothing"
    assert len({opened(one.b64_json) for one in (first, *partial, last)}) == wanted + 1


def test_a_response_shows_its_picture_early_too(live, halted) -> None:
    go = halted(12)
    tools = [TOOL | {"partial_images": 2}]
    events = iter(live.client.responses.create(model="tiny", input="a red dog", tools=tools, stream=True))
    for event in events:
        if event.type == "response.image_generation_call.partial_image":
            assert event.partial_image_index == 0
            break
    else:
        raise AssertionError("no look came before the codes were complete")
    go.set()
    kinds = [event.type.removeprefix("response.image_generation_call.") for event in events]
    assert kinds[:2] == ["partial_image", "completed"] and kinds.count("partial_image") == 1


def test_a_painter_that_cannot_look_at_codes_shows_as_many_while_it_paints(live) -> None:
    body = {"prompt": "a dog", "stream": True, "partial_images": 3, "detok": "ar"}
    works = []
    plain = live.service.worker.add
    live.service.worker.add = lambda unit: (works.append(unit.work), plain(unit))
    try:
        with live.http.stream("POST", DRAW, json=body) as response:
            names = [line for line in response.iter_lines() if line.startswith("event:")]
    finally:
        del live.service.worker.add
    assert works[0].sketches == 0
    assert names == ["event: image_generation.partial_image"] * 3 + ["event: image_generation.completed"]


def test_a_look_that_fails_costs_the_look_alone(live, monkeypatch) -> None:
    from opentar.serve import painter

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    body = {"prompt": "a dog", "stream": True, "partial_images": 1, "seed": 1, "steps": 8}
    with monkeypatch.context() as patch:
        patch.setattr(painter, "sketch", broken)
        with live.http.stream("POST", DRAW, json=body) as response:
            names = [line for line in response.iter_lines() if line.startswith("event:")]
    assert names == ["event: image_generation.partial_image", "event: image_generation.completed"]
    assert live.http.get("/ready").status_code == 200


def test_what_begins_again_is_not_shown_twice(serving) -> None:
    """The engine fails after the first look; the drawing begins again and the count of looks goes on."""
    with serving() as live:
        engine = live.service.shelf.entry(None).loaded.engine
        plain, steps = engine.step, []

        def step():
            steps.append(1)
            if len(steps) == 20:
                raise RuntimeError("a bug")
            return plain()

        body = {"seed": 5, "steps": 8, "detok": "diffusion"}
        asked = {"model": "tiny", "prompt": "three red apples"}
        whole = live.client.images.generate(**asked, extra_body=body).data[0].b64_json
        engine.step = step
        # Another one runs beside it: the one that is alone when it fails has failed.
        other = threading.Thread(target=lambda: live.client.images.generate(**asked, extra_body=body))
        other.start()
        while live.service.active < 1:
            pass
        events = list(live.client.images.generate(**asked, stream=True, partial_images=2, extra_body=body))
        other.join()
        assert [one.type for one in events][-1] == "image_generation.completed"
        assert [one.partial_image_index for one in events[:-1]] == [0, 1]
        assert events[-1].b64_json == whole
        assert len(steps) > 20 and live.idle()
