"""GenEval-like drawing scores on the nano world's held-out combinations.

A score is the share of accepted drawings divided by the share of accepted ground-truth pictures of the same kind, so
that the judge's own misses are not charged to the model; both shares are always reported beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opentar.core.errors import ConfigError, DataError
from opentar.nano.judge.judge import Reading, Request, Verdict, decide, request_from_geneval
from opentar.nano.world.fixed import GENEVAL_SIZE, GENEVAL_TAGS, GenevalPrompt, geneval_prompts
from opentar.nano.world.render import load_book, render

TAGS = tuple(GENEVAL_TAGS)


@dataclass(frozen=True, kw_only=True)
class TagCount:
    """What the judge said about the pictures of one tag."""

    accepted: int
    total: int
    top1: int
    """Accepted pictures whose every name was also the probe's first choice."""
    background: int
    """Pictures on the background that the prompt names, accepted or not."""

    @property
    def share(self) -> float:
        """Accepted pictures of all, 0 where there is none."""
        return self.accepted / self.total if self.total else 0.0


def even_prompts(limit: int | None = None) -> tuple[GenevalPrompt, ...]:
    """The 600 prompts, or the first ones of every tag so that `limit` are spread evenly (earlier tags get the rest).

    Raises ConfigError for a limit that leaves a tag without a prompt.
    """
    if limit is not None and limit < len(TAGS):
        most = GENEVAL_SIZE * len(TAGS)
        raise ConfigError(f"limit is {limit}; give {len(TAGS)} (one prompt a tag) to {most}, or none for all prompts")
    if limit is None or limit >= GENEVAL_SIZE * len(TAGS):
        return geneval_prompts()
    each, rest = divmod(limit, len(TAGS))
    wanted = {tag: each + (place < rest) for place, tag in enumerate(TAGS)}
    # Every prompt depends on its own index and the earlier ones of its tag: a shorter set is a beginning of the whole.
    found = geneval_prompts(max(wanted.values()))
    taken = dict.fromkeys(TAGS, 0)
    chosen = []
    for prompt in found:
        if taken[prompt.tag] < wanted[prompt.tag]:
            taken[prompt.tag] += 1
            chosen.append(prompt)
    return tuple(chosen)


def requests_of(prompts: Sequence[GenevalPrompt]) -> list[Request]:
    """What each prompt's picture must show; the background is reported only."""
    return [request_from_geneval({**prompt.to_line(), "background": prompt.spec.background}) for prompt in prompts]


def truth_pictures(prompts: Sequence[GenevalPrompt]) -> list[NDArray[np.uint8]]:
    """The true picture of each prompt, uint8 (128, 128, 3)."""
    book = load_book("train")
    return [render(prompt.spec, book) for prompt in prompts]


def count_tags(requests: Sequence[Request], verdicts: Sequence[Verdict]) -> dict[str, TagCount]:
    """Accepted pictures of every tag that occurs, in GenEval's order. Raises DataError when the lengths differ."""
    if len(requests) != len(verdicts):
        raise DataError(f"{len(verdicts)} verdicts for {len(requests)} requests were given; give one each")
    pairs = list(zip(requests, verdicts, strict=True))
    found = {}
    for tag in dict.fromkeys(request.tag for request in requests):
        own = [verdict for request, verdict in pairs if request.tag == tag]
        found[tag] = TagCount(
            accepted=sum(verdict.accepted for verdict in own),
            total=len(own),
            top1=sum(verdict.accepted and verdict.top1 for verdict in own),
            background=sum(bool(verdict.background_right) for verdict in own),
        )
    return found


def geneval_scores(drawn: dict[str, TagCount], truth: dict[str, TagCount]) -> dict[str, float]:
    """Score of each tag and `overall`, their unweighted mean. A tag with no accepted true picture scores 0."""
    scores = {}
    for tag in TAGS:
        if tag in drawn:
            ceiling = truth[tag].share
            scores[tag] = drawn[tag].share / ceiling if ceiling else 0.0
    return with_overall(scores)


def truth_scores(truth: dict[str, TagCount]) -> dict[str, float]:
    """Accepted shares of the ground truth under the same keys: one minus the judge's own error."""
    return with_overall({tag: truth[tag].share for tag in TAGS if tag in truth})


def with_overall(scores: dict[str, float]) -> dict[str, float]:
    """The scores with GenEval's overall: the unweighted mean of the tags."""
    return {**scores, "overall": sum(scores.values()) / len(scores) if scores else 0.0}


def asks_otherwise(request: Request, other: Request) -> bool:
    """Whether the two ask for something different, backgrounds aside."""
    return request.wanted != other.wanted


def counterpart_share(readings: Sequence[Reading], requests: Sequence[Request]) -> float:
    """Share of pictures accepted for another prompt of the same tag: how easily the judge is pleased.

    Each picture, as the judge read it, is held against the next different request of its tag; a tag with a single
    request takes no part.
    """
    accepted = []
    for place, ((seen, parts), request) in enumerate(zip(readings, requests, strict=True)):
        later = [*requests[place + 1 :], *requests[:place]]
        other = next((one for one in later if one.tag == request.tag and asks_otherwise(request, one)), None)
        if other is not None:
            accepted.append(decide(seen, parts, other).accepted)
    return sum(accepted) / len(accepted) if accepted else 0.0
