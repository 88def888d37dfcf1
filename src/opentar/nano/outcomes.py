"""What a report keeps beside its scores, so that another model can be compared with it example by example.

`outcomes.json` holds every verdict and answer and some greedy answers as ids, `features.npz` the judge's features of
the drawn and of the true pictures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from opentar.core.errors import DataError, OutputError, shown
from opentar.engine.pixels import encode_all
from opentar.engine.request import Codes, Request, Text
from opentar.eval.agreement import Said, greedy

if TYPE_CHECKING:
    from opentar.nano.world.fixed import GenevalPrompt
    from opentar.pipeline import Tar

OUTCOMES, FEATURES = "outcomes.json", "features.npz"
GREEDY = 60
"""Drawings, and descriptions, whose ids are kept."""
SAME = ("seed", "samples", "prompts", "judge")
"""What two reports must have in common."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The verdict of one drawing."""

    id: str
    tag: str
    accepted: bool


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Whether one question was answered rightly."""

    setting: str
    image: str
    right: bool


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Everything of one evaluation that a comparison needs."""

    meta: dict[str, Any]
    """model, checkpoint, and what SAME names"""
    ceilings: dict[str, float]
    """tag -> share of the true pictures that the judge accepts"""
    drawn: tuple[Drawn, ...]
    answered: tuple[Answered, ...]
    said: tuple[Said, ...]
    drawn_features: NDArray[np.float32]
    """(drawings, D)"""
    true_features: NDArray[np.float32]
    """(drawings, D): that of its prompt beside each drawing"""

    def write(self, folder: Path) -> None:
        """Write the two files into a folder that is there. Raises OutputError."""
        listed = {name: [asdict(one) for one in getattr(self, name)] for name in ("drawn", "answered", "said")}
        try:
            text = json.dumps({"meta": self.meta, "ceilings": self.ceilings, **listed}, ensure_ascii=False)
            (folder / OUTCOMES).write_text(text + "\n", encoding="utf-8")
            np.savez_compressed(folder / FEATURES, drawn=self.drawn_features, true=self.true_features)
        except OSError as error:
            raise OutputError(f"{shown(folder)} cannot be written ({error.strerror}); choose another folder") from error


def read_outcomes(folder: Path) -> Outcomes:
    """What `Outcomes.write` wrote. Raises DataError for a folder that is no whole report."""
    try:
        kept = json.loads((folder / OUTCOMES).read_bytes())
        with np.load(folder / FEATURES, allow_pickle=False) as features:
            drawn, true = features["drawn"], features["true"]
        said = tuple(
            Said(kind=one["kind"], prompt=tuple(one["prompt"]), answer=tuple(one["answer"])) for one in kept["said"]
        )
        return Outcomes(
            meta=dict(kept["meta"]),
            ceilings=dict(kept["ceilings"]),
            drawn=tuple(Drawn(**one) for one in kept["drawn"]),
            answered=tuple(Answered(**one) for one in kept["answered"]),
            said=said,
            drawn_features=drawn,
            true_features=true,
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{shown(folder)} is no report to compare with ({shown(error)}); give the folder of `opentar eval MODEL "
            f"--out FOLDER`, in which {OUTCOMES} and {FEATURES} lie"
        ) from error


def check_comparable(ours: dict[str, Any], theirs: dict[str, Any], where: Path) -> None:
    """Raise DataError unless both evaluations gave the same examples to the same judge."""
    for name in SAME:
        if ours.get(name) != theirs.get(name):
            raise DataError(
                f"{shown(where)} was made with {name} {shown(theirs.get(name))}, and this evaluation has "
                f"{shown(ours.get(name))}; make both alike"
            )


def greedy_answers(tar: Tar, prompts: Sequence[GenevalPrompt], pictures: Sequence[Any]) -> list[Said]:
    """Codes of prompts, and descriptions of pictures, that the model finds likeliest, as ids; GREEDY at most of each.

    They are spread over all prompts, and so over their kinds.
    """
    engine, own = tar.engine(), tar.parts.config.defaults
    step = max(1, len(prompts) // GREEDY)
    scale, read = tar.parts.vocab.scale(own.draw.scale), tar.parts.vocab.scale(own.read.scale)
    drawings = [
        Request(turns=engine.builder.drawing(one.prompt), grammar=Codes(scale=scale))
        for one in prompts[::step][:GREEDY]
    ]
    shown_codes = encode_all(tar.parts, [(picture, read) for picture in pictures[::step][:GREEDY]], None)
    readings = [
        Request(
            turns=engine.builder.reading([codes], own.read.describe),
            grammar=Text(max_new_tokens=own.read.max_new_tokens),
        )
        for codes in shown_codes
    ]
    return greedy(engine, [*drawings, *readings])
