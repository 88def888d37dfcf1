"""`opentar list` and `opentar rm`: the models that are at hand, and the fetched ones that are not wanted any more."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from opentar.checkpoints import find, model_folder
from opentar.commands import options
from opentar.commands.output import Output
from opentar.core import environment
from opentar.core import folder as checkpoint
from opentar.core.disk import human_bytes
from opentar.core.errors import (
    ConfigError,
    ModelError,
    OpenTarError,
    OutputError,
    WeightsError,
    nearest,
    printable_line,
    shown,
)

_REMOVING = ".removing"
_CARD = "README.md"


def list_models(*, json: options.Json = False) -> None:
    """List the models that a name finds: bundled ones, and those in the cache folder."""
    output = Output(json)
    rows = [_facts(name, find.BUNDLED / name, "bundled") for name in find.bundled_models()]
    rows += [_facts(_name(folder), folder, "fetched") for folder in _cached()]
    for row in rows:
        output.line(f"{row['name']}  ({row['origin']}, {human_bytes(row['bytes'])}, {row['hash'] or row['damage']})")
        output.line(f"         {row['folder']}")
    if not rows:
        output.line("no models: none is bundled, and none has been fetched")
    output.result({"models": rows, "cache": str(_place())})


def remove(
    name: Annotated[str, Parameter(help="Name of a fetched model, as `opentar list` prints it.")],
    /,
    *,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], help="Do not ask for confirmation.")] = False,
    json: options.Json = False,
) -> None:
    """Remove a fetched model from the cache folder. Bundled models and folders elsewhere are never touched."""
    output = Output(json)
    for leftover in _place().glob(f".*{_REMOVING}"):
        # Of a removal that was broken off; nothing finds these by a name.
        shutil.rmtree(leftover, ignore_errors=True)
    folder = _removable(name)
    told = _facts(_name(folder), folder, "fetched")
    if not yes and not _confirmed(output, f"remove {told['name']}, {human_bytes(told['bytes'])} in {folder}?"):
        output.line("nothing was removed")
        output.result({"removed": False, **told})
        return
    _remove(folder)
    output.line(f"removed {told['name']}: {human_bytes(told['bytes'])} are free again")
    output.note("files as they were fetched stay in the cache of huggingface_hub, which has commands of its own for it")
    output.result({"removed": True, **told})


def _place() -> Path:
    return environment.cache_dir() / "models"


def _cached() -> list[Path]:
    """Folders of models in the cache, one that is between two versions among them, sorted."""
    try:
        names = {path.name for path in _place().iterdir() if path.is_dir() and not path.name.startswith(".")}
        hidden = [path.name for path in _place().iterdir() if path.is_dir() and path.name.startswith(".")]
    except OSError:
        return []
    names |= {name[1:].rpartition(".")[0] for name in hidden if name.endswith(".previous")}
    return sorted(_place() / name for name in names)


def _name(folder: Path) -> str:
    return folder.name.replace("--", "/", 1)


def _facts(name: str, folder: Path, origin: str) -> dict[str, Any]:
    """What a list says about a model; a damaged one has no hash."""
    facts: dict[str, Any] = {"name": name, "origin": origin, "folder": str(folder), "hash": None, "damage": None}
    try:
        facts["hash"] = checkpoint.folder_hash(folder)
        model_folder.read_config(checkpoint.standing(folder))
    except OpenTarError as error:
        facts |= {"hash": None, "damage": f"not whole: {error}"}
    return facts | {"bytes": sum(path.lstat().st_size for path in _files(folder))}


def _files(folder: Path) -> Iterator[Path]:
    """Every file of a model in the cache, links themselves and not what they lead to."""
    try:
        found = checkpoint.standing(folder)
    except WeightsError:
        found = folder
    if found.is_symlink():
        yield found
        return
    for place, _, names in os.walk(found, followlinks=False):
        yield from (Path(place) / name for name in names)


def _removable(name: str) -> Path:
    """The folder in the cache that `name` means. Raises ModelError for everything else."""
    if name in find.bundled_models():
        raise ModelError(f"{shown(name)} came with OpenTar and is not removed; only fetched models are")
    found = {key: folder for folder in _cached() for key in (folder.name, _name(folder), str(folder.absolute()))}
    folder = found.get(name) or found.get(str(environment.expanded(name).absolute()))
    if folder is None:
        have = ", ".join(dict.fromkeys(map(_name, found.values()))) or "none"
        raise ModelError(
            f"{shown(name)} is no model in {shown(_place())}; there are: {have}. Only these are removed, other folders "
            f"you delete by hand.{nearest(name, found)}"
        )
    _check_own(folder)
    return folder


def _check_own(folder: Path) -> None:
    """Refuse a folder that is no model of ours, and one that holds what would be lost with it."""
    if folder.is_symlink():
        return
    try:
        found = checkpoint.standing(folder)
    except WeightsError:
        found = folder
    if not any((found / name).is_file() for name in (checkpoint.CONFIG, checkpoint.MANIFEST)):
        raise ModelError(f"{shown(folder)} holds no model; check what it is and delete it by hand")
    try:
        own = {*checkpoint.saved_files(found), _CARD}
    except WeightsError:
        return
    foreign = sorted(path.relative_to(found).as_posix() for path in _files(folder))
    foreign = [name for name in foreign if name not in own]
    if foreign:
        raise OutputError(
            f"{shown(folder)} holds {len(foreign)} files that are not the model's, such as {shown(foreign[0])}; "
            "move them away first"
        )


def _confirmed(output: Output, question: str) -> bool:
    if output.json or sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError(f"{question} There is no terminal to ask at; add --yes")
    print(f"{printable_line(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _remove(folder: Path) -> None:
    """Take the names away first, so that a removal that is broken off leaves nothing that looks like a model.

    Renaming and removing take a link itself, never what it leads to.
    """
    gone = folder.with_name(f".{folder.name}{_REMOVING}")
    try:
        shutil.rmtree(gone, ignore_errors=True)
        gone.mkdir()
        for number in range(2):
            # The model, and then an older version that an update left behind under another name.
            try:
                checkpoint.standing(folder).rename(gone / str(number))
            except WeightsError:
                break
        shutil.rmtree(gone)
    except OSError as error:
        raise OutputError(f"cannot remove {shown(folder)}: {error.strerror or error}; check its permissions") from error
