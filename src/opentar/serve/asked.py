"""Questions whose answer is one of a few: what a model is asked, in which words it may answer, what they mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

YES_NO = (("yes", "Yes"), ("no", "No"))
_YES_NO_CHINESE = (("是",), ("否",))
_CHINESE = re.compile("[\u3400-\u9fff]")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question about what was shown or told before it."""

    text: str
    """What is asked."""
    options: tuple[tuple[str, ...], ...]
    """The words of each answer that counts: an answer is as likely as its wordings are together."""

    @property
    def wordings(self) -> tuple[str, ...]:
        """All wordings, each once."""
        return tuple(dict.fromkeys(text for option in self.options for text in option))

    def shares(self, probabilities: Sequence[float]) -> list[float]:
        """Probability of each option of those of the wordings; what two options share is divided equally."""
        each = dict(zip(self.wordings, probabilities, strict=True))
        owners = {text: sum(text in option for option in self.options) for text in each}
        return [sum(each[text] / owners[text] for text in set(option)) for option in self.options]


def yes_no(text: str) -> Asked:
    """A question that is answered with yes or no; what ends without a question mark is a statement."""
    stripped = text.rstrip()
    if _CHINESE.search(text):
        return Asked(text=text if stripped.endswith(("?", "？")) else f"{text}\n对吗？", options=_YES_NO_CHINESE)
    return Asked(text=text if stripped.endswith("?") else f"{text}\nIs this true?", options=YES_NO)


def one_of(text: str, options: Sequence[tuple[str | bool, str | None]]) -> Asked:
    """A choice among values, each with its description or None.

    The values stand in the question only where one of them is described: a model that was trained on short questions
    understands them better without.
    """
    words = _YES_NO_CHINESE if _CHINESE.search(text) else YES_NO
    spoken = [words[0 if value else 1] if isinstance(value, bool) else (value,) for value, _ in options]
    if any(described for _, described in options):
        rows = [
            f"- {said[0]}: {described}" if described else f"- {said[0]}"
            for said, (_, described) in zip(spoken, options, strict=True)
        ]
        text = "\n".join([text, *rows] if text else rows)
    return Asked(text=text, options=tuple(spoken))
