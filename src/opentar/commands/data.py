"""`opentar data sheet`: look at the nano world with one's own eyes."""

from typing import Annotated, Literal

from cyclopts import Parameter

from opentar.commands import options
from opentar.commands.options import HYPHEN
from opentar.commands.output import Output
from opentar.commands.saving import picture_places, save, stdout_place
from opentar.core.errors import ConfigError

_MOST = 1000
Split = Literal["train", "val", "test"]


def sheet(
    *,
    out: options.Out = None,
    split: Annotated[Split, Parameter(help="Split to take combinations from.")] = "train",
    styles: Annotated[Split, Parameter(help="Drawing styles; val and test are held out of training.")] = "train",
    count: Annotated[int, Parameter(name=["-n", "--count"], help="Scenes on the sheet.")] = 48,
    columns: Annotated[int, Parameter(help="Scenes per row.")] = 8,
    seed: Annotated[int, Parameter(help="Seed of the scenes.")] = 0,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> int:
    """Draw a contact sheet of nano-world scenes with their captions.

    Without --out the sheet is opentar-sheet.png, or the next free opentar-sheet-2.png, ...
    """
    output = Output(json)
    for name, value in (("count", count), ("columns", columns)):
        if not 1 <= value <= _MOST:
            raise ConfigError(f"{name} is {value}; it must be from 1 to {_MOST}")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be 0 or more")
    if out == HYPHEN:
        place = stdout_place(output)[0]
    else:
        place = picture_places(out, 1, "opentar-sheet", overwrite=overwrite)[0]
    with output.working():
        import numpy as np

        from opentar.eval.sheet import contact_sheet
        from opentar.nano.world.captions import caption
        from opentar.nano.world.render import load_book, render
        from opentar.nano.world.scenes import SceneGenerator

        rng = np.random.default_rng(seed)
        generator = SceneGenerator(split, sprites=load_book(styles))
        scenes = [generator.sample(rng) for _ in range(count)]
        # English, because Pillow's own font has no Chinese.
        captions = [caption(scene, "en", rng) for scene in scenes]
        image = contact_sheet([render(scene, generator.book) for scene in scenes], captions, columns)
    image.info.update(split=split, styles=styles, seed=str(seed))
    told = save(output, image, place)
    if "path" in told:
        output.line(told["path"])
    del told["settings"]
    output.result(told | {"captions": captions})
    return output.code
