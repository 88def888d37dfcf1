"""POPE's parser and formulas, number for number as its official script computes them (Li et al. 2023, EMNLP).

The questions may come from anywhere; this file only reads answers and counts. `yes` is the positive class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from opentar.core.errors import DataError, shown

SETTINGS = ("random", "popular", "adversarial")
# The official parser compares whole words with exactly these spellings: "NO" and "nope" count as yes there.
_NEGATIVE_WORDS = frozenset({"No", "no", "not"})


def parse_official(text: str) -> str:
    """Read an answer as POPE's script does: only the text before the first ".", commas deleted, words split on spaces.

    Returns "no" when `No`, `no` or `not` is one of the words, otherwise "yes" (also for an empty answer).
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if _NEGATIVE_WORDS.intersection(words) else "yes"


@dataclass(frozen=True, kw_only=True)
class PopeScores:
    """The five published numbers of one POPE setting, each in [0, 1]."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float

    def to_dict(self) -> dict[str, float]:
        """The numbers under POPE's own names."""
        return asdict(self)


def _ratio(part: float, whole: float) -> float:
    # A model that never says yes has no precision; the official script would divide by zero there.
    return part / whole if whole else 0.0


def score(answers: Sequence[str], labels: Sequence[str]) -> PopeScores:
    """Score raw answers against labels "yes"/"no", joined by order as the official script joins them.

    Raises DataError when the lengths differ or a label is neither "yes" nor "no".
    """
    if len(answers) != len(labels):
        raise DataError(
            f"{len(answers)} answers were given for {len(labels)} questions; they are joined by order, "
            "so both files need the same number of lines"
        )
    unknown = sorted(set(labels) - {"yes", "no"})
    if unknown:
        raise DataError(f'label {shown(unknown[0])} was given; POPE labels are "yes" or "no": check the question file')
    counts = {(said, true): 0 for said in ("yes", "no") for true in ("yes", "no")}
    for answer, label in zip(answers, labels, strict=True):
        counts[parse_official(answer), label] += 1
    true_yes, false_yes = counts["yes", "yes"], counts["yes", "no"]
    precision = _ratio(true_yes, true_yes + false_yes)
    recall = _ratio(true_yes, true_yes + counts["no", "yes"])
    return PopeScores(
        accuracy=_ratio(true_yes + counts["no", "no"], len(labels)),
        precision=precision,
        recall=recall,
        f1=_ratio(2 * precision * recall, precision + recall),
        yes_ratio=_ratio(true_yes + false_yes, len(labels)),
    )
