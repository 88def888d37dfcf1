"""Which folder a model's name means: a bundled one, a path, or a published one in the cache. Nothing is fetched."""

import os
from contextlib import suppress
from pathlib import Path

from opentar.core import environment
from opentar.core import folder as checkpoint
from opentar.core.errors import ModelError, WeightsError, nearest, shown
from opentar.core.folder import CONFIG
from opentar.core.foreign import line, of_folder, refuse_foreign
from opentar.core.foreign_files import MODEL, of_file

BUNDLED = Path(__file__).resolve().parents[1] / "models"
PUBLISHED = ("csuhan/Tar-1.5B", "csuhan/Tar-7B-v0.1", "ByteDance-Seed/Tar-7B")
"""Published models that can be fetched by name (`opentar pull`); hub/catalogue.py says what they are made of."""


def bundled_models() -> tuple[str, ...]:
    """Names of the models that came with the package."""
    if not BUNDLED.is_dir():
        return ()
    return tuple(sorted(folder.name for folder in BUNDLED.iterdir() if (folder / CONFIG).is_file()))


def cached_model(name: str) -> Path:
    """Where a published model stands once it has been fetched and imported: in OpenTar's cache folder."""
    return environment.cache_dir() / "models" / name.replace("/", "--")


def find_model(name_or_path: str | Path) -> Path:
    """The folder of a model given by a bundled name (`nano`), a path, or the name of a published model in the cache.

    A bundled name wins over a folder of the same name; write `./nano` for the folder. A folder wins over a published
    name. Nothing is fetched here.

    Raises:
        ModelError: none of them, or a published model that has not been fetched.
        WeightsError: a folder of another program, told as what it is.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        kind = type(name_or_path).__name__
        raise ModelError(f"a model is given by its name or its folder, not by {kind}; give a string or a path")
    names = bundled_models()
    if isinstance(name_or_path, str) and name_or_path in names:
        return BUNDLED / name_or_path
    text = str(name_or_path)
    if not text:
        raise ModelError(f"the name of the model is empty; give a folder or one of: {', '.join(names)}")
    folder = environment.expanded(name_or_path)
    with suppress(WeightsError, OSError, ValueError):
        folder = checkpoint.standing(folder)
    try:
        is_folder, is_file, has_config = folder.is_dir(), folder.is_file(), (folder / CONFIG).is_file()
    except (OSError, ValueError):
        # A name that no file system can hold, such as one of 5,000 letters.
        is_folder = is_file = has_config = False
    if is_folder and has_config:
        if not (folder / checkpoint.MANIFEST).is_file():
            refuse_foreign(folder, MODEL)
        return folder
    if text in PUBLISHED and not is_folder:
        try:
            return checkpoint.standing(cached_model(text))
        except WeightsError as error:
            raise ModelError(f"{text} has not been fetched yet; run: opentar pull {text}") from error
    listed = ", ".join(names) or "(no model is bundled with this installation)"
    if (is_folder or is_file) and (found := of_folder(folder) if is_folder else of_file(folder)):
        raise ModelError(f"{line(folder, found)}; a model is {listed}, or a folder that OpenTar wrote")
    if is_folder:
        raise ModelError(f"folder {shown(text)} has no {CONFIG}; give a model folder or one of: {listed}")
    if is_file:
        raise ModelError(f"{shown(text)} is a file; give the folder of a model or one of: {listed}")
    hint = nearest(text, (*names, *PUBLISHED))
    raise ModelError(f"model {shown(text)} is unknown; give a folder or one of: {listed}.{hint}")
