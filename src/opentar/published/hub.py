"""Published models by name: how their files are fetched, and where the imported models are kept.

The files are fetched with huggingface_hub, which keeps its own cache and goes on where it was broken off. They are
imported once into OpenTar's cache folder, with the commits they came from, and later calls need no network. Only
weights, JSON and text are ever fetched, never code. torch is loaded when something is imported, not before.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from opentar import model_folder
from opentar.core import environment
from opentar.core.disk import free_bytes, human_bytes
from opentar.core.errors import OpenTarError, OutputError, WeightsError, shown
from opentar.core.folder import MANIFEST, standing
from opentar.published.catalogue import (
    AR,
    SANA,
    TA_TOK_FILE,
    TOKENIZER,
    VQGAN,
    VQGAN_FILE,
    Fetch,
    check_model,
    fetches,
    parts_of,
)

if TYPE_CHECKING:
    from opentar.published.importing import ImportReport, Progress
    from opentar.published.planned import Origin

_NEEDED = {"config.json", "model_index.json", TA_TOK_FILE, VQGAN_FILE, *AR.values()}
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
        ModelError, ConfigError: unknown names.
        WeightsError: a file cannot be fetched or is damaged; the line says how to go on by hand.
        OutputError: the disk is too small or refuses.
    """
    check_model(model)
    wanted = parts_of(parts)
    folder = cached(model, revisions)
    with _alone(folder):
        missing = _missing(folder, wanted)
        new = not _is_model(folder)
        if not missing and not new:
            return Pulled(standing(folder), None)
        at = dict(revisions or {}) if new else _commits(folder) | dict(revisions or {})
        try:
            plan = sizes(fetches(model, missing, at, whole=new))
            _check_room(plan)
            fetched = {one.fetch.repository: _fetch(one, note, bars) for one in plan}
        except OpenTarError:
            raise
        except Exception as error:
            # The hub and its transport raise a dozen unrelated kinds, and every one means the same here.
            raise WeightsError(_by_hand(model, missing, folder, new, error)) from error
        return Pulled(folder, _import(model, folder, missing, fetched, new, progress))


def sizes(plan: Sequence[Fetch]) -> tuple[Size, ...]:
    """How large the files of a plan are. Offline nothing is known. Raises what huggingface_hub raises."""
    import huggingface_hub

    if _offline():
        return tuple(Size(fetch, 0, 0, 0) for fetch in plan)
    found = []
    for fetch in plan:
        files = huggingface_hub.snapshot_download(
            fetch.repository, revision=fetch.revision, allow_patterns=list(fetch.patterns), dry_run=True
        )
        new = sum(file.file_size or 0 for file in files if file.will_download)
        found.append(Size(fetch, len(files), new, sum(file.file_size or 0 for file in files)))
    return tuple(found)


def _import(
    model: str,
    folder: Path,
    parts: Sequence[str],
    fetched: Mapping[str, _Fetched],
    new: bool,
    progress: Progress | None,
) -> ImportReport:
    from opentar.published.importing import add_to_model, import_tar

    def place(repository: str, file: str = "") -> Path:
        path = fetched[repository].folder / file
        origins[path] = fetched[repository].origin
        return path

    origins: dict[Path, Origin] = {}
    ar = [place(TOKENIZER, AR[part]) for part in parts if part in AR]
    sana = [place(SANA[part]) for part in parts if part in SANA]
    if not new:
        # The VQGAN stands in the folder already.
        return add_to_model(folder, ar=ar, sana=sana, origins=origins, progress=progress)
    return import_tar(
        folder,
        llm=place(model),
        ta_tok=place(TOKENIZER, TA_TOK_FILE),
        ar=ar,
        vqgan=place(VQGAN, VQGAN_FILE) if ar else None,
        sana=sana,
        name=model.rpartition("/")[2],
        origins=origins,
        progress=progress,
    )


def _commits(folder: Path) -> dict[str, str]:
    """Repository -> commit that an imported model came from: what is added later comes from the same."""
    sources = model_folder.read_config(standing(folder)).sources.values()
    named = [file.partition("@") for source in sources for file in source if "@" in file]
    return {repository: rest.partition("/")[0] for repository, _, rest in named}


def _missing(folder: Path, wanted: Sequence[str]) -> tuple[str, ...]:
    """Those of `wanted` that the imported model does not have."""
    if not _is_model(folder):
        return tuple(wanted)
    files = [file for source in model_folder.read_config(standing(folder)).sources.values() for file in source]
    there = {part for part, name in AR.items() if any(file.endswith(f"/{name}") for file in files)}
    there |= {part for part, name in SANA.items() if any(file.startswith(f"{name}@") for file in files)}
    return tuple(part for part in wanted if part not in there)


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
            local_files_only=_offline(),
            **options,
        )
    )
    absent = [name for name in fetch.patterns if name in _NEEDED and not (folder / name).is_file()]
    if absent:
        raise WeightsError(f"{fetch.repository} at {fetch.revision} has no {', '.join(absent)}; name another revision")
    names = {path: path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))}
    for path, name in names.items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in fetch.patterns):
            _check_sha256(path)
    commit = folder.name if _COMMIT.fullmatch(folder.name) else fetch.revision
    return _Fetched(folder, Origin(repository=fetch.repository, commit=commit, licence=_licence(fetch, commit)))


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
    if _offline():
        return ""
    import huggingface_hub

    try:
        card = huggingface_hub.model_info(fetch.repository, revision=commit).card_data
        stated = getattr(card, "license", None)
    except Exception:
        # As in pull: any of a dozen kinds. The files are there, so this is no failure.
        return ""
    return " ".join(str(stated).split())[:80] if stated else ""


def _by_hand(model: str, parts: Sequence[str], folder: Path, new: bool, error: Exception) -> str:
    """One line: why it failed, which files to get from where, and the command that imports them."""
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    if _offline():
        reason = "HF_HUB_OFFLINE is set and the files are not in the cache of huggingface_hub"
    name = model.rpartition("/")[2]
    words = [f"opentar import tar --add {folder}"]
    if new:
        words = [f"opentar import tar --llm {name} --ta-tok {TA_TOK_FILE}"]
    words += [f"--ar {AR[part]}" for part in parts if part in AR]
    if new and any(part in AR for part in parts):
        words.append(f"--vqgan {VQGAN_FILE}")
    words += [f"--sana {SANA[part].rpartition('/')[2]}" for part in parts if part in SANA]
    words += [f"-o models/{name}"] if new else []
    files = "; ".join(_named(one) for one in fetches(model, parts, whole=new))
    return f"cannot fetch {model} ({reason}). By hand: get {files}; then run: {' '.join(words)}"


def _named(fetch: Fetch) -> str:
    """What to get of one repository, for people."""
    if any("*" in pattern for pattern in fetch.patterns):
        return f"all of {fetch.repository} as folder {fetch.repository.rpartition('/')[2]}"
    return f"{', '.join(fetch.patterns)} of {fetch.repository}"


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
