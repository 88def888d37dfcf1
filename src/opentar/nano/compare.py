"""A model beside a report of another one: paired losses with 95% intervals, agreement of ids, distance of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from opentar.eval.agreement import KINDS
from opentar.eval.kernel_distance import distance_gained
from opentar.eval.paired import paired_loss
from opentar.nano.outcomes import Outcomes


def compare(before: Outcomes, after: Outcomes, agreed: list[float]) -> dict[str, Any]:
    """What `after` loses beside `before`: nested, each entry the fields of a `Loss`.

    `geneval.TAG` and `geneval.overall` are scores from 0 to 1, resampled by prompt, the judge's own misses held fixed;
    `pope.SETTING` and `pope.overall` are accuracy, resampled by picture; `ids.codes` and `ids.text` are the
    shares of greedy ids that `after` finds otherwise, given the same ids before; `effnet_kid` is how much farther from
    the true pictures its drawings are.

    Args:
        before: the report that is compared with.
        after: the model that is measured, on the same examples.
        agreed: share of the ids of each answer in `before.said` that the model finds likeliest too.
    """
    return {
        "model": before.meta["model"],
        "checkpoint": before.meta["checkpoint"],
        "geneval": _drawing(before, after),
        "pope": _reading(before, after),
        "ids": _ids(before, agreed),
        "effnet_kid": asdict(distance_gained(before.drawn_features, after.drawn_features, before.true_features)),
    }


def _drawing(before: Outcomes, after: Outcomes) -> dict[str, Any]:
    # A tag of which the judge accepts no true picture scores nothing on either side.
    factors = {tag: 1 / share if share else 0.0 for tag, share in before.ceilings.items()}
    pairs = list(zip(before.drawn, after.drawn, strict=True))

    def loss(tags: set[str]) -> dict[str, Any]:
        own = [(one, other) for one, other in pairs if one.tag in tags]
        return asdict(
            paired_loss(
                [float(one.accepted) for one, _ in own],
                [float(other.accepted) for _, other in own],
                [one.id for one, _ in own],
                [one.tag for one, _ in own],
                factors,
            )
        )

    tags = list(dict.fromkeys(one.tag for one, _ in pairs))
    return {tag: loss({tag}) for tag in tags} | {"overall": loss(set(tags))}


def _reading(before: Outcomes, after: Outcomes) -> dict[str, Any]:
    pairs = list(zip(before.answered, after.answered, strict=True))

    def loss(settings: set[str]) -> dict[str, Any]:
        own = [(one, other) for one, other in pairs if one.setting in settings]
        first, second = [float(one.right) for one, _ in own], [float(other.right) for _, other in own]
        return asdict(paired_loss(first, second, [one.image for one, _ in own]))

    settings = list(dict.fromkeys(one.setting for one, _ in pairs))
    return {setting: loss({setting}) for setting in settings} | {"overall": loss(set(settings))}


def _ids(before: Outcomes, agreed: list[float]) -> dict[str, Any]:
    found = {}
    for kind in KINDS:
        own = [share for one, share in zip(before.said, agreed, strict=True) if one.kind == kind]
        if own:
            found[kind] = asdict(paired_loss([1.0] * len(own), own, [str(place) for place in range(len(own))]))
    return found


def comparison_lines(compared: Mapping[str, Any]) -> list[str]:
    """The comparison as Markdown."""
    lines = [
        "",
        f"## Beside {compared['model']}",
        "",
        f"Checkpoint `{compared['checkpoint']}`. What is lost on the same examples, in points of 100; "
        "a minus is a gain. Intervals by a bootstrap over prompts and pictures.",
        "",
        "| measure | lost | 95% interval | examples that differ |",
        "|---|---|---|---|",
    ]
    names = {"geneval": "drawing", "pope": "reading", "ids": "greedy ids"}
    for part, told in names.items():
        for name, loss in compared[part].items():
            lines.append(_line(f"{told}, {name}", loss, 100, 1))
    lines.append(_line("EffNet-KID to the true pictures (its own unit)", compared["effnet_kid"], 1, 4))
    return lines


def _line(name: str, loss: Mapping[str, Any], times: int, digits: int) -> str:
    numbers = [f"{times * loss[key]:.{digits}f}" for key in ("lost", "low", "high")]
    return f"| {name} | {numbers[0]} | {numbers[1]} to {numbers[2]} | {loss['differ']} |"
