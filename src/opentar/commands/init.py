"""`opentar init`: a model of published size with random weights, to measure a machine with."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from opentar.commands import options
from opentar.commands.files import folder_argument
from opentar.commands.output import Output
from opentar.core.disk import free_bytes, human_bytes
from opentar.core.errors import ConfigError
from opentar.core.memory import available_bytes


def init(
    size: Annotated[str, Parameter(help="Size of the model: tar-1.5b or tar-7b.")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="New model folder.")],
    random: Annotated[bool, Parameter(help="Confirm that random weights are wanted; the model draws noise.")] = False,
    dtype: Annotated[Literal["bf16", "fp32"], Parameter(help="Type to store weights in.")] = "bf16",
    parts: Annotated[
        list[str] | None,
        Parameter(consume_multiple=True, help="Make only these parts: language ta_tok detok_ar detok_diffusion."),
    ] = None,
    seed: Annotated[int, Parameter(help="Seed of the weights.")] = 0,
    dry_run: Annotated[bool, Parameter(help="Print sizes and the disk and memory needed; write nothing.")] = False,
    json: options.Json = False,
) -> None:
    """Make a model of a published size with random weights, to measure a machine with."""
    output = Output(json)
    if not random:
        raise ConfigError("add --random: init makes random weights only; use pull or import for trained ones")
    folder_argument(out)
    chosen = [name for text in parts or () for name in text.split(",")]
    with output.working(), output.progress() as progress:
        from opentar.checkpoints.random_init import PARTS, init_random
        from opentar.checkpoints.sizes import size_of

        report = init_random(
            size_of(size), out, dtype=dtype, seed=seed, parts=chosen or PARTS, dry_run=dry_run, progress=progress
        )
    for part, numbers in report.numbers.items():
        output.line(f"part     {part}: {numbers:,} random numbers")
    output.line(f"text     the tokenizer is that {report.tokenizer}")
    output.line(f"needs    {_needs(report.disk_bytes, free_bytes(out), 'on the disk')}")
    output.line(f"         {_needs(report.memory_bytes, available_bytes(), 'of memory while it is made')}")
    verb = "written" if report.written else "would be written"
    output.line(f"{verb:8} {report.folder}: {report.name}, {human_bytes(report.bytes)} as {report.storage}")
    values = {"folder": str(report.folder), "name": report.name, "numbers": report.numbers, "bytes": report.bytes}
    values |= {"disk_bytes": report.disk_bytes, "memory_bytes": report.memory_bytes, "written": report.written}
    output.result(values | {"storage": report.storage, "tokenizer": report.tokenizer})


def _needs(needed: int, there: int | None, what: str) -> str:
    return f"{human_bytes(needed)} {what}" + (f", {human_bytes(there)} are free" if there is not None else "")
