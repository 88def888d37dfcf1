"""A roofline plot: what the machine allows at each FLOPs per byte, and where the works are."""

from __future__ import annotations

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
    figure, axes = pyplot.subplots(figsize=(9, 6))
    for kind, rate in limits.flops_per_s.items():
        corner = rate / limits.bytes_per_s
        heights = [low * limits.bytes_per_s / 1e9, rate / 1e9, rate / 1e9]
        axes.plot([low, corner, max(high, corner)], heights, label=f"limit in {kind}")
    for row, place in zip(points, places, strict=True):
        height = (row.flops or 0.0) / row.seconds / 1e9
        axes.plot([place], [height], "o", color="black", markersize=4)
        axes.annotate(f"{row.work} ({row.engine})", (place, height), textcoords="offset points", xytext=(5, 4), size=7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOP per byte from memory")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(title)
    axes.legend(loc="lower right")
    try:
        figure.savefig(path, dpi=150, bbox_inches="tight")
    except OSError as error:
        raise OutputError(f"{shown(path)} cannot be written ({error.strerror}); choose another name") from error
    finally:
        pyplot.close(figure)
    return len(points)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError("a plot needs matplotlib; run: pip install 'opentar[plot]'") from error
    # No window system is asked for, whatever the user's settings say.
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
