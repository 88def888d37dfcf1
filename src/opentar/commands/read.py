"""`opentar ask`, `describe` and `tokens`: commands that read pictures."""

import io
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from opentar.commands import options
from opentar.commands.files import check_one_stdin, check_quotes, open_source, picture_source, text_argument
from opentar.commands.model import load
from opentar.commands.options import HYPHEN
from opentar.commands.output import Output
from opentar.core import environment
from opentar.core.errors import ImageError, PromptError, printable_line, shown
from opentar.language.known_words import has_words

Picture = Annotated[str, Parameter(help="Picture to read: PNG, JPEG, WebP, ...; - reads stdin.")]
Also = Annotated[
    list[str] | None, Parameter(name="--also", help="Another picture to show together with the first; repeatable.")
]
Scales = Annotated[
    list[int] | None,
    Parameter(name="--scale", help="Grid of codes, from 0 (finest) to 2 (coarsest); repeat for one per picture."),
]


def ask(
    image: Picture,
    /,
    *more: Annotated[
        str, Parameter(help="More pictures, each asked about on its own, then the question in quotes; - reads stdin.")
    ],
    questions: Annotated[
        str | None, Parameter(help="Text file with one question per line, in place of the question; - reads stdin.")
    ] = None,
    also: Also = None,
    scale: Scales = None,
    frame: options.Frame = None,
    fit: options.Fit = None,
    model: options.Model = "nano",
    device: options.Device = None,
    dtype: options.Dtype = None,
    engine: options.LanguageEngine = None,
    json: options.Json = False,
) -> None:
    """Answer one or more questions about one or more pictures."""
    output = Output(json)
    if questions is None and not more:
        raise PromptError("no question was given; write it after the picture, or give --questions FILE")
    names = [image, *more] if questions is not None else [image, *more[:-1]]
    given = more[-1] if questions is None else questions
    _check_quotes(more if questions is None else ())
    check_one_stdin(*names, *(also or []), given)
    asked = [text_argument(given, "question")] if questions is None else _question_lines(given)
    single = len(names) == len(asked) == 1
    results: list[dict[str, Any]] = []
    with output.working():
        # All pictures are opened first and none of the asked ones is kept: as in describe.
        sources = [picture_source(name) for name in names]
        shown_too = [open_source(picture_source(name), frame) for name in also or []]
        for source in sources:
            open_source(source, frame)
        tar = load(model, device, dtype, engine)
    one_scale = scale[0] if scale and len(scale) == 1 else scale
    for name, source in zip(names, sources, strict=True):
        with output.working():
            started = time.perf_counter()
            pictures = [open_source(source, frame or 0), *shown_too]
            answers = tar.ask([pictures] * len(asked), asked, scale=[one_scale] * len(asked), fit=fit)
            seconds = round(time.perf_counter() - started, 3)
        for question, answer in zip(asked, answers, strict=True):
            before = [f"{name}:"] * (len(names) > 1) + [question] * (len(asked) > 1)
            # Alone, an answer may have several lines; in a list each has one.
            (output.line if before else output.lines)(" ".join([*before, answer]))
            results.append({"image": name, "question": question, "answer": answer, "seconds": seconds})
    shared = {"also": also} if also else {}
    output.result(results[0] | shared if single else {"answers": results, **shared})


def _check_quotes(more: Sequence[str]) -> None:
    """Refuse a question without quotes, whose first words would be taken for pictures. Raises PromptError."""
    for name in more[:-1]:
        if name != HYPHEN and not Path(name).suffix and not os.path.exists(name):
            raise PromptError(f"there is no picture {shown(name)}; quote the question: {' '.join(more)!r}")


def _question_lines(name: str) -> list[str]:
    """The questions of a text file, or of stdin for `-`: one a line, empty lines left out. Raises PromptError."""
    if name != HYPHEN:
        try:
            text = environment.expanded(name).read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise PromptError(f"cannot read the questions in {shown(name)} ({reason}); give a text file") from error
    else:
        text = text_argument(name, "list of questions")
    lines = {number: line.strip() for number, line in enumerate(text.splitlines(), 1)}
    asked = {number: line for number, line in lines.items() if line}
    for number, line in asked.items():
        if not has_words(line):
            raise PromptError(f"line {number} of the questions is {shown(line)}, which holds no word; write a question")
    if not asked:
        raise PromptError(f"there is no question in {shown(name)}; write one per line")
    return list(asked.values())


def describe(
    *images: Picture,
    scale: options.Scale = None,
    frame: options.Frame = None,
    fit: options.Fit = None,
    model: options.Model = "nano",
    device: options.Device = None,
    dtype: options.Dtype = None,
    engine: options.LanguageEngine = None,
    json: options.Json = False,
) -> None:
    """Describe one or several pictures."""
    output = Output(json)
    if not images:
        raise ImageError("no picture was given; name one or more picture files")
    check_one_stdin(*images)
    check_quotes(images)
    results = []
    with output.working():
        # All pictures are opened first: a bad last one is told before any time is spent. None is kept, because one
        # may take 120 MB decoded.
        sources = [picture_source(image) for image in images]
        for source in sources:
            open_source(source, frame)
        tar = load(model, device, dtype, engine)
    for name, source in zip(images, sources, strict=True):
        with output.working():
            started = time.perf_counter()
            text = tar.describe(open_source(source, frame or 0), scale=scale, fit=fit)
            seconds = time.perf_counter() - started
        if len(images) == 1:
            output.lines(text)
        else:
            output.line(f"{name}: {text}")
        results.append({"image": name, "description": text, "seconds": round(seconds, 3)})
    output.result({"descriptions": results})


def tokens(
    image: Picture,
    /,
    *,
    scale: options.Scale = None,
    frame: options.Frame = None,
    fit: options.Fit = None,
    words: Annotated[int, Parameter(help="Words per code, nearest first, 0 to 20.")] = 1,
    model: options.Model = "nano",
    device: options.Device = None,
    dtype: options.Dtype = None,
    json: options.Json = False,
) -> None:
    """Print the grid of codes of a picture with the words nearest to each."""
    output = Output(json)
    with output.working():
        picture = open_source(picture_source(image), frame)
        grid = load(model, device, dtype).encode(picture, scale, words=words, fit=fit)
    output.line(f"scale {grid.scale.index}: {grid.scale.side} x {grid.scale.side} = {grid.scale.length} codes")
    if not output.json:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(show_header=False, box=box.SIMPLE, padding=(0, 1, 0, 0))
        for codes, names in zip(grid.codes, grid.words, strict=True):
            # Cleaned here, because the width of a column is measured here.
            cells = (
                "\n".join([str(code), *map(printable_line, texts)]) for code, texts in zip(codes, names, strict=True)
            )
            # Text, because a word such as "[b]" must not be read as markup.
            table.add_row(*(Text(cell) for cell in cells))
        terminal = output.stdout.isatty()
        # In a pipe the grid must not be folded to 80 columns: nobody looks at it there, tools cut it.
        page = io.StringIO()
        Console(file=page, width=None if terminal else 4096, highlight=False).print(table)
        output.lines(page.getvalue().removesuffix("\n"))
    output.result({"image": image, "scale": grid.scale.index, "codes": grid.codes, "words": grid.words})
