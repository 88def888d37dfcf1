"""Files of repositories on the hub: how large they are, fetched with huggingface_hub, or taken from its cache.

huggingface_hub resumes a fetch that was interrupted. Where the hub cannot be reached, what its cache has is taken.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from opentar.checkpoints.hub.catalogue import Fetch, absent
from opentar.core.disk import human_bytes
from opentar.core.errors import WeightsError

if TYPE_CHECKING:
    from opentar.checkpoints.convert.planned import Origin

Note = Callable[[str], None]
_INDEX = ".index.json"
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
    largest: int
    """bytes of the largest part that is made of them: a file by itself, or all weights of a folder"""
    cached: str = ""
    """why the files are those of huggingface_hub's cache; empty where the hub answered"""


class Fetched(NamedTuple):
    """The files of one repository on this machine."""

    folder: Path
    origin: Origin
    """where they came from, for the model's config"""


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
            if unreachable(error):
                silence = error
            every = {str(path): path.stat().st_size for path in kept}
            why = unreachable(error) or told(error)
            found.append(Size(fetch, len(kept), 0, sum(every.values()), _largest(every), why))
    return tuple(found)


def fetch_files(size: Size, note: Note | None, bars: bool | None) -> Fetched:
    """The files of one repository, from the hub or from huggingface_hub's cache."""
    import huggingface_hub

    from opentar.checkpoints.convert.planned import Origin

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
    return Fetched(folder, Origin(repository=fetch.repository, commit=commit, licence=licence))


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
    every = {file.filename: file.file_size or 0 for file in files}
    return Size(fetch, len(files), new, sum(every.values()), _largest(every))


def _largest(sizes: Mapping[str, int]) -> int:
    """Bytes of the largest part: the safetensors of a folder together, a checkpoint by itself."""
    weights = sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
    return max(weights, *(size for name, size in sizes.items() if name.endswith((".pth", ".pt"))), 0)


def _in_cache(fetch: Fetch) -> list[Path] | None:
    """The files that huggingface_hub's cache has of a repository, or None where it lacks some of them."""
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            fetch.repository, revision=fetch.revision, allow_patterns=list(fetch.patterns), local_files_only=True
        )
        files = _files(Path(folder), fetch)
        # An index beside a single file is not needed, and may be out of date.
        lists = [
            path for name, path in files.items() if name.endswith(_INDEX) and name.removesuffix(_INDEX) not in files
        ]
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


def _bar_class(shown_at_all: bool) -> type:
    """tqdm for huggingface_hub, visible or not, whatever the environment says."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **options | {"disable": not shown_at_all})

    return Bar


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def unreachable(error: Exception) -> str:
    """Why the hub gave no answer at all, or an empty text where it did."""
    if _offline():
        return "HF_HUB_OFFLINE is set"
    error = _behind(error)
    # httpx, which huggingface_hub has under more than one name.
    transport = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
    down = transport or isinstance(error, (ConnectionError, TimeoutError))
    return f"the hub cannot be reached: {told(error)}" if down else ""


def told(error: Exception) -> str:
    """Kind and text of what happened, on one line."""
    error = _behind(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _behind(error: Exception) -> Exception:
    """What happened, where huggingface_hub says only what it could not do because of it."""
    from huggingface_hub.errors import HfHubHTTPError

    vague = type(error).__module__.startswith("huggingface_hub.") and not isinstance(error, HfHubHTTPError)
    return error.__cause__ if vague and isinstance(error.__cause__, Exception) else error
