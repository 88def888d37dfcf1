"""Published models by name: how their files are fetched, and where the imported models are kept.

The files are fetched with huggingface_hub, which keeps its own cache and resumes what was interrupted. They are
imported once into OpenTar's cache folder, with the commits they came from, and later calls need no network. Only
weights, JSON and text are ever fetched, never code. torch is loaded when something is imported, not before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from opentar.checkpoints import find, model_folder
from opentar.checkpoints.hub.catalogue import (
    AR,
    SANA,
    TA_TOK_FILE,
    TOKENIZER,
    VQGAN,
    VQGAN_FILE,
    Fetch,
    by_hand,
    check_model,
    fetches,
    parts_of,
    unnamed,
)
from opentar.checkpoints.hub.fetching import Fetched, Note, Size, fetch_files, sizes, told, unreachable
from opentar.core import environment
from opentar.core.disk import free_bytes, human_bytes
from opentar.core.errors import ModelError, OpenTarError, OutputError, WeightsError, shown
from opentar.core.folder import MANIFEST, standing

if TYPE_CHECKING:
    from opentar.checkpoints.convert.importing import ImportReport
    from opentar.checkpoints.convert.planned import Origin
    from opentar.core.progress import Progress


class _Need(NamedTuple):
    """What a model that was asked for lacks."""

    model: str
    folder: Path
    parts: tuple[str, ...]
    """de-tokenizers to add, names of AR and SANA"""
    new: bool
    """whether nothing of the model stands in `folder` yet"""
    plan: tuple[Fetch, ...]


def cached(model: str, revisions: Mapping[str, str] | None = None) -> Path:
    """Where the imported `model` stands once it has been fetched; other revisions stand beside it."""
    asked = sorted((revisions or {}).items())
    marks = [f"{repository.rpartition('/')[2]}={revision}" for repository, revision in asked]
    return find.cached_model("@".join((model, *marks)))


class Pulled(NamedTuple):
    """A published model that stands in the cache."""

    folder: Path
    report: ImportReport | None
    """what was imported; None where everything was there"""


def pull(
    model: str,
    *,
    parts: Sequence[str] = (),
    revisions: Mapping[str, str] | None = None,
    note: Note | None = None,
    bars: bool | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Fetch a published model and import it, or what is still missing of it, into the cache.

    Args:
        model: a published model (`find.PUBLISHED`).
        parts: further de-tokenizers, names of AR and SANA.
        revisions: repository -> branch, tag or commit; "main" where it does not say.
        note: called with a line before a repository is fetched.
        bars: whether huggingface_hub draws its bars; None leaves that to it.
        progress: called while parts are written.

    Raises:
        ModelError, ConfigError: unknown names, a library that a part needs is not installed, or too little memory.
        WeightsError: a file cannot be fetched or is damaged; the line says how to do it by hand.
        OutputError: the disk is too small or refuses. Disk and memory are asked for before anything is fetched.
    """
    check_model(model)
    wanted = parts_of(parts)
    folder = cached(model, revisions)
    with _alone(folder):
        need = _need(model, folder, wanted, revisions or {})
        if need is None:
            return Pulled(standing(folder), None)
        with _help_by_hand(need):
            plan = sizes(need.plan)
            for why in dict.fromkeys(size.cached for size in plan if size.cached):
                if note is not None:
                    note(f"{why}; the files are taken from the cache of huggingface_hub")
            _check_room(plan)
            _check_memory(plan)
            fetched = {one.fetch.repository: fetch_files(one, note, bars) for one in plan}
        return Pulled(folder, _import(need, fetched, progress))


def preview(model: str, *, parts: Sequence[str] = (), revisions: Mapping[str, str] | None = None) -> tuple[Size, ...]:
    """What `pull` would fetch, or nothing where everything is there. Writes nothing; arguments and errors as `pull`."""
    check_model(model)
    need = _need(model, cached(model, revisions), parts_of(parts), revisions or {})
    if need is None:
        return ()
    with _help_by_hand(need):
        return sizes(need.plan)


def _import(need: _Need, fetched: Mapping[str, Fetched], progress: Progress | None) -> ImportReport:
    from opentar.checkpoints.convert.importing import add_to_model, import_tar

    def place(repository: str, file: str = "") -> Path:
        path = fetched[repository].folder / file
        origins[path] = fetched[repository].origin
        return path

    origins: dict[Path, Origin] = {}
    ar = [place(TOKENIZER, AR[part]) for part in need.parts if part in AR]
    sana = [place(SANA[part]) for part in need.parts if part in SANA]
    vqgan = place(VQGAN, VQGAN_FILE) if VQGAN in fetched else None
    if not need.new:
        return add_to_model(need.folder, ar=ar, vqgan=vqgan, sana=sana, origins=origins, progress=progress)
    return import_tar(
        need.folder,
        llm=place(need.model),
        ta_tok=place(TOKENIZER, TA_TOK_FILE),
        ar=ar,
        vqgan=vqgan,
        sana=sana,
        name=need.model.rpartition("/")[2],
        origins=origins,
        progress=progress,
    )


