"""`opentar ask`, `describe` and `tokens`: commands that read pictures."""

import time
from typing import Annotated

from cyclopts import Parameter

from opentar.commands import options
from opentar.commands.files import check_one_stdin, open_source, picture_source, text_argument
from opentar.commands.model import load
from opentar.commands.output import Output
from opentar.core.errors import ImageError, printable

Picture = Annotated[str, Parameter(help="Picture to read: PNG, JPEG, WebP, ...; - reads it from stdin.")]
Also = Annotated[list[str] | None, Parameter(name="--also", help="One more picture, shown after it; repeatable.")]
Scales = Annotated[
    list[int] | None,
    Parameter(name="--scale", help="Grid of codes, 0 (finest) to 2; given several times, one for each picture."),
]


def ask(
    image: Picture,
    question: Annotated[str, Parameter(help="Question in English or Chinese; - reads it from stdin.")],
    /,
    *,
    also: Also = None,
    scale: Scales = None,
    fit: options.Fit = None,
    model: options.Model = "nano",
    device: options.Device = None,
    json: options.Json = False,
) -> None:
    """Answer a question about a picture, or about several."""
    output = Output(json)
    images = [image, *(also or [])]
    check_one_stdin(*images, question)
    question = text_argument(question, "question")
    with output.working():
        pictures = [open_source(picture_source(one)) for one in images]
        tar = load(model, device)
        started = time.perf_counter()
        answer = tar.ask(pictures, question, scale=scale[0] if scale and len(scale) == 1 else scale, fit=fit)
        seconds = time.perf_counter() - started
    output.line(answer)
    told = {"image": image, "question": question, "answer": answer, "seconds": round(seconds, 3)}
    output.result(told | ({"also": also} if also else {}))


def describe(
    *images: Picture,
    scale: options.Scale = None,
    fit: options.Fit = None,
    model: options.Model = "nano",
    device: options.Device = None,
    json: options.Json = False,
) -> None:
    """Say what is in one or several pictures."""
    output = Output(json)
    if not images:
        raise ImageError("no picture was given; name one or more picture files")
    check_one_stdin(*images)
    results = []
    with output.working():
        # All pictures are opened first: a bad last one is told before any time is spent. None is kept, because one
        # may take 120 MB decoded.
        sources = [picture_source(image) for image in images]
        for source in sources:
            open_source(source)
        tar = load(model, device)
    for name, source in zip(images, sources, strict=True):
        with output.working():
            started = time.perf_counter()
            text = tar.describe(open_source(source), scale=scale, fit=fit)
            seconds = time.perf_counter() - started
        output.line(text if len(images) == 1 else f"{name}: {text}")
        results.append({"image": name, "description": text, "seconds": round(seconds, 3)})
    output.result({"descriptions": results})


def tokens(
    image: Picture,
    /,
    *,
    scale: options.Scale = None,
    fit: options.Fit = None,
    words: Annotated[int, Parameter(help="Words per code: its own and its nearest neighbours'; 0 for none.")] = 1,
    model: options.Model = "nano",
    device: options.Device = None,
    json: options.Json = False,
) -> None:
    """Print the grid of codes of a picture with the nearest words of each: what the dialect says."""
    output = Output(json)
    with output.working():
        picture = open_source(picture_source(image))
        grid = load(model, device).tokens(picture, scale, words=words, fit=fit)
    output.line(f"scale {grid.scale.index}: {grid.scale.side} x {grid.scale.side} = {grid.scale.length} codes")
    if not output.json:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(show_header=False, box=box.SIMPLE, padding=(0, 1, 0, 0))
        for codes, names in zip(grid.codes, grid.words, strict=True):
            cells = ("\n".join([str(code), *texts]) for code, texts in zip(codes, names, strict=True))
            # Text, because a word such as "[b]" must not be read as markup.
            table.add_row(*(Text(printable(cell)) for cell in cells))
        terminal = output.stdout.isatty()
        # In a pipe the grid must not be folded to 80 columns: nobody looks at it there, tools cut it.
        Console(file=output.stdout, width=None if terminal else 4096, highlight=False).print(table)
    output.result({"image": image, "scale": grid.scale.index, "codes": grid.codes, "words": grid.words})
