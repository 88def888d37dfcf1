"""`opentar demo`: the whole way in one command, a sentence becomes a picture and the picture becomes words."""

import time

from opentar.commands import options
from opentar.commands.draw import tell
from opentar.commands.model import load
from opentar.commands.output import Output
from opentar.commands.saving import picture_places, save

PROMPT = "three red apples on a light blue background"
QUESTIONS = ("How many apples are there?", "Is there a dog in the picture?")


def demo(
    *,
    out: options.Out = None,
    model: options.Model = "nano",
    seed: options.Seed = 0,
    detok: options.Detok = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> int:
    """Draw "three red apples on a light blue background", then describe that picture and answer questions about it.

    The picture is opentar-demo.png in the current folder, or the next free opentar-demo-2.png, ...
    """
    output = Output(json)
    place = picture_places(out, 1, "opentar-demo", overwrite=overwrite)[0]
    output.line(f'Drawing "{PROMPT}" ...')
    with output.working():
        started = time.perf_counter()
        tar = load(model, device, dtype)
        loaded = time.perf_counter()
        with output.progress() as callback:
            image = tar.generate(PROMPT, seed=seed, detok=detok, callback_on_step_end=callback)[0]
        drawn = time.perf_counter()
    picture = save(output, image, place)
    tell(output, image, picture)
    with output.working():
        reading = time.perf_counter()
        description = tar.describe(image)
        described = time.perf_counter()
    output.line(f"It sees: {description}")
    answers = []
    slowest = 0.0
    for question in QUESTIONS:
        with output.working():
            asked = time.perf_counter()
            answer = tar.ask(image, question)
            seconds = time.perf_counter() - asked
        slowest = max(slowest, seconds)
        output.line(f"{question} {answer}")
        answers.append({"question": question, "answer": answer, "seconds": round(seconds, 3)})
    times = {"load": loaded - started, "draw": drawn - loaded, "describe": described - reading}
    output.line(
        f"Seconds: {times['load']:.1f} to load, {times['draw']:.1f} to draw, {times['describe']:.1f} to describe, "
        f"{slowest:.1f} to answer."
    )
    output.result(
        {
            "prompt": PROMPT,
            "picture": picture,
            "description": description,
            "answers": answers,
            "seconds": {name: round(value, 3) for name, value in times.items()},
        }
    )
    return output.code
