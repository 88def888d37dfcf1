"""The judge's decisions on hand-made parts, and its eyes on true pictures."""

import numpy as np
import pytest

from opentar.core.errors import DataError
from opentar.nano.judge.judge import (
    Judge,
    PartVerdict,
    Request,
    Wanted,
    decide,
    relations_between,
    request_from_geneval,
    request_from_spec,
)
from opentar.nano.judge.parts import Seen
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.palette import BACKGROUND_RGB
from opentar.nano.world.render import SpriteBook, render
from opentar.nano.world.spec import ObjectSpec, SceneSpec

CAT, DOG, KEY = 1, 2, 3
SEEN = Seen(parts=(), background_rgb=BACKGROUND_RGB["light pink"])


def _part(x: int, y: int, names: tuple[int, ...], colour: str = "red") -> PartVerdict:
    return PartVerdict(box=(x, y, x + 30, y + 30), names=names, colour=colour)


def _decide(parts: list[PartVerdict], *wanted: Wanted) -> tuple[bool, tuple[str, ...]]:
    verdict = decide(SEEN, tuple(parts), Request(tag="two", wanted=wanted))
    return verdict.accepted, verdict.failed()


def test_number_must_be_exact() -> None:
    three = Wanted(concept=CAT, count=3)
    parts = [_part(40 * n, 10, (CAT, DOG, KEY)) for n in range(3)]
    assert _decide(parts, three) == (True, ())
    assert _decide(parts[:2], three) == (False, ("number", "name"))
    assert _decide([*parts, _part(0, 80, (CAT,))], three)[0] is False
    assert _decide([], three)[0] is False


def test_name_counts_in_the_first_three_and_first_choice_is_told() -> None:
    wanted = Request(tag="single", wanted=(Wanted(concept=CAT),))
    third = decide(SEEN, (_part(0, 0, (DOG, KEY, CAT)),), wanted)
    assert (third.accepted, third.top1) == (True, False)
    assert decide(SEEN, (_part(0, 0, (CAT, KEY, DOG)),), wanted).top1
    assert decide(SEEN, (_part(0, 0, (DOG, KEY, 9)),), wanted).failed() == ("name",)


def test_colours_belong_to_their_objects() -> None:
    red_cat, blue_dog = Wanted(concept=CAT, colour="red"), Wanted(concept=DOG, colour="blue")
    right = [_part(0, 0, (DOG,), "blue"), _part(60, 0, (CAT,), "red")]
    swapped = [_part(0, 0, (DOG,), "red"), _part(60, 0, (CAT,), "blue")]
    assert _decide(right, red_cat, blue_dog) == (True, ())
    assert _decide(swapped, red_cat, blue_dog) == (False, ("colour",))


def test_places_belong_to_their_objects() -> None:
    left = Wanted(concept=CAT, position=("left of", 1)), Wanted(concept=DOG)
    assert _decide([_part(0, 40, (CAT,)), _part(70, 40, (DOG,))], *left) == (True, ())
    assert _decide([_part(0, 40, (DOG,)), _part(70, 40, (CAT,))], *left) == (False, ("position",))


def test_both_names_in_both_parts_cannot_hide_a_wrong_place() -> None:
    # Each part could be either animal; one reading fulfils the request, so it is accepted as such.
    left = Wanted(concept=CAT, position=("left of", 1)), Wanted(concept=DOG)
    assert _decide([_part(0, 40, (DOG, CAT)), _part(70, 40, (CAT, DOG))], *left)[0]
    assert not _decide([_part(0, 40, (DOG,)), _part(70, 40, (CAT, DOG))], *left)[0]


def test_background_is_told_and_not_required() -> None:
    request = Request(tag="single", wanted=(Wanted(concept=CAT),), background="black")
    verdict = decide(SEEN, (_part(0, 0, (CAT,)),), request)
    assert (verdict.accepted, verdict.background, verdict.background_right) == (True, "light pink", False)


