"""Which pictures a job is about: files, folders, patterns and lists become entries, one after the other, in order.

Nothing but names is held, and of a folder only those of one folder at a time: sorted, so that the same files give the
same order every time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from opentar.captioning.lists import LISTS, names_in
from opentar.core.errors import ImageError, shown

if TYPE_CHECKING:
    from PIL import Image

_MAGIC = frozenset("*?[")
_ANY_DEPTH = "**"
_ADDRESSES = ("http:", "https:", "ftp:", "file:", "data:")


@dataclass(frozen=True)
class Entry:
    """One picture, or the reason why there is none."""

    path: str
    """What rows call it: as it stands in a list, or below the folder that was given."""
    source: str
    """The file."""
    reason: str = ""
    """Why it cannot even be looked for."""

    def open(self) -> Image.Image:
        """The picture, its first frame. Raises ImageError as `open_picture`, or with the reason."""
        if self.reason:
            raise ImageError(self.reason)
        from opentar.core.pictures import open_picture

        return open_picture(self.source, frame=0)


@dataclass
class PassedOver:
    """What a listing left out, counted."""

    others: int = 0
    """Files that are no pictures by their ending."""
    loops: int = 0
    """Links that lead back to a folder above them."""
    folders: int = 0
    """Folders inside of one that was not to be searched in depth."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The pictures of a job; goes through the folders and lists anew each time."""

    sources: Sequence[str]
    """Folders, patterns such as photos/**/*.jpg, lists, picture files."""
    recursive: bool = False
    """Look into the folders of a folder too."""
    column: str | None = None
    """Column of tables, or key of JSON objects, that names the picture."""
    root: Path | None = None
    """Folder that names in lists begin at; None is the folder of the list."""
    passed: PassedOver = field(default_factory=PassedOver)
    """Of the latest walk."""

    def __iter__(self) -> Iterator[Entry]:
        """Raises ImageError for a source that is not there, or a list that cannot be read."""
        self.passed.others = self.passed.loops = self.passed.folders = 0
        for source in self.sources:
            yield from map(_readable, self._entries(source))

    def _entries(self, source: str) -> Iterator[Entry]:
        if not source or "\0" in source:
            raise ImageError(f"{shown(source)} is not a name; give a folder, a pattern, a list or a picture")
        path = Path(source)
        if path.is_dir():
            parts = (_ANY_DEPTH, "*") if self.recursive else ("*",)
            yield from self._walk(path, parts, ())
        elif path.suffix.lower() in LISTS and path.is_file():
            yield from self._of_list(path)
        elif os.path.lexists(path):
            yield Entry(source, source)
        elif _MAGIC & set(source):
            yield from self._walk(*_pattern(path), ())
        else:
            raise ImageError(f"{shown(source)} is not there; give a folder, a pattern, a list or a picture")

    def _of_list(self, file: Path) -> Iterator[Entry]:
        base = file.parent if self.root is None else self.root
        for number, name in names_in(file, self.column):
            if not name.strip():
                yield Entry(f"{file}:{number}", "", f"line {number} of {shown(file)} names no picture; fill it in")
            else:
                yield Entry(name, name if name.lower().startswith(_ADDRESSES) else str(base / name))

    def _walk(self, folder: Path, parts: tuple[str, ...], above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
        """Pictures below `folder` by the parts of a pattern; `above`: folders on the way down, by their inodes."""
        try:
            facts = folder.stat()
            here = (facts.st_dev, facts.st_ino)
            if here in above:
                self.passed.loops += 1
                return
            with os.scandir(folder) as found:
                inside = sorted(found, key=lambda one: one.name)
        except OSError as error:
            told = f"the folder {shown(folder)} cannot be read ({error.strerror}); check its permissions"
            yield Entry(str(folder), "", told)
            return
        first, rest = parts[0], parts[1:]
        if first != _ANY_DEPTH:
            yield from self._matching(folder, inside, first, rest, (*above, here))
            return
        if len(rest) == 1:
            yield from self._matching(folder, inside, rest[0], (), (*above, here))
        else:
            # The same folder again, one part further on: it is not above itself.
            yield from self._walk(folder, rest, above)
        for one in inside:
            if _is_folder(one) and not one.name.startswith("."):
                yield from self._walk(folder / one.name, parts, (*above, here))

    def _matching(
        self,
        folder: Path,
        inside: Sequence[os.DirEntry[str]],
        part: str,
        rest: tuple[str, ...],
        above: tuple[tuple[int, int], ...],
    ) -> Iterator[Entry]:
        for one in inside:
            hidden = one.name.startswith(".") and not part.startswith(".")
            if hidden or not fnmatchcase(one.name, part):
                continue
            if _is_folder(one):
                self.passed.folders += not rest
                if rest:
                    yield from self._walk(folder / one.name, rest, above)
            elif not rest:
                # Who writes an ending means it.
                if "." in part or Path(one.name).suffix.lower() in _endings():
                    yield Entry(str(folder / one.name), str(folder / one.name))
                else:
                    self.passed.others += 1


def _pattern(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder that a pattern begins at, and its parts below, each ** once in a row."""
    fixed = next(place for place, part in enumerate(path.parts) if _MAGIC & set(part))
    parts: list[str] = []
    for part in path.parts[fixed:]:
        if part != _ANY_DEPTH or parts[-1:] != [_ANY_DEPTH]:
            parts.append(part)
    if parts[-1] == _ANY_DEPTH:
        parts.append("*")
    return Path(*path.parts[:fixed]), tuple(parts)


def _is_folder(one: os.DirEntry[str]) -> bool:
    try:
        return one.is_dir()
    except OSError:
        # A link that leads to itself.
        return False


@cache
def _endings() -> frozenset[str]:
    """Endings of the picture files that are read."""
    from PIL import Image

    from opentar.core.picture_decoders import HEIF, READ, heif_installed

    heif_installed()
    kinds = {*READ, "MPO", HEIF}
    found = {ending for ending, kind in Image.registered_extensions().items() if kind in kinds}
    # A HEIC is no other kind of file where its decoder is missing: then the error says what to install.
    return frozenset(found | {".heic", ".heif"})


def _readable(entry: Entry) -> Entry:
    """The entry, or where its name cannot stand in a file of UTF-8 one that says so."""
    try:
        entry.path.encode()
        return entry
    except UnicodeEncodeError:
        named = entry.path.encode(errors="backslashreplace").decode()
        return Entry(named, "", f"the name {shown(named)} is not UTF-8 text; rename the file")
