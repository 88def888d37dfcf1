"""A job: pictures in, one file of captions out, and a list of the failures beside it; it can be killed and goes on.

```
OUT.partial        the journal, while the job is under way
OUT                the captions; it is there when all of them are
OUT.failed.jsonl   path and reason of each picture without a caption; not there where there is none
```
Why not append to OUT itself: Parquet cannot be appended to, and a file that has its name should be whole. The journal
is one code for three formats, and whoever wants to look on reads it.
"""

from __future__ import annotations

import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentar.captioning.journal import Journal, check_same
from opentar.captioning.listing import Entry, Listing
from opentar.captioning.tables import ending_of, read_table, write_lines, write_table
from opentar.core.errors import ImageError, OutputError, UnsavedError, shown

if TYPE_CHECKING:
    from opentar.captioning.captions import Settings
    from opentar.core.progress import Count
    from opentar.pipeline import Tar

FAILED = ".failed.jsonl"
PARTIAL = ".partial"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a job did."""

    listed: int
    """Different pictures that are listed."""
    there: int
    """How many of them had been done before, by this job or an earlier one."""
    captioned: int
    """Captions that this call said."""
    rows: int
    """Captions in the file."""
    failed: int
    """Pictures without one, in the list of failures."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a job writes."""

    out: Path
    """The file of captions."""
    overwrite: bool = False
    """Begin anew, whatever is there."""

    @property
    def partial(self) -> Path:
        """The journal."""
        return self.out.with_name(self.out.name + PARTIAL)

    @property
    def failed(self) -> Path:
        """The list of failures."""
        return self.out.with_name(self.out.name + FAILED)

    def check(self) -> None:
        """Refuse what cannot be written, before a model is loaded. Raises OutputError, or ModelError for Parquet."""
        out, folder = self.out, self.out.parent
        if "\0" in str(out) or not out.name:
            raise OutputError(f"{shown(out)} is not a file name; use one like 'captions.jsonl'")
        ending_of(out)
        try:
            if out.is_dir():
                raise OutputError(f"{shown(out)} is a folder; name a file in it, like {shown(out / 'captions.jsonl')}")
            if not folder.is_dir():
                raise OutputError(f"the folder {shown(folder)} is not there; make it first or use another")
            if self.failed.exists() and not (self.out.exists() or self.partial.exists() or self.overwrite):
                raise OutputError(f"{shown(self.failed)} is there without its captions; move it away, or --overwrite")
            # Asking for permissions is not enough: a full disk or root's view of a read-only place say yes.
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(b"x")
        except OSError as error:
            raise OutputError(
                f"cannot write into {shown(folder)}: {error.strerror}; choose a folder that you may write to"
            ) from error


def count(listing: Listing) -> int:
    """How many pictures are listed, twice the same included. Raises ImageError for none, and as the listing itself."""
    found = sum(1 for _ in listing)
    if found:
        return found
    passed, names = listing.passed, ", ".join(map(shown, listing.sources))
    told = f"there is no picture in {names}"
    if passed.others:
        told += f", only {passed.others} files of other kinds"
    if passed.folders and not listing.recursive:
        raise ImageError(f"{told}; its folders are searched with --recursive")
    raise ImageError(f"{told}; give a folder, a pattern or a list with pictures")