@pytest.mark.parametrize(
    ("second", "found"),
    [
        ((80, 10, 110, 40), {"left of"}),
        ((10, 80, 40, 110), {"above"}),
        ((80, 80, 110, 110), {"left of", "above"}),
        ((12, 11, 42, 41), set()),
    ],
)
def test_relations_follow_geneval(second: tuple[int, int, int, int], found: set[str]) -> None:
    first = (10, 10, 40, 40)
    assert relations_between(first, second) == found
    mirror = {"left of": "right of", "above": "below"}
    assert relations_between(second, first) == {mirror[name] for name in found}


def test_requests_from_geneval_lines() -> None:
    names = {concept.en: concept.index for concept in load_concepts()}
    line = {
        "tag": "position",
        "include": [{"class": "cat", "count": 1}, {"class": "key", "color": "red", "position": ["left of", 0]}],
        "prompt": "a red key left of a cat",
    }
    request = request_from_geneval(line)
    assert request.wanted[1] == Wanted(concept=names["key"], colour="red", position=("left of", 0))
    with pytest.raises(DataError, match="Did you mean 'cat'"):
        request_from_geneval({"tag": "x", "include": [{"class": "catt"}]})
    with pytest.raises(DataError, match="colour 'mauve'"):
        request_from_geneval({"tag": "x", "include": [{"class": "cat", "color": "mauve"}]})
    with pytest.raises(DataError, match="position"):
        request_from_geneval({"tag": "x", "include": [{"class": "cat", "position": ["near", 0]}]})


def _scene(few: SpriteBook, kind: str, *objects: tuple[str, str | None, int, int, int]) -> SceneSpec:
    index = {concept.en: concept.index for concept in load_concepts()}
    items = []
    for name, colour, x, y, longest in objects:
        width, height = few.size(index[name], "noto", longest)
        box = (x, y, x + width, y + height)
        items.append(ObjectSpec(concept=index[name], style="noto", colour=colour, box=box))
    return SceneSpec(kind=kind, background="light gray", objects=tuple(items))


def test_true_pictures_are_accepted_and_changed_ones_are_not(judge: Judge, few: SpriteBook) -> None:
    left = _scene(few, "position", ("apple", None, 6, 40, 48), ("key", None, 72, 40, 48))
    right = _scene(few, "position", ("key", None, 6, 40, 48), ("apple", None, 72, 40, 48))
    two = _scene(few, "count", ("crown", None, 6, 10, 40), ("crown", None, 70, 70, 40))
    one = _scene(few, "single", ("crown", None, 30, 30, 60))
    blue = _scene(few, "colour", ("house", "blue", 30, 30, 70))
    green = _scene(few, "colour", ("house", "green", 30, 30, 70))
    specs = [left, right, two, one, blue, green]
    pictures, requests = [render(spec, few) for spec in specs], [request_from_spec(spec) for spec in specs]
    assert [verdict.accepted for verdict in judge.judge(pictures, requests)] == [True] * 6
    other = [requests[place] for place in (1, 0, 3, 2, 5, 4)]
    failed = [verdict.failed() for verdict in judge.judge(pictures, other)]
    assert failed[0] == failed[1] == ("position",)
    assert "number" in failed[2]
    assert "number" in failed[3]
    assert failed[4] == failed[5] == ("colour",)


def test_batch_equals_single_and_empty_pictures_are_judged(judge: Judge, few: SpriteBook) -> None:
    picture = render(_scene(few, "single", ("guitar", None, 20, 20, 70)), few)
    empty = np.full((128, 128, 3), 255, np.uint8)
    together = judge.read([picture, empty, picture])
    assert together[0][1] == together[2][1] == judge.read([picture])[0][1]
    assert together[1][1] == ()
    assert judge.read([]) == []


def test_each_picture_needs_its_request(judge: Judge) -> None:
    with pytest.raises(DataError, match="0 pictures and 1 requests"):
        judge.judge([], [Request(tag="single", wanted=(Wanted(concept=CAT),))])
