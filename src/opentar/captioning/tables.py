"""Files of captions: JSON lines, CSV and Parquet, written row by row into a neighbour that is renamed at the end."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

from opentar.captioning.journal import encoded
from opentar.core.errors import ModelError, OutputError, UnsavedError, nearest, shown

COLUMNS: dict[str, type] = {
    "path": str,
    "caption": str,
    "model": str,
    "model_hash": str,
    "question": str,
    "scale": int,
    "fit": str,
    "width": int,
    "height": int,
}
"""Name and type of each column."""
_ROWS = 1024
"""Rows of a group in Parquet, which is what is held of them."""
_NO_PYARROW = "Parquet needs pyarrow, which is not installed; pip install 'pyarrow>=18.0', or write .jsonl or .csv"

Row = Mapping[str, Any]


def ending_of(path: Path) -> str:
    """The ending of a file of captions. Raises OutputError for one that is none, ModelError without pyarrow."""
    ending = path.suffix.lower()
    if ending not in _WRITERS:
        known = ", ".join(_WRITERS)
        raise OutputError(f"{shown(path)} does not end in {known}.{nearest(ending, _WRITERS)}")
    if ending == ".parquet":
        _pyarrow()
    return ending


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Make `path` of rows, all at once: whoever reads it sees the old file or the whole new one.

    Raises UnsavedError where the disk refuses.
    """
    _replace(path, lambda file: _WRITERS[ending_of(path)](file, rows))


def write_lines(path: Path, rows: Iterable[Row]) -> None:
    """As `write_table`, rows of any columns as JSON lines."""
    _replace(path, lambda file: _write_jsonl(file, rows))


def read_table(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that `write_table` made, one by one.

    Raises OutputError for a file of something else.
    """
    try:
        for row in _READERS[ending_of(path)](path):
            if not isinstance(row, dict) or any(type(row.get(name)) is not kind for name, kind in COLUMNS.items()):
                raise ValueError("columns")
            yield row
    except OSError as error:
        raise OutputError(f"{shown(path)} cannot be read ({error.strerror}); use another name") from error
    except (ValueError, TypeError, KeyError, RecursionError, csv.Error) as error:
        # pyarrow's own errors are ValueErrors.
        raise OutputError(
            f"{shown(path)} holds no captions of this program, or is damaged; use another name, or --overwrite"
        ) from error


def _replace(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise UnsavedError(
            f"cannot write {shown(path)}: {error.strerror}; the captions are kept: free the disk and give the same "
            "command again, without --overwrite"
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _write_jsonl(file: IO[bytes], rows: Iterable[Row]) -> None:
    for row in rows:
        file.write(encoded(row))


def _read_jsonl(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        yield from map(json.loads, file)


class _Utf8:
    """What csv writes to: text into a binary file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(text.encode())


def _write_csv(file: IO[bytes], rows: Iterable[Row]) -> None:
    writer = csv.writer(_Utf8(file), lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([row[name] for name in COLUMNS] for row in rows)


def _read_csv(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames is None or list(reader.fieldnames) != list(COLUMNS):
            raise ValueError("columns")
        for row in reader:
            yield {name: kind(row[name]) for name, kind in COLUMNS.items()}


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ModelError(_NO_PYARROW) from error
    return pyarrow


def _write_parquet(file: IO[bytes], rows: Iterable[Row]) -> None:
    pyarrow = _pyarrow()
    kinds = {str: pyarrow.string(), int: pyarrow.int64()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    left = iter(rows)
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(left, _ROWS)):
            writer.write_table(pyarrow.Table.from_pylist([dict(row) for row in group], schema))


def _read_parquet(path: Path) -> Iterator[Any]:
    pyarrow = _pyarrow()
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS):
            yield from batch.to_pylist()


_WRITERS: dict[str, Callable[[IO[bytes], Iterable[Row]], None]] = {
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
_READERS: dict[str, Callable[[Path], Iterator[Any]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
