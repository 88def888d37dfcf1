"""Where pictures go: names are chosen and checked before the work, and what is drawn is kept whatever happens."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentar.commands.options import HYPHEN
from opentar.commands.output import Output
from opentar.core import environment
from opentar.core.errors import OutputError, shown

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one picture is to go."""

    path: Path
    """The file."""
    overwrite: bool = False
    """Replace a file that has this name."""
    asked: bool = True
    """Whether --out named it; False for a free name of the command's own."""
    row: bool = False
    """Whether path-2, path-3, ... are as good, so that nothing has to be said when one of them is taken."""


STDOUT = Place(path=Path(HYPHEN))
"""The place of a picture that `-o -` sends to stdout."""
_REFUSED = "opentar.png"
"""Where that picture goes when stdout refuses it, or the next free name."""


def picture_places(out: str | None, count: int, stem: str, *, overwrite: bool, several: bool = False) -> list[Place]:
    """Where `count` pictures go: `out` for one, out-0.png, out-1.png, ... for several.

    Without `out` the names start with `stem`, in the current folder, numbered past what is there already. Several may
    also be given a folder that exists: then these names are in it.

    Args:
        several: number the names even where `count` is 1.

    Raises:
        OutputError: a name exists (without `overwrite`), is a folder, has no known ending, or cannot be written.
    """
    from opentar.core.picture_files import free_name

    if out == HYPHEN:
        raise OutputError("this command cannot write a picture to stdout; name a file")
    if out == "":
        raise OutputError("the name of the picture is empty; name a file like 'picture.png'")
    several = several or count > 1
    given = None if out is None else environment.expanded(out)
    if given is not None and not (several and _is_folder(given)):
        places = [Place(path=path, overwrite=overwrite) for path in _numbered(given, count, several)]
        return check_writable(places)
    first = (given or Path()) / f"{stem}.png"
    if not several:
        check_writable([Place(path=free_name(first))])
        return [Place(path=first, asked=False, row=True)]
    attempt, names = 1, _numbered(first, count, several)
    while any(os.path.lexists(name) for name in names):
        attempt += 1
        names = _numbered(first.with_name(f"{stem}-{attempt}.png"), count, several)
    return check_writable([Place(path=name, asked=False) for name in names])


def check_writable(places: Sequence[Place]) -> list[Place]:
    """Refuse what cannot become a picture file; returns `places`. Raises OutputError as `picture_places` does."""
    from opentar.core.picture_files import check_picture_path

    for place in places:
        check_picture_path(place.path, place.overwrite)
    for parent in {place.path.parent for place in places}:
        try:
            # Asking for permissions is not enough: a full disk or root's view of a read-only place say yes.
            with tempfile.TemporaryFile(dir=parent) as probe:
                probe.write(b"x")
        except OSError as error:
            raise OutputError(
                f"cannot write into {shown(parent)}: {error.strerror}; choose a folder that you may write to"
            ) from error
    return list(places)


def stdout_place(output: Output, count: int = 1) -> list[Place]:
    """The place of the picture of `-o -`.

    Raises:
        OutputError: stdout is a terminal, JSON goes there already, or there are several pictures.
    """
    if output.json:
        raise OutputError("-o - and --json both write to stdout; give only one of them")
    if count != 1:
        raise OutputError(f"-o - writes a single picture to stdout, not {count}; name a file")
    if output.stdout.isatty():
        raise OutputError("-o - writes picture data to stdout, which is a terminal; redirect it: -o - > picture.png")
    return [STDOUT]


def save(output: Output, image: "Image", place: Place) -> dict[str, Any]:
    """Write a finished picture with its settings; returns what JSON says about it.

    Where it has to go elsewhere, stderr says so, and `output.code` becomes 1: except for a free name of the command's
    own, where another free name in the same folder is as good. Raises UnsavedError when it can be written nowhere.
    """
    from opentar.core.picture_files import keep_picture
    from opentar.core.picture_formats import encode_picture

    settings = {str(key): str(value) for key, value in image.info.items()}
    told = {"width": image.width, "height": image.height, "settings": settings}
    if place is STDOUT:
        refused = output.write(encode_picture(image, "PNG", settings))
        if refused:
            kept = keep_picture(image, _REFUSED, settings)
            output.note(f"warning: stdout cannot be written ({refused}); the picture is saved as {shown(kept.path)}")
        return told
    kept = keep_picture(image, place.path, settings, place.overwrite)
    moved = kept.path != place.path
    away = kept.path.parent != place.path.parent
    if moved and (away or not place.row):
        asked, path = shown(place.path), shown(kept.path)
        output.note(f"warning: {asked} cannot be written ({kept.reason}); the picture is saved as {path}")
        told |= {"asked": str(place.path), "reason": kept.reason}
        if away or place.asked:
            output.code = 1
    return {"path": str(kept.path)} | told


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _numbered(base: Path, count: int, several: bool) -> list[Path]:
    if not several:
        return [base]
    return [base.with_name(f"{base.stem}-{index}{base.suffix}") for index in range(count)]
