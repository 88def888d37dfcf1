"""`opentar generate` and `opentar reconstruct`: commands whose result is a picture."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from opentar.commands import options
from opentar.commands.files import open_source, picture_paths, picture_source, text_argument
from opentar.commands.model import load
from opentar.commands.output import Output

if TYPE_CHECKING:
    from PIL.Image import Image

Guidance = Annotated[float | None, Parameter(help="How strictly the codes follow the prompt; 1 is no guidance.")]
DetokGuidance = Annotated[float | None, Parameter(help="How strictly the de-tokenizer follows the codes.")]
Steps = Annotated[int | None, Parameter(help="Steps of the diffusion de-tokenizer.")]
Temperature = Annotated[float | None, Parameter(help="0 spells the likeliest codes, 1 is the most varied.")]


def generate(
    prompt: Annotated[str, Parameter(help="What to draw, in English or Chinese; - reads it from stdin.")],
    /,
    *,
    out: options.Out = None,
    model: options.Model = "nano",
    detok: options.Detok = None,
    scale: options.Scale = None,
    seed: options.Seed = 0,
    n: Annotated[int, Parameter(name=["-n", "--count"], help="Pictures to draw: out-0.png, out-1.png, ...")] = 1,
    guidance: Guidance = None,
    temperature: Temperature = None,
    detok_guidance: DetokGuidance = None,
    steps: Steps = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Draw a prompt: words become a picture.

    Without --out the picture is opentar.png, or the next free opentar-2.png, opentar-3.png, ...
    """
    from opentar.model_folder import MAX_PICTURES, check_range

    output = Output(json)
    # Before their names are made: millions of them take minutes.
    check_range("n", n, 1, MAX_PICTURES, whole=True)
    prompt = text_argument(prompt, "prompt")
    paths = picture_paths(out, n, "opentar", overwrite)
    with output.working():
        started = time.perf_counter()
        tar = load(model, device, dtype)
        with output.progress() as callback:
            images = tar.generate(
                prompt,
                n=n,
                detok=detok,
                scale=scale,
                seed=seed,
                guidance=guidance,
                temperature=temperature,
                detok_guidance=detok_guidance,
                steps=steps,
                callback_on_step_end=callback,
            )
        seconds = time.perf_counter() - started
    written = [save(output, image, path, overwrite) for image, path in zip(images, paths, strict=True)]
    output.result({"pictures": written, "seconds": round(seconds, 3)})


def reconstruct(
    image: Annotated[str, Parameter(help="Picture to read; - reads it from stdin.")],
    /,
    *,
    out: options.Out = None,
    model: options.Model = "nano",
    detok: options.Detok = None,
    scale: options.Scale = None,
    fit: options.Fit = None,
    seed: options.Seed = 0,
    detok_guidance: DetokGuidance = None,
    steps: Steps = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Spell a picture in codes and paint it again from them: what the codes keep and what they lose.

    Without --out the picture is reconstruction.png, or the next free reconstruction-2.png, ...
    """
    output = Output(json)
    paths = picture_paths(out, 1, "reconstruction", overwrite)
    with output.working():
        started = time.perf_counter()
        picture = open_source(picture_source(image))
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
                callback_on_step_end=callback,
            )
        seconds = time.perf_counter() - started
    written = save(output, result, paths[0], overwrite)
    output.result({"source": image, "picture": written, "seconds": round(seconds, 3)})


def save(output: Output, image: "Image", path: Path, overwrite: bool = False) -> dict[str, Any]:
    """Write a picture of the pipeline with its settings, show it, and return what JSON says about it."""
    from opentar.core.pictures import save_picture

    settings = {str(key): str(value) for key, value in image.info.items()}
    save_picture(image, path, settings, overwrite=overwrite)
    output.picture(image)
    output.line(str(path))
    return {"path": str(path), "width": image.width, "height": image.height, "settings": settings}