def caption_files(
    tar: Tar,
    listing: Listing,
    place: Place,
    settings: Settings,
    *,
    batch_size: int,
    total: int,
    progress: Count | None = None,
    failed: Callable[[str, str], None] | None = None,
) -> Summary:
    """Caption every listed picture that has none yet.

    Args:
        tar: the model.
        listing: the pictures.
        place: where captions go. What is there and was asked the same of the same model is added to; pictures that
            failed in an earlier job are tried again.
        settings: what is asked, of `captions.settings_of`.
        batch_size: captions said side by side.
        total: of `count`, for the progress.
        progress: called with (pictures done, total).
        failed: called with path and reason of each failure.

    Raises:
        OutputError: what is there comes from another model or question, or from elsewhere.
        UnsavedError: the disk refuses; what was said is kept, and the same call goes on.
    """
    place.check()
    asked, head = _described(tar, settings)
    if place.overwrite:
        _remove(place.partial)
    elif place.out.exists() and not place.partial.exists() and not _take_over(place, asked, head, listing):
        rows = sum(1 for _ in read_table(place.out))
        return Summary(listed=total, there=total, captioned=0, rows=rows, failed=0)
    journal = Journal(place.partial, head)
    try:
        before, said = journal.rows + journal.failures, journal.rows
        work = _Work(tar, listing, settings, journal)
        for entry, caption in work.results(batch_size):
            if caption.error is None:
                own = {"path": entry.path, "caption": caption.text, "model": tar.parts.config.name}
                journal.row(own | asked | {"width": caption.width, "height": caption.height})
            else:
                journal.failure(entry.path, str(caption.error))
                if failed is not None:
                    failed(entry.path, str(caption.error))
            if progress is not None:
                progress(min(work.there + journal.rows + journal.failures - before, total), total)
        _finish(place, journal)
    finally:
        journal.close()
    return Summary(
        listed=work.there + journal.rows + journal.failures - before,
        there=work.there,
        captioned=journal.rows - said,
        rows=journal.rows,
        failed=journal.failures,
    )


def _described(tar: Tar, settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """What each row says of how it was asked, and what a journal says at its head: both must stay the same."""
    asked = {
        "model_hash": tar.parts.hash,
        "question": settings.question,
        "scale": settings.scale.index,
        "fit": settings.fit,
    }
    running = tar.parts.running
    head = {"format": 1, **asked, "max_new_tokens": settings.max_new_tokens}
    return asked, head | {part: running[part] for part in ("ta_tok", "language")}


class _Work:
    """The listed pictures that are not done, each once, and their captions."""

    def __init__(self, tar: Tar, listing: Listing, settings: Settings, journal: Journal) -> None:
        self._tar, self._listing, self._settings, self._journal = tar, listing, settings, journal
        self._waiting: deque[Entry] = deque()
        self.there = 0
        """Entries that were done before."""

    def results(self, batch_size: int) -> Iterator[tuple[Entry, Any]]:
        from opentar.captioning.captions import spoken

        for caption in spoken(self._tar, self._openers(), self._settings, batch_size):
            yield self._waiting.popleft(), caption

    def _openers(self) -> Iterator[Callable[[], Any]]:
        taken: set[str] = set()
        for entry in self._listing:
            if entry.path in taken:
                continue
            taken.add(entry.path)
            if entry.path in self._journal.before:
                self.there += 1
                continue
            self._waiting.append(entry)
            yield entry.open


def _take_over(place: Place, asked: Mapping[str, Any], head: Mapping[str, Any], listing: Listing) -> bool:
    """Make a journal of a finished file, where pictures are listed that it lacks; its failures count as such."""
    done: set[str] = set()
    for row in read_table(place.out):
        check_same(place.out, asked, row)
        done.add(row["path"])
    if all(entry.path in done for entry in listing):
        return False
    # Whole or not at all: captions of pictures that are listed no more stand nowhere else.
    write_lines(place.partial, _with_head(place.out, head))
    return True


def _with_head(out: Path, head: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield head
    yield from read_table(out)


def _finish(place: Place, journal: Journal) -> None:
    """Make the files of the journal; killed at any point, the same call makes them again."""
    if journal.failures:
        write_lines(place.failed, journal.lines(failed=True))
    else:
        _remove(place.failed)
    write_table(place.out, journal.lines(failed=False))
    if sys.platform == "win32":
        # There no file is removed that is open; elsewhere the lock is held to the end.
        journal.close()
    _remove(place.partial)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UnsavedError(f"cannot remove {shown(path)}: {error.strerror}; remove it yourself") from error
