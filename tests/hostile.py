"""Model folders with one wrong value and right hashes, each loaded and run: what became of it, never a hang.

A mutation changes one leaf of one JSON file (configs, tokenizer, index, manifest) to a value that nobody means. The
manifests are written again, so that only the readers of the value stand between it and the user.
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from opentar.core.errors import OpenTarError

VALUES: tuple[Any, ...] = (
    0, -1, 1_000_000, 10**18, 10**400, 1.5, 1e300, float("inf"), float("nan"),
    None, "x", True, [], [1] * 5000, {"a": [1]},
)  # fmt: skip
LONG = 20
"""Of a longer list only the first entries are changed one by one."""
MANIFEST = "manifest.json"
DEADLINE = 20
"""Seconds until a case counts as a hang, on the slowest machine."""
ROOM = 2_000_000_000
"""Bytes of address space that a case may take beside what is there."""


class Case(NamedTuple):
    """One mutation."""

    file: str
    """path inside the model"""
    place: tuple[str | int, ...]
    """keys down to the leaf"""
    value: Any
    """what it becomes"""

    def __str__(self) -> str:
        value = repr(self.value)
        return f"{self.file} {'.'.join(map(str, self.place))} = {value if len(value) < 40 else value[:40] + '...'}"


def leaves(content: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Places of all values, whole lists and mappings among them."""
    if place:
        yield place
    if isinstance(content, dict):
        for key, item in list(content.items())[:200]:
            yield from leaves(item, (*place, key))
    elif isinstance(content, list):
        for index, item in enumerate(content[: 2 if len(content) > LONG else None]):
            yield from leaves(item, (*place, index))


def cases(model: Path, values: tuple[Any, ...] = VALUES) -> list[Case]:
    """Every mutation of the configs of a model, of its manifests and of the beginning of its tokenizer."""
    found = []
    for path in sorted(model.rglob("*.json")):
        content = json.loads(path.read_bytes())
        name = path.relative_to(model).as_posix()
        places = list(leaves(content))
        if path.name in (MANIFEST, "tokenizer.json"):
            # All their entries are read by the same lines.
            places = [place for place in places if len(place) < 3][:40]
        found += [Case(name, place, value) for place in places for value in values]
    return found


@contextmanager
def mutated(model: Path, case: Case) -> Iterator[None]:
    """`model` with the mutation inside, its manifests written again from the inside out; all is put back."""
    path = model / case.file
    content = json.loads(path.read_bytes())
    inner = content
    for key in case.place[:-1]:
        inner = inner[key]
    inner[case.place[-1]] = case.value
    before: dict[Path, bytes] = {path: path.read_bytes()}
    try:
        # Ten to the 400 is a whole number in JSON, too.
        path.write_text(json.dumps(content), encoding="utf-8")
        changed = [path]
        for folder in path.parents:
            manifest = folder / MANIFEST
            if manifest.is_file() and manifest != path:
                before[manifest] = manifest.read_bytes()
                listed = json.loads(before[manifest])
                for one in changed:
                    raw = one.read_bytes()
                    entry = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
                    if one.relative_to(folder).as_posix() in listed["files"]:
                        listed["files"][one.relative_to(folder).as_posix()] = entry
                manifest.write_text(json.dumps(listed), encoding="utf-8")
                changed.append(manifest)
            if folder == model:
                break
        yield
    finally:
        for one, raw in before.items():
            one.write_bytes(raw)


class Hang(BaseException):
    """The deadline has passed."""


@contextmanager
def bounded() -> Iterator[None]:
    """Raise Hang after DEADLINE seconds, and MemoryError where ROOM is taken (where the system can)."""
    if sys.platform == "win32":
        yield
        return
    import resource

    def ring(*_: object) -> None:
        raise Hang

    old_limit, old_handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, ring)
    try:
        pages = Path("/proc/self/statm")
        if pages.exists():
            taken = int(pages.read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, old_limit[1]))
        signal.setitimer(signal.ITIMER_REAL, DEADLINE)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old_handler)
        resource.setrlimit(resource.RLIMIT_AS, old_limit)


def outcome(model: Path, case: Case, run: Callable[[Path, Case], bytes], right: bytes | None = None) -> str:
    """ "same", "other" (it ran and gave something else), "refused", or what went wrong."""
    with mutated(model, case):
        try:
            with bounded():
                result = run(model, case)
        except OpenTarError as error:
            text = str(error)
            return "refused" if "\n" not in text and len(text) < 1000 else f"an error line of {len(text)} characters"
        except Hang:
            return "hang"
        except Exception as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return "same" if result == right else "other"
