"""`opentar bench`: measure this machine, and a model on it beside the published way."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from opentar.commands import options
from opentar.commands.output import Output
from opentar.core.errors import ConfigError
from opentar.core.progress import Progress

if TYPE_CHECKING:
    from opentar.bench.rows import Row
    from opentar.bench.run import Report

_INTERRUPTED = 130


def bench(
    model: Annotated[
        str, Parameter(help="Name of a model or a model folder; with --random tar-1.5b or tar-7b.")
    ] = "nano",
    /,
    *,
    random: Annotated[bool, Parameter(help="Make random weights of that size in the cache folder; use these.")] = False,
    works: Annotated[
        list[str] | None, Parameter(consume_multiple=True, help="Measure only these, such as decode or draw.")
    ] = None,
    seconds: Annotated[float, Parameter(help="Repeat short works for about so long; each runs at least once.")] = 2.0,
    quick: Annotated[bool, Parameter(help="Run each work once, without the long ones.")] = False,
    baseline: Annotated[
        bool, Parameter(name="--baseline", negative="--no-baseline", help="Measure the published way beside ours.")
    ] = True,
    also: Annotated[
        list[Path] | None, Parameter(consume_multiple=True, help="Quantized copies of the model, measured beside it.")
    ] = None,
    passes: Annotated[
        list[Literal["jacobi", "zipar", "drafts", "late"]] | None,
        Parameter(consume_multiple=True, help="Further ways to draw the codes of an AR de-tokenizer."),
    ] = None,
    code_passes: Annotated[
        list[Literal["jacobi", "zipar"]] | None,
        Parameter(consume_multiple=True, help="Further ways to draw the codes of the language model."),
    ] = None,
    engines: Annotated[
        list[str] | None,
        Parameter(consume_multiple=True, help="Measure only these, named as in the rows, such as 'torch int8, zipar'."),
    ] = None,
    plot: Annotated[Path | None, Parameter(help="Write a roofline plot: .png, .svg or .pdf.")] = None,
    overwrite: options.Overwrite = False,
    device: options.Device = None,
    json: options.Json = False,
) -> int:
    """Measure this machine, and a model on it: each part and engine in alternation with the published way."""
    from opentar.bench import run
    from opentar.bench.plot import check_plot
    from opentar.bench.report import as_dict, lines
    from opentar.core.device import resolve_device

    output = Output(json)
    lists = {"works": works, "also": also, "passes": passes, "code_passes": code_passes, "engines": engines}
    given: Any = {name: tuple(values or ()) for name, values in lists.items()}
    chosen = run.Options(seconds=seconds, quick=quick, baseline=baseline, device=device, **given)
    if plot is not None:
        check_plot(plot, overwrite)
    with output.working(), output.progress() as progress:
        place = str(resolve_device(device))
        folder = _folder(output, model, random, progress)
        report = run.bench(folder, chosen, on_row=lambda row: output.note(_told(row)), on_step=progress)
    for line in lines(report, place):
        output.line(line)
    if plot is not None and report.limits:
        _draw(output, plot, report, place)
    output.result(as_dict(report, place) | {"plot": None if plot is None else str(plot)})
    return _INTERRUPTED if report.interrupted else 1 if not report.rows else 0


def _draw(output: Output, plot: Path, report: "Report", place: str) -> None:
    from opentar.bench.limits import mean
    from opentar.bench.plot import write_plot

    drawn = write_plot(plot, report.rows, mean(report.limits), f"{report.facts.name} on {place}")
    output.line(f"plot     {plot}: {drawn} works")


def _told(row: "Row") -> str:
    """A row while others are still to come."""
    ratio = "" if row.ratio is None else f", {row.ratio:.2f} times as fast as the baseline"
    return f"{row.work}, {row.engine}: {row.seconds:.3f} s{ratio}"


def _folder(output: Output, model: str, random: bool, progress: Progress) -> Path:
    from opentar.bench.random_model import random_model
    from opentar.checkpoints.find import find_model
    from opentar.checkpoints.sizes import NAMES

    if not random:
        if model in NAMES and not Path(model).exists():
            raise ConfigError(f"{model} is a size, not a model; add --random to measure random weights of this size")
        return find_model(model)
    folder = random_model(model, progress)
    output.note(f"the random weights are in {folder}; remove that folder when they are no longer wanted")
    return folder
