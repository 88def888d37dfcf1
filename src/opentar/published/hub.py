"""Published models by name: how their files are fetched, and where the imported models are kept.

The files are fetched with huggingface_hub, which keeps its own cache and goes on where it was broken off. They are
imported once into OpenTar's cache folder, with the commits they came from, and later calls need no network. Only
weights, JSON and text are ever fetched, never code. torch is loaded when something is imported, not before.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from opentar import model_folder
from opentar.core import environment
from opentar.core.disk import free_bytes, human_bytes
from opentar.core.errors import ModelError, OpenTarError, OutputError, WeightsError, shown
from opentar.core.folder import MANIFEST, standing
from opentar.published.catalogue import (
    AR,
    SANA,
    TA_TOK_FILE,
    TOKENIZER,
    VQGAN,
    VQGAN_FILE,
    Fetch,
    absent,
    by_hand,
    check_model,
    fetches,
    parts_of,
    unnamed,
)

if TYPE_CHECKING:
    from opentar.published.importing import ImportReport, Progress
    from opentar.published.planned import Origin

Note = Callable[[str], None]
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Size(NamedTuple):
    """How large the files of one repository are."""

    fetch: Fetch
    files: int
    new: int
    """bytes that are not in huggingface_hub's cache yet"""
    every: int
    """bytes of all files"""
    cached: str = ""
    """why the files are those of huggingface_hub's cache; empty where the hub answered"""


class _Need(NamedTuple):
    """What a model that was asked for lacks."""

    model: str
    folder: Path
    parts: tuple[str, ...]
    """de-tokenizers to add, names of AR and SANA"""
    new: bool
    """whether nothing of the model stands in `folder` yet"""
    plan: tuple[Fetch, ...]


class _Fetched(NamedTuple):
    folder: Path
    origin: Origin


def cached(model: str, revisions: Mapping[str, str] | None = None) -> Path:
    """Where the imported `model` stands once it has been fetched; other revisions stand beside it."""
    asked = sorted((revisions or {}).items())
    marks = [f"{repository.rpartition('/')[2]}={revision}" for repository, revision in asked]
    return model_folder.cached_model("@".join((model, *marks)))


def resolve(name_or_path: str | Path) -> Path:
    """The folder of a model as `model_folder.find_model` knows it; a published model is fetched when it is not there.

    Raises:
        ModelError: the name is unknown.
        WeightsError, OutputError: as `pull`.
    """
    published = isinstance(name_or_path, str) and name_or_path in model_folder.PUBLISHED
    if published and not Path(name_or_path).is_dir() and not _is_model(cached(str(name_or_path))):
        return pull(str(name_or_path)).folder
    return model_folder.find_model(name_or_path)


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
        model: a published model (`model_folder.PUBLISHED`).
        parts: further de-tokenizers, names of AR and SANA.
        revisions: repository -> branch, tag or commit; "main" where it does not say.
        note: called with a line before a repository is fetched.
        bars: whether huggingface_hub draws its bars; None leaves that to it.
        progress: called while parts are written.

    Raises:
        ModelError, ConfigError: unknown names, or a library that a part needs is not installed.
        WeightsError: a file cannot be fetched or is damaged; the line says how to go on by hand.
        OutputError: the disk is too small or refuses.
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
            fetched = {one.fetch.repository: _fetch(one, note, bars) for one in plan}
        return Pulled(folder, _import(need, fetched, progress))


def preview(model: str, *, parts: Sequence[str] = (), revisions: Mapping[str, str] | None = None) -> tuple[Size, ...]:
    """What `pull` would fetch, or nothing where everything is there. Writes nothing; arguments and errors as `pull`."""
    check_model(model)
    need = _need(model, cached(model, revisions), parts_of(parts), revisions or {})
    if need is None:
        return ()
    with _help_by_hand(need):
        return sizes(need.plan)


def sizes(plan: Sequence[Fetch]) -> tuple[Size, ...]:
    """How large the files of a plan are; where the hub gives nothing, those of huggingface_hub's cache.

    Raises what huggingface_hub raises where that cache does not have them either.
    """
    from huggingface_hub.errors import RevisionNotFoundError

    found: list[Size] = []
    silence: Exception | None = None
    for fetch in plan:
        try:
            if silence is not None:
                # Having waited once for a hub that does not answer is enough.
                raise silence
            found.append(_at_hub(fetch))
        except RevisionNotFoundError:
            # The hub has the repository and says no; an old copy would not be what was asked for.
            raise
        except Exception as error:
            kept = _in_cache(fetch)
            if kept is None:
                raise
            if _unreachable(error):
                silence = error
            every = sum(path.stat().st_size for path in kept)
            found.append(Size(fetch, len(kept), 0, every, _unreachable(error) or _told(error)))
    return tuple(found)


def _at_hub(fetch: Fetch) -> Size:
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    if _offline():
        raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    if _COMMIT.fullmatch(fetch.revision):
        # huggingface_hub takes a commit for known and lists its files, half a minute long where nobody answers.
        huggingface_hub.model_info(fetch.repository, revision=fetch.revision)
    files = huggingface_hub.snapshot_download(
        fetch.repository, revision=fetch.revision, allow_patterns=list(fetch.patterns), dry_run=True
    )
    new = sum(file.file_size or 0 for file in files if file.will_download)
    return Size(fetch, len(files), new, sum(file.file_size or 0 for file in files))


