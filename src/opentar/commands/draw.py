"""`opentar generate`, `opentar refine` and `opentar reconstruct`: commands whose result is a picture."""

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from opentar.commands import options
from opentar.commands.files import open_source, picture_source, prompts_argument, text_argument
from opentar.commands.model import load
from opentar.commands.options import HYPHEN
from opentar.commands.output import Output
from opentar.commands.saving import Place, picture_places, save, stdout_place
from opentar.core.errors import ConfigError, PromptError

if TYPE_CHECKING:
    from PIL.Image import Image

_BATCH = 16
"""Pictures drawn side by side, and saved together when they are done."""
_MOST_PICTURES = 100_000

Guidance = Annotated[float | None, Parameter(help="How strictly the codes follow the prompt; 1 is no guidance.")]
DetokGuidance = Annotated[float | None, Parameter(help="How strictly the de-tokenizer follows the codes.")]
Steps = Annotated[int | None, Parameter(help="Steps of the diffusion de-tokenizer.")]
CodePasses = Annotated[
    Literal["one", "jacobi", "zipar"] | None,
    Parameter(help="How many codes a pass of the language model draws. Default: one; jacobi draws the same codes."),
]
Prompts = Annotated[
    str | None, Parameter(help="Text file with one prompt per line, in place of PROMPT; - reads stdin.")
]
CoarseFirst = Annotated[
    bool, Parameter(help="Draw with the fewest codes first, show that, and make it the draft of the picture.")
]
Temperature = Annotated[float | None, Parameter(help="0 takes the likeliest codes; the higher, the more varied.")]


