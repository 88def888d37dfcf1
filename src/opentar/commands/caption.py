"""`opentar caption`: captions of many pictures into a file, as a job that can be interrupted."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from opentar.commands import options
from opentar.commands.model import load
from opentar.commands.output import Output
from opentar.core.errors import ImageError, shown

if TYPE_CHECKING:
    from opentar.captioning.job import Place, Summary
    from opentar.captioning.listing import Listing

_NAMED = 5
"""Failures that are told on stderr one by one; the file has them all."""


def caption(
    *sources: Annotated[
        str, Parameter(help="Folder, pattern in quotes ('photos/**/*.jpg'), list (.csv .tsv .txt .jsonl), or picture.")
    ],
    out: Annotated[
        Path,
        Parameter(
            name=["--out", "-o"], help="File of captions: .jsonl, .csv or .parquet; one of the same kind is added to."
        ),
    ],
    recursive: Annotated[
        bool, Parameter(name=["--recursive", "-r"], help="Look into the folders of a folder too.")
    ] = False,
    column: Annotated[
        str | None, Parameter(help="Column or key of a list that names the picture. Default: path, image, file, ...")
    ] = None,
    root: Annotated[
        Path | None, Parameter(help="Folder that names in a list begin at. Default: the folder of the list.")
    ] = None,
    prompt: Annotated[str | None, Parameter(help="What to ask of each picture. Default: the model's own.")] = None,
    lang: Annotated[Literal["en", "zh"] | None, Parameter(help="Language of the captions. Default: en.")] = None,
    max_tokens: Annotated[int | None, Parameter(help="Longest caption in tokens. Default: the model's own.")] = None,
    scale: options.Scale = None,
    fit: options.Fit = None,
    batch: Annotated[int, Parameter(help="Captions said side by side: more is faster and takes more memory.")] = 32,
    model: options.Model = "nano",
    device: options.Device = None,
    dtype: options.Dtype = None,
    engine: options.LanguageEngine = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> int:
    """Caption many pictures. The same command goes on where it was interrupted, and adds what is new."""
    from opentar.captioning.job import Place, caption_files, count
    from opentar.captioning.listing import Listing
    from opentar.core import environment

    output = Output(json)
    if not sources:
        raise ImageError("no pictures are given; name a folder, a pattern in quotes, a list or picture files")
    place = Place(out=environment.expanded(out), overwrite=overwrite)
    names, start = [str(environment.expanded(source)) for source in sources], root and environment.expanded(root)
    listing = Listing(sources=names, recursive=recursive, column=column, root=start)
    place.check()
    total = count(listing)
    _note_passed(output, listing)
    with output.working():
        tar = load(model, device, dtype, engine)
        from opentar.captioning.captions import settings_of

        settings = settings_of(tar, prompt, lang, scale, fit, max_tokens)
    started = time.perf_counter()
    with output.progress() as progress, output.working():
        told = {"progress": lambda done, of: progress("captions", done, of), "failed": _noting(output)}
        summary = caption_files(tar, listing, place, settings, batch_size=batch, total=total, **told)
    return _told(output, place, summary, time.perf_counter() - started)


def _note_passed(output: Output, listing: "Listing") -> None:
    """Say what is no picture and is not opened."""
    if listing.passed.others:
        output.note(f"{listing.passed.others} files of other kinds are passed over")
    if listing.passed.loops:
        output.note(f"{listing.passed.loops} links lead back to a folder above them and are passed over")


def _noting(output: Output) -> Callable[[str, str], None]:
    """Says the first failures one by one."""
    left = iter(range(_NAMED))

    def failed(path: str, reason: str) -> None:
        if next(left, None) is not None:
            output.note(f"no caption for {shown(path)}: {reason}")

    return failed


def _told(output: Output, place: "Place", summary: "Summary", seconds: float) -> int:
    """Say what was done; returns the exit code."""
    speed = f", {summary.captioned / seconds:.1f} a second" if summary.captioned else ""
    output.line(f"{place.out}: {summary.rows} captions, {summary.captioned} of them new{speed}")
    if summary.failed:
        output.note(f"{summary.failed} pictures have no caption; {shown(place.failed)} says why")
    output.result(
        {
            "out": str(place.out),
            "failed_out": str(place.failed) if summary.failed else None,
            "listed": summary.listed,
            "there": summary.there,
            "captioned": summary.captioned,
            "captions": summary.rows,
            "failed": summary.failed,
            "seconds": round(seconds, 3),
        }
    )
    return 1 if summary.failed else 0
