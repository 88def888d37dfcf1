"""docs/reliability.md: the tests that it names are there, and every line of its list is."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| \d", line)
]


def test_every_number_stands_there() -> None:
    assert sorted({int(number) for number, *_ in ROWS}) == [*range(1, 36), 45]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_tests_of_a_row_are_there(row: list[str]) -> None:
    number, _, tests, outcome = row
    names = re.findall(r"`([^`]*)`", tests)
    assert names or "open" in outcome, f"{number} has neither a test nor the word open"
    text = ""
    for name in names:
        # `::test` is of the file that was named before it.
        place, _, test = name.partition("::")
        if place:
            folder, stem = place.rsplit("/", 1)
            text = (ROOT / "tests" / folder / f"test_{stem}.py").read_text(encoding="utf-8")
        assert not test or f"def test_{test}(" in text, name
