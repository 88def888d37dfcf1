"""Reads a drawn picture back and says whether it shows what the prompt asked for.

Parts come from connected foreground (parts.py), names from the probe, colours from the nearest palette colour, places
from the boxes. A picture is accepted when number, every name (in the probe's top 3), every colour asked for and every
relation are right; the background is reported and never required. The judge's own error on ground-truth pictures is
printed beside every score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentar.core.errors import DataError, nearest, shown
from opentar.core.progress import Count
from opentar.nano.judge.features import FrozenFeatures
from opentar.nano.judge.parts import Box, Part, PartSettings, Seen, crop_part, find_parts
from opentar.nano.judge.probe import Probe, load_probe
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.palette import BACKGROUND_LAB, BACKGROUNDS, COLOUR_INDEX, COLOURS, nearest_colour, rgb_to_lab
from opentar.nano.world.spec import SceneSpec, relation

RELATIONS = ("left of", "right of", "above", "below")
TOP = 3
"""The name counts when it is among this many best of the probe."""
_NAMED_PARTS = 5
"""At most this many parts are named: a picture with more has the wrong number anyway."""
_POSITION_SLACK = 0.1
_POSITION_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One entry of a prompt: `count` equal objects, and where they are."""

    concept: int
    count: int = 1
    colour: str | None = None
    position: tuple[str, int] | None = None
    """(relation, index of another entry): this entry is "left of" that one."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a picture must show."""

    tag: str
    """A GenEval tag or a scene kind; only used to group scores."""
    wanted: tuple[Wanted, ...]
    background: str | None = None
    """Named background, if the prompt names one."""

    @property
    def number(self) -> int:
        """How many objects there must be."""
        return sum(entry.count for entry in self.wanted)


@dataclass(frozen=True, kw_only=True)
class PartVerdict:
    """What the judge saw in one part."""

    box: Box
    names: tuple[int, ...]
    """Concept indices, best first; empty for parts beyond the first few."""
    colour: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The judge's answer for one picture."""

    accepted: bool
    checks: dict[str, bool]
    """number, name, colour, position: those that the request asks about. Only all of them together accept."""
    top1: bool
    """Whether every name was also the probe's first choice (reported, not required)."""
    background: str
    """Nearest named background."""
    background_right: bool | None
    """None where the request names none."""
    number: int
    """Parts found."""
    parts: tuple[PartVerdict, ...] = field(default=())

    def words(self) -> str:
        """What was seen, in a short English line."""
        concepts = load_concepts()
        seen = [f"{part.colour} {concepts[part.names[0]].en}" for part in self.parts if part.names]
        return f"{', '.join(seen) or 'nothing'} on {self.background}"

    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(name for name, right in self.checks.items() if not right)


Reading = tuple[Seen, tuple[PartVerdict, ...]]
"""A picture as the judge read it, before any request."""


def request_from_spec(spec: SceneSpec) -> Request:
    """The request that a scene's own picture fulfils.

    A colour is asked for where the scene recoloured the object, a relation where the kind is "position".
    """
    counts: dict[tuple[int, str | None], int] = {}
    for item in spec.objects:
        counts[item.concept, item.colour] = counts.get((item.concept, item.colour), 0) + 1
    wanted = [Wanted(concept=key[0], colour=key[1], count=number) for key, number in counts.items()]
    if spec.kind == "position":
        first, second = spec.objects
        where = {"left": "left of", "right": "right of"}.get(relation(first, second) or "", relation(first, second))
        if where is None:
            raise DataError("a scene of kind position has two objects without a clear relation: draw it again")
        wanted[0] = Wanted(concept=first.concept, colour=first.colour, position=(where, 1))
    return Request(tag=spec.kind, wanted=tuple(wanted), background=spec.background)


def request_from_geneval(entry: Mapping[str, Any]) -> Request:
    """A request from one line of GenEval's own JSON form, its classes being English concept names.

    Raises DataError for classes, colours or relations that the nano world does not have.
    """
    index = {concept.en: concept.index for concept in load_concepts()}
    wanted = []
    for part in entry["include"]:
        name, colour, position = part["class"], part.get("color"), part.get("position")
        if name not in index:
            raise DataError(f"class {shown(name)} is not among the {len(index)} concepts.{nearest(name, index)}")
        if colour is not None and colour not in COLOUR_INDEX:
            raise DataError(f"colour {shown(colour)} is unknown; allowed: {', '.join(COLOURS)}")
        if position is not None and (position[0] not in RELATIONS or not 0 <= position[1] < len(entry["include"])):
            raise DataError(
                f"position {shown(position)} is unknown; allowed: {', '.join(RELATIONS)} and an entry's index"
            )
        wanted.append(
            Wanted(
                concept=index[name],
                count=int(part.get("count", 1)),
                colour=colour,
                position=None if position is None else (position[0], int(position[1])),
            )
        )
    return Request(tag=entry["tag"], wanted=tuple(wanted), background=entry.get("background"))


