"""POPE's parser and formulas, against hand-computed answers of the official script."""

import pytest

from opentar.core.errors import DataError
from opentar.eval.pope import parse_official, score


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("No", "no"),
        ("no, there is not", "no"),
        ("There is not a dog.", "no"),
        ("Yes. No dog is there", "yes"),
        ("Well, No, it is a cat", "no"),
        ("NO", "yes"),
        ("nothing of the kind", "yes"),
        ("no!", "yes"),
        ("", "yes"),
        ("否", "yes"),
    ],
)
def test_answers_are_read_as_the_official_script_reads_them(text: str, read: str) -> None:
    assert parse_official(text) == read


def test_numbers() -> None:
    answers = ["Yes.", "yes", "No.", "Yes", "no", "no"]
    labels = ["yes", "yes", "yes", "no", "no", "no"]
    found = score(answers, labels)
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(2 / 3)
    assert found.f1 == pytest.approx(2 / 3)
    assert found.yes_ratio == pytest.approx(0.5)


def test_one_sided_answers_divide_by_nothing() -> None:
    found = score(["no", "no"], ["yes", "no"])
    assert (found.accuracy, found.precision, found.recall, found.f1, found.yes_ratio) == (0.5, 0, 0, 0, 0)
    assert score([], []).accuracy == 0


def test_answers_are_joined_by_order() -> None:
    with pytest.raises(DataError, match="2 answers were given for 1 questions"):
        score(["no", "yes"], ["no"])
    with pytest.raises(DataError, match="'maybe'"):
        score(["no"], ["maybe"])
