"""A roofline plot: what the machine allows at each FLOPs per byte, and where the works are.

A point has the marker of its engine and the number of its work; both are told beside the plot, where there is room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentar.core.errors import ConfigError, OutputError, shown

if TYPE_CHECKING:
    from opentar.bench.limits import Limits
    from opentar.bench.rows import Row

ENDINGS = (".png", ".svg", ".pdf")
SPAN = (0.1, 10_000.0)
"""FLOPs per byte of the drawn range, where no work lies outside."""
_MARKERS = "os^DvP*X"
_ROOM = 11.0
"""Points (1/72 inch) that the numbers of two works are kept apart, and a number from the points of others."""


def check_plot(path: Path, overwrite: bool) -> None:
    """Refuse what can be refused before anything is measured.

    Raises:
        ConfigError: matplotlib is not installed, or the ending is unknown.
        OutputError: the file exists, or its folder does not.
    """
    _pyplot()
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(f"the plot {shown(path)} ends in {shown(path.suffix)}; use {', '.join(ENDINGS)}")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"there is no folder {shown(path.absolute().parent)}; make it or choose another name")
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputError(f"{shown(path)} exists; choose another name or add --overwrite")


def write_plot(path: Path, rows: Sequence[Row], limits: Limits, title: str) -> int:
    """Draw the works whose needs are known; returns how many. Raises OutputError where the file cannot be written."""
    pyplot = _pyplot()
    points = [row for row in rows if row.flops and row.bytes and row.seconds > 0]
    places = [(row.flops or 0.0) / (row.bytes or 1.0) for row in points]
    low, high = min([SPAN[0], *places]), max([SPAN[1], *places])
    figure, axes = pyplot.subplots(figsize=(11, 6.5))
    for (kind, rate), style in zip(limits.flops_per_s.items(), ("-", "--", ":", "-.") * 2, strict=False):
        corner = rate / limits.bytes_per_s
        heights = [low * limits.bytes_per_s / 1e9, rate / 1e9, rate / 1e9]
        axes.plot([low, corner, max(high, corner)], heights, style, color="gray", linewidth=1, label=f"limit in {kind}")
    engines = list(dict.fromkeys(row.engine for row in points))
    heights = [(row.flops or 0.0) / row.seconds / 1e9 for row in points]
    for number, engine in enumerate(engines):
        own = [
            (place, height) for row, place, height in zip(points, places, heights, strict=True) if row.engine == engine
        ]
        axes.plot(*zip(*own, strict=True), _MARKERS[number % len(_MARKERS)], color=f"C{number}", ms=5, label=engine)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOP per byte from memory")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(title)
    works = list(dict.fromkeys(row.work for row in points))
    dots = axes.transData.transform(list(zip(places, heights, strict=True))) * 72 / figure.dpi if points else []
    for row, place, height, shift in zip(points, places, heights, _beside(dots), strict=True):
        axes.annotate(
            str(works.index(row.work) + 1),
            (place, height),
            textcoords="offset points",
            xytext=shift,
            size=8,
            ha="center",
            va="center",
            color=f"C{engines.index(row.engine)}",
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "gray"} if math.hypot(*shift) > _ROOM else None,
        )
    told = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    axes.add_artist(told)
    names = "\n".join(f"{number}  {work}" for number, work in enumerate(works, 1))
    axes.text(1.03, 0.0, names, transform=axes.transAxes, fontsize=9, va="bottom")
    try:
        figure.savefig(path, dpi=150, bbox_inches="tight")
    except OSError as error:
        raise OutputError(f"{shown(path)} cannot be written ({error.strerror}); choose another name") from error
    finally:
        pyplot.close(figure)
    return len(points)


def _beside(dots: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Where the number of each point stands, from the point: the nearest place that is free, in points (1/72 inch)."""
    taken: list[tuple[float, float]] = []
    shifts = []
    for own, (x, y) in enumerate(dots):
        others = [*taken, *((a, b) for other, (a, b) in enumerate(dots) if other != own)]
        choices = [
            (round_ * math.cos(turn * math.pi / 6), round_ * math.sin(turn * math.pi / 6))
            for round_ in (_ROOM * 0.9, *(_ROOM * step for step in range(2, 12)))
            for turn in (1, 11, 5, 7, 3, 9, 0, 6, 2, 4, 8, 10)
        ]
        room = [min((math.hypot(x + a - c, y + b - d) for c, d in others), default=_ROOM) for a, b in choices]
        best = next((place for place, free in enumerate(room) if free >= _ROOM * 0.8), room.index(max(room)))
        shifts.append(choices[best])
        taken.append((x + choices[best][0], y + choices[best][1]))
    return shifts


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError("a plot needs matplotlib; run: pip install 'opentar[plot]'") from error
    # No window system is asked for, whatever the user's settings say.
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
