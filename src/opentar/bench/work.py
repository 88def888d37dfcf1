"""The works that are measured: which ones a model can do follows from its grids and its de-tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from opentar.bench.facts import Facts
from opentar.core.errors import ConfigError, nearest, shown

PROMPT = "three red apples on a light blue background"
NEXT_PROMPT = "a dog"
QUESTION = "What is in the picture?"
TOKENS = 32
"""Longest answer of a reading."""
TOGETHER = 8
"""Drawings at once."""
SANA_STEPS = 4
"""Steps of the published diffusion de-tokenizer; more cost as many times more."""
FLOW = "transformers generate, whole head, one code at a time; image tokenizer in float32"
"""The baseline in words (baseline.py)."""
DECODED = 150
"""Most codes of the decoding that is measured."""
Kind = Literal[
    "encode", "read", "prefill", "decode", "codes", "draw", "paint", "single", "batch", "first", "next", "answer"
]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One thing to do."""

    name: str
    """As it stands in the rows and after --works."""
    kind: Kind
    """What is done (sides.py)."""
    title: str
    """In words."""
    parts: tuple[str, ...]
    """Parts of the model that it needs."""
    group: str
    """Works of a group share their processes."""
    scale: int = 2
    """Index of the grid."""
    detok: str = ""
    """De-tokenizer, where one paints."""
    steps: int | None = None
    """Steps of a diffusion de-tokenizer; None is the model's own."""
    count: int = 1
    """Drawings at once."""
    long: bool = False
    """Takes minutes with a large model; --quick leaves it out."""
    rival: Literal["baseline", "single", "none"] = "baseline"
    """What it is compared with: the baseline flow, the same engine with one request after another, nothing."""

    def differs(self, passes: str | None, code_passes: str | None) -> bool:
        """Whether this is another work with several codes a pass: of the AR that paints, of the model that spells."""
        spelled = self.kind in ("codes", "batch", "draw")
        return (passes is None or self.detok.startswith("ar")) and (code_passes is None or spelled)


def works_of(facts: Facts) -> list[Work]:
    """All works of a model, in the order of the data."""
    works = [*_reading(facts), *_language(facts)]
    for name, kind in facts.painters.items():
        works += _painting(facts, name, kind)
    if facts.small and facts.painters:
        works += _waiting(facts)
    return works


def chosen(works: Sequence[Work], names: Sequence[str] | None, quick: bool) -> list[Work]:
    """The works called `names`, where a name stands for all that begin with it ("draw"); None takes all.

    `quick` leaves out the long ones unless they were named. Raises ConfigError for a name that fits none.
    """
    if not names:
        return [work for work in works if not (quick and work.long)]
    for name in names:
        if not any(_fits(work.name, name) for work in works):
            listed = [work.name for work in works]
            raise ConfigError(
                f"work {shown(name)} is unknown; this model has: {', '.join(listed)}.{nearest(name, listed)}"
            )
    return [work for work in works if any(_fits(work.name, name) for name in names)]


def _fits(work: str, name: str) -> bool:
    return bool(name.strip()) and f"{work} ".startswith(f"{' '.join(name.split())} ")


def _reading(facts: Facts) -> list[Work]:
    works = [
        Work(
            name=f"encode {length}",
            kind="encode",
            title=f"picture -> {length} codes",
            parts=("ta_tok",),
            group=_group(facts, "read"),
            scale=scale,
        )
        for scale, length in enumerate(facts.lengths)
    ]
    works += [
        Work(
            name=f"read {length}",
            kind="read",
            title=f"picture ({length} codes) -> {TOKENS} tokens",
            parts=("ta_tok", "language"),
            group=_group(facts, "read"),
            scale=scale,
        )
        for scale, length in enumerate(facts.lengths[:2])
    ]
    return works


def _language(facts: Facts) -> list[Work]:
    group, parts = _group(facts, "language"), ("language",)
    finest, coarsest = facts.lengths[0], facts.lengths[2]
    # The finest grid that does not take long: of more codes a rate is read more surely.
    measured = next((scale for scale, length in enumerate(facts.lengths) if length <= DECODED), 2)
    return [
        Work(
            name="prefill",
            kind="prefill",
            title=f"prompt with {finest} codes -> first token",
            parts=parts,
            group=group,
            scale=0,
        ),
        Work(
            name="decode",
            kind="decode",
            title=f"one code after the other, {facts.lengths[measured]} codes",
            parts=parts,
            group=group,
            scale=measured,
        ),
        Work(
            name=f"codes {finest}",
            kind="codes",
            title=f"prompt -> {finest} codes",
            parts=parts,
            group=group,
            scale=0,
            long=not facts.small,
        ),
        Work(
            name=f"batch {TOGETHER}",
            kind="batch",
            title=f"{TOGETHER} x prompt -> {coarsest} codes at once",
            parts=parts,
            group=group,
            count=TOGETHER,
            rival="single",
            long=not facts.small,
        ),
    ]


def _painting(facts: Facts, name: str, kind: str) -> list[Work]:
    steps = SANA_STEPS if kind == "sana" else None
    group, parts = _group(facts, f"draw {name}"), ("ta_tok", "language", f"detok_{name}")
    coarsest, finest = facts.lengths[2], facts.lengths[0]
    by = f"{name}, {steps} steps" if steps else name
    works = [
        Work(
            name=f"paint {name}",
            kind="paint",
            title=f"{coarsest} codes -> picture by {by}",
            parts=("ta_tok", f"detok_{name}"),
            group=group,
            detok=name,
            steps=steps,
        ),
        Work(
            name=f"draw {coarsest} {name}",
            kind="draw",
            title=f"prompt -> {coarsest} codes -> picture by {by}",
            parts=parts,
            group=group,
            detok=name,
            steps=steps,
        ),
    ]
    if kind == "ar":
        works.append(
            Work(
                name=f"draw {finest} {name}",
                kind="draw",
                title=f"prompt -> {finest} codes -> picture by {by}",
                parts=parts,
                group=group,
                scale=0,
                detok=name,
                long=not facts.small,
            )
        )
    return works


def _waiting(facts: Facts) -> list[Work]:
    """What a person waits for, with the model's own settings."""
    parts = tuple(facts.stored)
    titles: tuple[tuple[str, Kind, str], ...] = (
        ("first picture", "first", "start of the process -> first picture"),
        ("next picture", "next", "prompt -> picture, model loaded"),
        ("answer", "answer", "question -> answer, model loaded"),
    )
    return [
        Work(name=name, kind=kind, title=title, parts=parts, group="all", rival="none") for name, kind, title in titles
    ]


def _group(facts: Facts, name: str) -> str:
    return "all" if facts.small else name
