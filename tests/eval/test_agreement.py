"""Greedy ids given to a model one after the other."""

from __future__ import annotations

import dataclasses

import pytest

from opentar.engine.request import Codes, Request, Text
from opentar.eval.agreement import Said, agreements, greedy
from opentar.pipeline import Tar


@pytest.fixture(scope="module")
def tar() -> Tar:
    """Nano."""
    return Tar.from_pretrained("nano", device="cpu")


@pytest.fixture(scope="module")
def said(tar: Tar) -> list[Said]:
    """Two drawings and two answers of different lengths, by nano itself."""
    engine = tar.engine()
    grid = Codes(scale=tar.parts.vocab.scale(2))
    text = Text(max_new_tokens=12)
    asked = ["Say it in other words: a red apple", "Translate into Chinese: two cats on a beach"]
    return greedy(
        engine,
        [Request(turns=engine.builder.drawing(one), grammar=grid) for one in ("a red apple", "a cat")]
        + [Request(turns=engine.builder.saying(one), grammar=text) for one in asked],
    )


def test_a_model_agrees_with_itself(tar: Tar, said: list[Said]) -> None:
    assert [one.kind for one in said] == ["codes", "codes", "text", "text"]
    codes = range(tar.parts.vocab.first_code, tar.parts.vocab.size)
    assert all(token in codes for one in said[:2] for token in one.answer) and len(said[0].answer) == 16
    assert agreements(tar.engine(), said) == [1.0] * 4


def test_one_other_id_is_one_that_differs(tar: Tar, said: list[Said]) -> None:
    """The last id, because all that follow another id may differ too."""
    first, last = tar.parts.vocab.first_code, said[0].answer[-1]
    other = first + (last - first + 1) % 4096
    changed = dataclasses.replace(said[0], answer=(*said[0].answer[:-1], other))
    empty = dataclasses.replace(said[2], answer=())
    counted: list[tuple[int, int]] = []
    found = agreements(tar.engine(2), [changed, said[1], empty], progress=lambda *count: counted.append(count))
    assert found == [15 / 16, 1.0, 1.0]
    assert counted == [(2, 3), (3, 3)]
