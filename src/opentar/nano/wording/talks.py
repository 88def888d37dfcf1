"""Conversations of several turns about one picture: shown, or drawn by the model itself a turn before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from opentar.language.prompt import Drawn, Shown, Turn
from opentar.language.spelling import fold
from opentar.nano.wording.honest import about_absent, about_present, honest_questions
from opentar.nano.wording.noise import NoiseSettings, noisy
from opentar.nano.wording.wordings import worded
from opentar.nano.world.questions import QA
from opentar.nano.world.spec import SceneSpec

_ITS = {
    "en": {"colour": "What color {be} {they}?", "where": "Where {be} {they}?"},
    "zh": {"colour": "它是什么颜色的？", "where": "它在哪里？"},
}


def follow_ups(spec: SceneSpec, lang: str, rng: np.random.Generator) -> list[QA]:
    """Presence, then colour and place of the same thing by "it", of a scene of one thing; [] for others.

    With a lot of one half the first question asks about an absent thing instead, and nothing follows.
    """
    if len(spec.objects) != 1:
        return []
    if rng.random() < 0.5:
        return [about_absent(spec, lang, rng, "presence")]
    found = [about_present(spec, lang, rng, kind) for kind in ("presence", "colour", "where")]
    first, *later = [one for one in found if one is not None]
    many = first.question.startswith("Are ") or " are " in first.question
    its = {"be": "are", "they": "they"} if many else {"be": "is", "they": "it"}
    return [first, *(QA(question=_ITS[lang][qa.kind].format(**its), answer=qa.answer, kind=qa.kind) for qa in later)]


def questions_of_talk(spec: SceneSpec, lang: str, rng: np.random.Generator, most: int) -> list[QA]:
    """At most `most` questions in the order they are asked, now and then some about "it"."""
    follows = follow_ups(spec, lang, rng) if rng.random() < 0.25 else []
    rest = honest_questions(spec, lang, rng, most)
    asked = {qa.question for qa in follows}
    return [*follows, *(qa for qa in rest if qa.question not in asked)][:most]


def heard_prompt(
    spec: SceneSpec, lang: str, rng: np.random.Generator, noise: NoiseSettings, spellings: dict[str, str]
) -> str:
    """A worded, noisy prompt for a scene in the one spelling that a folding model hears."""
    return fold(noisy(worded(spec, lang, rng), spec, rng, noise), spellings, sentence=False)


def about_shown(codes: Sequence[int], asked: Sequence[QA]) -> list[Turn]:
    """A picture, and questions about it; its codes stand before the first one only."""
    first: list[Turn] = [Turn("user", (Shown(codes), "\n" + asked[0].question)), Turn("assistant", (asked[0].answer,))]
    return first + _exchanges(asked[1:])


def about_drawn(prompt: str, codes: Sequence[int], asked: Sequence[QA]) -> list[Turn]:
    """A prompt, its drawing, and questions about what was drawn."""
    return [Turn("user", (prompt,)), Turn("assistant", (Drawn(codes),)), *_exchanges(asked)]


def _exchanges(asked: Sequence[QA]) -> list[Turn]:
    return [turn for qa in asked for turn in (Turn("user", (qa.question,)), Turn("assistant", (qa.answer,)))]