def _in_cache(fetch: Fetch) -> list[Path] | None:
    """The files that huggingface_hub's cache has of a repository, or None where it lacks some of them."""
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            fetch.repository, revision=fetch.revision, allow_patterns=list(fetch.patterns), local_files_only=True
        )
        files = _files(Path(folder), fetch)
        lists = [path for name, path in files.items() if name.endswith(".safetensors.index.json")]
        shards = [path.with_name(one) for path in lists for one in json.loads(path.read_bytes())["weight_map"].values()]
    except (OSError, ValueError, LookupError):
        # huggingface_hub has nothing, or knows that it has not all of it; or the list of a model's files is damaged.
        return None
    whole = not absent(fetch, files) and all(path.is_file() for path in shards)
    return list(files.values()) if whole else None


def _files(folder: Path, fetch: Fetch) -> dict[str, Path]:
    """Name in the repository -> path of the files of `fetch` in a folder of huggingface_hub's cache."""
    names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    patterns = fetch.patterns
    return {name: path for name, path in names.items() if any(fnmatch.fnmatchcase(name, one) for one in patterns)}


def _import(need: _Need, fetched: Mapping[str, _Fetched], progress: Progress | None) -> ImportReport:
    from opentar.published.importing import add_to_model, import_tar

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
    from opentar.published.standing import draws

    # Files may have been renamed; a model holds one de-tokenizer of a kind and size, wherever it came from.
    drawn = draws(folder, config)
    kinds = {part: ("ar" if part in AR else "diffusion", int(part.rpartition("_")[2])) for part in parts}
    return tuple(part for part in parts if kinds[part] not in drawn)


def _has_canvas(folder: Path) -> bool:
    """Whether the VQGAN stands in the model already: not where it was imported by hand without an AR de-tokenizer."""
    from opentar.published.standing import canvas_of

    return canvas_of(folder, model_folder.read_config(folder)) is not None


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _fetch(size: Size, note: Note | None, bars: bool | None) -> _Fetched:
    """The files of one repository, from the hub or from huggingface_hub's cache."""
    import huggingface_hub

    from opentar.published.planned import Origin

    fetch = size.fetch
    if note is not None and size.new:
        note(f"fetching {fetch.repository}: {size.files} files, {human_bytes(size.new)}")
    options: dict[str, Any] = {} if bars is None else {"tqdm_class": _bar_class(bars)}
    folder = Path(
        huggingface_hub.snapshot_download(
            fetch.repository,
            revision=fetch.revision,
            allow_patterns=list(fetch.patterns),
            local_files_only=bool(size.cached),
            **options,
        )
    )
    files = _files(folder, fetch)
    if lacking := absent(fetch, files):
        raise WeightsError(f"{fetch.repository} at {fetch.revision} has no {', '.join(lacking)}; name another revision")
    for path in files.values():
        _check_sha256(path)
    commit = folder.name if _COMMIT.fullmatch(folder.name) else fetch.revision
    licence = "" if size.cached else _licence(fetch, commit)
    return _Fetched(folder, Origin(repository=fetch.repository, commit=commit, licence=licence))


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


def _rooms(hub: Path, new: int, own: Path, every: int) -> list[tuple[Path, int]]:
    """(folder that exists, bytes needed there), one entry where both caches lie on one disk."""
    places = [next(one for one in (path.absolute(), *path.absolute().parents) if one.exists()) for path in (hub, own)]
    if places[0].stat().st_dev == places[1].stat().st_dev:
        return [(places[0], new + every)]
    return [(places[0], new), (places[1], every)]


def _bar_class(shown_at_all: bool) -> type:
    """tqdm for huggingface_hub, visible or not, whatever the environment says."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **options | {"disable": not shown_at_all})

    return Bar


def _check_sha256(path: Path) -> None:
    """Compare a large file with the hash that huggingface_hub's cache keeps as the name of its blob."""
    if not path.is_file() or not path.is_symlink():
        return
    blob = path.resolve()
    if not _SHA256.fullmatch(blob.name):
        return
    with blob.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != blob.name:
        raise WeightsError(
            f"{path.name} was damaged on the way (wrong sha256); delete {blob} and run the command again"
        )


def _licence(fetch: Fetch, commit: str) -> str:
    """The licence that the repository's page states, or an empty text; not knowing it stops nothing."""
    import huggingface_hub

    try:
        card = huggingface_hub.model_info(fetch.repository, revision=commit).card_data
        stated = getattr(card, "license", None)
    except Exception:
        # As in pull: any of a dozen kinds. The files are there, so this is no failure.
        return ""
    return " ".join(str(stated).split())[:80] if stated else ""


@contextlib.contextmanager
def _help_by_hand(need: _Need) -> Iterator[None]:
    """Make one line of whatever the hub raises: why it failed, which files to get, the command that imports them."""
    try:
        yield
    except OpenTarError:
        raise
    except Exception as error:
        # The hub and its transport raise a dozen unrelated kinds, and every one means the same here.
        why = _unreachable(error)
        why = f"{why}, and the files are not all in the cache of huggingface_hub" if why else _told(error)
        hand = by_hand(need.model, need.parts, need.plan, need.folder, new=need.new)
        raise WeightsError(f"cannot fetch {need.model} ({why}). {hand}") from error


def _unreachable(error: Exception) -> str:
    """Why the hub gave no answer at all, or an empty text where it did."""
    if _offline():
        return "HF_HUB_OFFLINE is set"
    error = _behind(error)
    # httpx, which huggingface_hub has under more than one name.
    transport = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
    down = transport or isinstance(error, (ConnectionError, TimeoutError))
    return f"the hub cannot be reached: {_told(error)}" if down else ""


def _told(error: Exception) -> str:
    error = _behind(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _behind(error: Exception) -> Exception:
    """What happened, where huggingface_hub says only what it could not do because of it."""
    from huggingface_hub.errors import HfHubHTTPError

    vague = type(error).__module__.startswith("huggingface_hub.") and not isinstance(error, HfHubHTTPError)
    return error.__cause__ if vague and isinstance(error.__cause__, Exception) else error


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