def generate(
    prompt: Annotated[
        str | None, Parameter(help="What to draw, in English or Chinese, in quotes; - reads stdin.")
    ] = None,
    /,
    *,
    prompts: Prompts = None,
    out: options.Out = None,
    model: options.Model = "nano",
    detok: options.Detok = None,
    scale: options.Scale = None,
    seed: options.Seed = 0,
    n: Annotated[int, Parameter(name=["-n", "--count"], help="Pictures per prompt: out-0.png, out-1.png, ...")] = 1,
    guidance: Guidance = None,
    temperature: Temperature = None,
    detok_guidance: DetokGuidance = None,
    steps: Steps = None,
    code_passes: CodePasses = None,
    passes: options.Passes = None,
    coarse_first: CoarseFirst = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    engine: options.LanguageEngine = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> int:
    """Draw a picture from a prompt. Pictures are saved as they are drawn.

    Without --out the picture is opentar.png, or the next free opentar-2.png, opentar-3.png, ...
    """
    output = Output(json)
    texts = _texts(prompt, prompts, n)
    places = _places(output, out, len(texts) * n, "opentar", overwrite=overwrite, several=prompts is not None)
    with output.working():
        started = time.perf_counter()
        tar = load(model, device, dtype, engine)
    with output.progress() as callback:
        with output.working():
            pictures = tar.generate_iter(
                texts,
                n=n,
                detok=detok,
                scale=scale,
                seed=seed,
                guidance=guidance,
                temperature=temperature,
                detok_guidance=detok_guidance,
                steps=steps,
                code_passes=code_passes,
                passes=passes,
                batch_size=_BATCH,
                coarse_first=coarse_first,
                callback_on_step_end=callback,
                callback_on_preview=_shown(output) if coarse_first else None,
            )
        written = _save_all(output, pictures, places)
    output.result({"pictures": written, "seconds": round(time.perf_counter() - started, 3)})
    return output.code


def _shown(output: Output) -> "Callable[[Sequence[Image]], None]":
    def show(pictures: "Sequence[Image]") -> None:
        for picture in pictures:
            output.picture(picture)

    return show


def _places(
    output: Output, out: str | None, count: int, stem: str, *, overwrite: bool, several: bool = False
) -> list[Place]:
    """Where the pictures go; `stem` is their name where --out says none."""
    if out == HYPHEN:
        return stdout_place(output, count)
    return picture_places(out, count, stem, overwrite=overwrite, several=several)


def _texts(prompt: str | None, prompts: str | None, n: int) -> list[str]:
    """The prompts of a call, from the argument or the file. Raises PromptError or ConfigError."""
    from opentar.checkpoints.settings import MAX_PICTURES, check_range

    # Before names of files are made: millions of them take minutes.
    check_range("n", n, 1, MAX_PICTURES, whole=True)
    if (prompt is None) == (prompts is None):
        given = "neither is given" if prompt is None else "both are given"
        raise PromptError(
            f'generate takes a PROMPT or --prompts FILE, and {given}; write: opentar generate "a red apple"'
        )
    texts = [text_argument(prompt, "prompt")] if prompt is not None else prompts_argument(str(prompts))
    count = len(texts) * n
    if count > _MOST_PICTURES:
        raise ConfigError(
            f"{len(texts)} prompts with n {n} make {count} pictures; draw at most {_MOST_PICTURES} at once"
        )
    return texts


def _save_all(output: Output, pictures: "Iterator[Image]", places: Sequence[Place]) -> list[dict[str, Any]]:
    """Save each batch when it is drawn; returns what JSON says about the pictures, nothing without JSON."""
    written: list[dict[str, Any]] = []
    saved = 0
    try:
        while saved < len(places):
            with output.working():
                batch = list(itertools.islice(pictures, _BATCH))
            assert batch, "one picture for each place"
            told = []
            with _interrupts_wait():
                for image in batch:
                    told.append(save(output, image, places[saved]))
                    saved += 1
            for image, one in zip(batch, told, strict=True):
                tell(output, image, one)
            written += told if output.json else []
    except BaseException:
        if len(places) > 1:
            output.note(f"{saved} of {len(places)} pictures are saved")
        raise
    return written


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C takes effect at the end: a batch takes long to draw and a second to save."""
    # Another thread may not, and a process that ignores the signal goes on ignoring it.
    if threading.current_thread() is not threading.main_thread() or not callable(signal.getsignal(signal.SIGINT)):
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            raise KeyboardInterrupt


def tell(output: Output, image: "Image", told: Mapping[str, Any]) -> None:
    """Show a saved picture and print its path, unless it went to stdout itself."""
    if "path" in told:
        output.picture(image)
        output.line(told["path"])


def refine(
    image: Annotated[str, Parameter(help="Picture to refine; - reads stdin.")],
    /,
    *,
    prompt: Annotated[
        str | None, Parameter(help='What it shows. Default: what the picture file says; "" keeps all codes.')
    ] = None,
    out: options.Out = None,
    model: options.Model = "nano",
    detok: options.Detok = None,
    scale: Annotated[
        int | None, Parameter(help="Grid of codes, 0 is the finest. Default: one finer than that of the picture.")
    ] = None,
    fit: options.Fit = None,
    seed: Annotated[int | None, Parameter(help="Seed of the finer picture. Default: that of the picture.")] = None,
    guidance: Guidance = None,
    temperature: Temperature = None,
    detok_guidance: DetokGuidance = None,
    steps: Steps = None,
    code_passes: CodePasses = None,
    passes: options.Passes = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    engine: options.LanguageEngine = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> int:
    """Make a finer version of a picture: the same scene in more codes.

    Without --out the picture is refined.png, or the next free refined-2.png, ...
    """
    output = Output(json)
    (place,) = _places(output, out, 1, "refined", overwrite=overwrite)
    with output.working():
        started = time.perf_counter()
        source = picture_source(image)
        # Read before the model is loaded: what is no picture is told at once.
        opened = open_source(source)
        tar = load(model, device, dtype, engine)
        with output.progress() as callback:
            result = tar.refine(
                source if isinstance(source, str) else opened,
                prompt=prompt,
                seed=seed,
                fit=fit,
                detok=detok,
                scale=scale,
                guidance=guidance,
                temperature=temperature,
                detok_guidance=detok_guidance,
                steps=steps,
                code_passes=code_passes,
                passes=passes,
                callback_on_step_end=callback,
            )
        seconds = time.perf_counter() - started
    written = save(output, result, place)
    tell(output, result, written)
    output.result({"source": image, "picture": written, "seconds": round(seconds, 3)})
    return output.code


def reconstruct(
    image: Annotated[str, Parameter(help="Picture to read; - reads stdin.")],
    /,
    *,
    out: options.Out = None,
    model: options.Model = "nano",
    detok: options.Detok = None,
    scale: options.Scale = None,
    frame: options.Frame = None,
    fit: options.Fit = None,
    seed: options.Seed = 0,
    detok_guidance: DetokGuidance = None,
    steps: Steps = None,
    passes: options.Passes = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> int:
    """Encode a picture and decode it again: what the codes keep and what they lose.

    Without --out the picture is reconstruction.png, or the next free reconstruction-2.png, ...
    """
    output = Output(json)
    (place,) = _places(output, out, 1, "reconstruction", overwrite=overwrite)
    with output.working():
        started = time.perf_counter()
        picture = open_source(picture_source(image), frame)
        tar = load(model, device, dtype)
        with output.progress() as callback:
            result = tar.reconstruct(
                picture,
                detok=detok,
                scale=scale,
                fit=fit,
                seed=seed,
                detok_guidance=detok_guidance,
                steps=steps,
                passes=passes,
                callback_on_step_end=callback,
            )
        seconds = time.perf_counter() - started
    written = save(output, result, place)
    tell(output, result, written)
    output.result({"source": image, "picture": written, "seconds": round(seconds, 3)})
    return output.code