def _need(model: str, folder: Path, wanted: Sequence[str], revisions: Mapping[str, str]) -> _Need | None:
    """What has to be fetched, or None where all of it is there. Raises ModelError where it could not be imported."""
    new = not _is_model(folder)
    parts = tuple(wanted) if new else _missing(standing(folder), wanted)
    if not parts and not new:
        return None
    _check_installed(parts)
    if new:
        return _Need(model, folder, parts, True, fetches(model, parts, revisions))
    canvas = any(part in AR for part in parts) and not _has_canvas(standing(folder))
    plan = fetches(model, parts, _commits(folder) | dict(revisions), whole=False, canvas=canvas)
    return _Need(model, folder, parts, False, plan)


def _check_installed(parts: Sequence[str]) -> None:
    """Refuse before the first byte what the import would refuse after the last one."""
    sana = [part for part in parts if part in SANA]
    if not sana:
        return
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"diffusers is not installed, and {', '.join(sana)} cannot be imported without it; nothing was fetched; "
            "install it with: pip install 'opentar[published]', or leave the part out"
        ) from error


def _commits(folder: Path) -> dict[str, str]:
    """Repository -> commit that an imported model came from: what is added later comes from the same."""
    sources = model_folder.read_config(standing(folder)).sources.values()
    named = [file.partition("@") for source in sources for file in source if "@" in file]
    return {repository: rest.partition("/")[0] for repository, _, rest in named}


def _missing(folder: Path, wanted: Sequence[str]) -> tuple[str, ...]:
    """Those of `wanted` that the imported model in `folder` does not have."""
    config = model_folder.read_config(folder)
    parts = unnamed(wanted, (file for source in config.sources.values() for file in source))
    if not parts:
        return ()
    from opentar.checkpoints.convert.fitting import draws

    # Files may have been renamed; a model holds one de-tokenizer of a kind and size, wherever it came from.
    drawn = draws(folder, config)
    kinds = {part: ("ar" if part in AR else "diffusion", int(part.rpartition("_")[2])) for part in parts}
    return tuple(part for part in parts if kinds[part] not in drawn)


def _has_canvas(folder: Path) -> bool:
    """Whether the VQGAN stands in the model already: not where it was imported by hand without an AR de-tokenizer."""
    from opentar.checkpoints.convert.fitting import canvas_of

    return canvas_of(folder, model_folder.read_config(folder)) is not None


def _check_room(plan: Sequence[Size]) -> None:
    """Refuse before the first byte when the disks are too small for the files and for their import."""
    from huggingface_hub import constants

    new, every = sum(size.new for size in plan), sum(size.every for size in plan)
    for place, needed in _rooms(Path(constants.HF_HUB_CACHE), new, environment.cache_dir(), every):
        free = free_bytes(place)
        if free < needed:
            raise OutputError(
                f"{plan[0].fetch.repository} needs {human_bytes(needed)} in {shown(place)}, where {human_bytes(free)} "
                "are free; free the disk, or set HF_HOME (files as fetched) and OPENTAR_CACHE (imported models)"
            )


def _check_memory(plan: Sequence[Size]) -> None:
    """Refuse before the first byte when there is too little memory for the import: a file of its largest part.

    SANA folders are copied tensor by tensor. The import asks again, when it knows what each part becomes.
    """
    from opentar.core.memory import check_memory
    from opentar.core.storage import SHARD_BYTES

    converted = [size.largest for size in plan if size.fetch.repository not in SANA.values()]
    check_memory(f"importing {plan[0].fetch.repository}", min(max(converted, default=0), SHARD_BYTES))


def _rooms(hub: Path, new: int, own: Path, every: int) -> list[tuple[Path, int]]:
    """(folder that exists, bytes needed there), one entry where both caches lie on one disk."""
    places = [next(one for one in (path.absolute(), *path.absolute().parents) if one.exists()) for path in (hub, own)]
    if places[0].stat().st_dev == places[1].stat().st_dev:
        return [(places[0], new + every)]
    return [(places[0], new), (places[1], every)]


@contextlib.contextmanager
def _help_by_hand(need: _Need) -> Iterator[None]:
    """Make one line of whatever the hub raises: why it failed, which files to get, the command that imports them."""
    try:
        yield
    except OpenTarError:
        raise
    except Exception as error:
        # The hub and its transport raise a dozen unrelated kinds, and every one means the same here.
        why = unreachable(error)
        why = f"{why}, and the files are not all in the cache of huggingface_hub" if why else told(error)
        hand = by_hand(need.model, need.parts, need.plan, need.folder, new=need.new)
        raise WeightsError(f"cannot fetch {need.model} ({why}). {hand}") from error


def _is_model(folder: Path) -> bool:
    try:
        return (standing(folder) / MANIFEST).is_file()
    except WeightsError:
        return False


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time fetches into `folder`; another one waits, and finds it done."""
    from huggingface_hub.utils import WeakFileLock

    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(WeakFileLock(folder.with_name(f".{folder.name}.lock")))
        except OSError as error:
            reason = error.strerror or "it failed"
            raise OutputError(f"cannot write {shown(folder.parent)}: {reason}; set OPENTAR_CACHE") from error
        yield
