"""Questions about what is not there and about what nano does not know, beside as many about what is there."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from opentar.eval.benchmark import Ask
from opentar.nano.benchmarks.links import normal_answer
from opentar.nano.wording.honest import PAIRED, about_absent, about_present, about_stranger
from opentar.nano.world.fixed import combo_scenes
from opentar.nano.world.questions import QA
from opentar.nano.world.render import load_book, render
from opentar.nano.world.spec import SceneSpec

HONEST_SIZE = 200
"""Held-out scenes that are asked about."""
_SEED = 32
_DENIALS = re.compile(r"\b(no|none|not|nothing|zero|0)\b")


def denies(answer: str) -> bool:
    """Whether an English answer says that a thing is not there, or that the model is not sure."""
    return bool(_DENIALS.search(answer.lower()))


@dataclass(frozen=True, kw_only=True, slots=True)
class HonestQuestion:
    """One question about a scene."""

    scene: int
    """Place of the scene among those asked about."""
    qa: QA


def honest_set(number: int) -> tuple[tuple[SceneSpec, ...], tuple[HonestQuestion, ...]]:
    """The first `number` held-out scenes and questions about them, always the same.

    Of each kind that a scene can answer there are two questions, about a thing that is there and one that is not, and
    each scene has one about a thing that nano does not know. Wordings are those of training: the answer is scored.
    """
    specs = tuple(item.spec for item in combo_scenes(number))
    found: list[HonestQuestion] = []
    for place, spec in enumerate(specs):
        rng = np.random.default_rng([_SEED, place])
        for kind in PAIRED:
            there = about_present(spec, "en", rng, kind)
            if there is not None:
                both = (there, about_absent(spec, "en", rng, kind))
                found += [HonestQuestion(scene=place, qa=qa) for qa in both]
        found.append(HonestQuestion(scene=place, qa=about_stranger("en", rng, held_out=True)))
    return specs, tuple(found)


class Honest:
    """Denials where there is nothing, and right answers where there is something."""

    name = "honest"

    def __init__(self, number: int) -> None:
        specs, self.questions = honest_set(number)
        book = load_book("train")
        self._pictures = [Image.fromarray(render(spec, book)) for spec in specs]

    def examples(self) -> list[Ask]:
        """The questions, scene by scene."""
        return [Ask(pictures=(self._pictures[one.scene],), question=one.qa.question) for one in self.questions]

    def score(self, outcomes: Sequence[str]) -> dict[str, Any]:
        """Shares by kind: `absent` denied and `present` answered right, `stranger` denied or unsure, and `overall`.

        `overall` is the mean over all kinds of both, so that always or never denying gives at most a half.
        """
        marks: dict[str, dict[str, list[bool]]] = {"absent": defaultdict(list), "present": defaultdict(list)}
        strangers = []
        for one, answer in zip(self.questions, outcomes, strict=True):
            kind = one.qa.kind
            if kind == "stranger":
                strangers.append(denies(answer))
            elif kind.startswith("no_"):
                marks["absent"][kind.removeprefix("no_")].append(denies(answer))
            else:
                marks["present"][kind].append(normal_answer(answer) == normal_answer(one.qa.answer))
        shares = {
            name: {kind: float(np.mean(own)) for kind, own in sorted(kinds.items())} for name, kinds in marks.items()
        }
        overall = float(np.mean([value for kinds in shares.values() for value in kinds.values()]))
        return {**shares, "stranger": float(np.mean(strangers)), "overall": overall}
