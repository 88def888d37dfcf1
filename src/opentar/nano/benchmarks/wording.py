"""Single things asked for in wordings that are held out of training, beside the same things asked for as "a {n}"."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from opentar.eval.benchmark import Draw
from opentar.nano.benchmarks.links import to_judge
from opentar.nano.judge.judge import Judge, Request, Wanted
from opentar.nano.wording.templates import FAMILIES, Template, templates
from opentar.nano.wording.wordings import fill, fits
from opentar.nano.world.captions import LANGUAGES, plain
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.spec import ObjectSpec, SceneSpec

WORDING_SIZE = 60
"""Things that are asked for."""
_SEED = 31


@dataclass(frozen=True, kw_only=True, slots=True)
class Worded:
    """One thing in three prompts."""

    concept: int
    plain: str
    """ "a {n}"."""
    held_out: dict[str, str]
    """Language -> a wording of no training."""
    families: dict[str, str]
    """Language -> family of that wording."""


def worded_things(number: int) -> tuple[Worded, ...]:
    """The first `number` things, all different while there are any, with the families in turn; always the same ones."""
    countable = [one.index for one in load_concepts() if one.countable]
    order = np.random.default_rng(_SEED).permutation(len(countable))
    found = []
    for place in range(number):
        concept = countable[order[place % len(order)]]
        item = ObjectSpec(concept=concept, style="noto", box=(40, 40, 88, 88))
        spec = SceneSpec(kind="single", background="white", objects=(item,))
        rng = np.random.default_rng([_SEED, place])
        chosen = {lang: _chosen(spec, lang, place) for lang in LANGUAGES}
        found.append(
            Worded(
                concept=concept,
                plain=plain(spec, "en", False),
                held_out={lang: fill(one, spec, rng) for lang, one in chosen.items()},
                families={lang: one.family for lang, one in chosen.items()},
            )
        )
    return tuple(found)


def _chosen(spec: SceneSpec, lang: str, place: int) -> Template:
    fitting = [one for one in templates(lang, held_out=True) if fits(one, spec)]
    families = [family for family in FAMILIES if any(one.family == family for one in fitting)]
    own = [one for one in fitting if one.family == families[place % len(families)]]
    return own[place // len(families) % len(own)]


class Wordings:
    """Each thing drawn three times with one seed: as "a {n}", in an English and in a Chinese held-out wording."""

    name = "wording"

    def __init__(self, judge: Judge, things: Sequence[Worded], *, seed: int = 0) -> None:
        self.judge, self.things, self.seed = judge, things, seed

    def examples(self) -> list[Draw]:
        """Three drawings of each thing."""
        return [
            Draw(prompt=prompt, seed=self.seed)
            for thing in self.things
            for prompt in (thing.plain, *(thing.held_out[lang] for lang in LANGUAGES))
        ]

    def score(self, outcomes: Sequence[Image.Image]) -> dict[str, Any]:
        """Accepted shares: `plain`, `held_out`, `held_out_zh`, `ratio` (of English to plain, 0 where none is accepted)
        and each `family`, both languages together.
        """
        requests = [
            Request(tag="single_object", wanted=(Wanted(concept=thing.concept),))
            for thing in self.things
            for _ in range(1 + len(LANGUAGES))
        ]
        verdicts = iter(self.judge.judge([to_judge(picture) for picture in outcomes], requests))
        marks: dict[str, list[bool]] = defaultdict(list)
        families: dict[str, list[bool]] = defaultdict(list)
        for thing in self.things:
            marks["plain"].append(next(verdicts).accepted)
            for lang in LANGUAGES:
                accepted = next(verdicts).accepted
                marks[lang].append(accepted)
                families[thing.families[lang]].append(accepted)
        plainly, english, chinese = (float(np.mean(marks[name])) for name in ("plain", *LANGUAGES))
        return {
            "plain": plainly,
            "held_out": english,
            "held_out_zh": chinese,
            "ratio": english / plainly if plainly else 0.0,
            "family": {name: float(np.mean(own)) for name, own in sorted(families.items())},
        }