def relations_between(first: Box, second: Box) -> set[str]:
    """Where `first` is, seen from `second`, by GenEval's rule (its evaluation script, relative_position).

    The offset of the centres is shortened by a tenth of both sizes and divided by its length; a component beyond one
    half counts. Empty when the boxes lie in each other.
    """
    ends = np.array([first, second], np.float64).reshape(2, 2, 2)
    centres, sizes = ends.mean(axis=1), ends[:, 1] - ends[:, 0]
    offset = centres[0] - centres[1]
    shortened = np.maximum(np.abs(offset) - _POSITION_SLACK * sizes.sum(axis=0), 0) * np.sign(offset)
    if np.all(np.abs(shortened) < 1e-3):
        return set()
    across, down = shortened / np.linalg.norm(offset)
    found = {"left of": across < -_POSITION_SHARE, "right of": across > _POSITION_SHARE}
    found |= {"above": down < -_POSITION_SHARE, "below": down > _POSITION_SHARE}
    return {name for name, holds in found.items() if holds}


class Judge:
    """Judges pictures in batches; holds the frozen network and the probe."""

    def __init__(
        self,
        probe: Probe | None = None,
        *,
        features: FrozenFeatures | None = None,
        settings: PartSettings | None = None,
        progress: Count | None = None,
    ) -> None:
        """Load the network and the cached probe, or build the probe (about two minutes) and report `progress`."""
        self.features = features or FrozenFeatures()
        self.probe = probe or load_probe(features=self.features, progress=progress)
        self.settings = settings or PartSettings()

    def read(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Reading]:
        """Find and name the parts of uint8 (H, W, 3) pictures. Raises ImageError for other arrays."""
        seen = [find_parts(picture, self.settings) for picture in pictures]
        crops = [
            crop_part(picture, part, one.background_rgb, self.probe.settings.side, self.probe.settings.margin)
            for picture, one in zip(pictures, seen, strict=True)
            for part in one.parts[:_NAMED_PARTS]
        ]
        names = self.probe.top(self.features(np.stack(crops)), TOP).tolist() if crops else []
        found, start = [], 0
        for one in seen:
            named = names[start : start + min(len(one.parts), _NAMED_PARTS)]
            start += len(named)
            rows = [*named, *([()] * (len(one.parts) - len(named)))]
            found.append((one, tuple(map(_part_verdict, one.parts, rows))))
        return found

    def judge(self, pictures: Sequence[NDArray[np.uint8]], requests: Sequence[Request]) -> list[Verdict]:
        """Judge each picture by the request of the same place.

        Raises DataError when the two lists differ in length, ImageError for arrays that are not pictures.
        """
        if len(pictures) != len(requests):
            raise DataError(f"{len(pictures)} pictures and {len(requests)} requests were given; give one request each")
        readings = self.read(pictures)
        return [decide(seen, parts, request) for (seen, parts), request in zip(readings, requests, strict=True)]


def _part_verdict(part: Part, names: Sequence[int]) -> PartVerdict:
    colour = COLOURS[int(nearest_colour(np.array(part.mean_rgb, np.float32)))]
    return PartVerdict(box=part.box, names=tuple(int(name) for name in names), colour=colour)


def decide(seen: Seen, parts: tuple[PartVerdict, ...], request: Request) -> Verdict:
    """Compare what was seen with what was wanted, giving parts to objects in the way that fulfils most checks."""
    asked = {"number": True, "name": True}
    asked |= {"colour": True} if any(entry.colour for entry in request.wanted) else {}
    asked |= {"position": True} if any(entry.position for entry in request.wanted) else {}
    slots = [index for index, entry in enumerate(request.wanted) for _ in range(entry.count)]
    checks = dict.fromkeys(asked, False)
    top1 = False
    if len(parts) == len(slots) and len(slots) <= _NAMED_PARTS:
        best = max((_compare(chosen, slots, request) for chosen in permutations(parts)), key=lambda found: found[0])
        checks = {name: best[1][name] for name in asked}
        top1 = best[2]
    distance = np.linalg.norm(BACKGROUND_LAB - rgb_to_lab(np.array(seen.background_rgb, np.float32)), axis=-1)
    background = BACKGROUNDS[int(distance.argmin())]
    return Verdict(
        accepted=all(checks.values()),
        checks=checks,
        top1=top1,
        background=background,
        background_right=None if request.background is None else request.background == background,
        number=len(parts),
        parts=parts,
    )


def _compare(
    parts: Sequence[PartVerdict], slots: Sequence[int], request: Request
) -> tuple[tuple[int, int], dict[str, bool], bool]:
    """How well parts in this order fill the slots: (rank for choosing, checks, all first choices)."""
    entries = [request.wanted[slot] for slot in slots]
    names = [entry.concept in part.names for part, entry in zip(parts, entries, strict=True)]
    first = [part.names[:1] == (entry.concept,) for part, entry in zip(parts, entries, strict=True)]
    colours = [entry.colour in (None, part.colour) for part, entry in zip(parts, entries, strict=True)]
    places = [
        entry.position[0] in relations_between(part.box, other.box)
        for part, entry in zip(parts, entries, strict=True)
        if entry.position is not None
        for other, slot in zip(parts, slots, strict=True)
        if slot == entry.position[1]
    ]
    checks = {"number": True, "name": all(names), "colour": all(colours), "position": all(places)}
    # All checks at once come first; among failures the reading with most right names is the one to report.
    return (int(all(checks.values())), sum(names) * 2 + sum(colours) + sum(places) + sum(first)), checks, all(first)
