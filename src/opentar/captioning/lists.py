"""Lists of pictures in files: one name a line, a column of a table, a key of JSON objects. Read line by line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from opentar.core.errors import ConfigError, ImageError, nearest, shown

LISTS = (".csv", ".tsv", ".txt", ".jsonl")
"""Endings of files that are lists."""
USUAL = ("path", "image", "file", "file_name", "filename", "picture")
"""Columns that are taken where none is named, the first one that is there."""
_MOST_NAMED = 20


def names_in(file: Path, column: str | None = None) -> Iterator[tuple[int, str]]:
    """The line number and the name of each picture of a list; an empty name where a row has none.

    Args:
        file: a list with one of the endings of LISTS, in UTF-8.
        column: of a table, or key of JSON objects; None is the first of USUAL. Without meaning for .txt.

    Raises:
        ImageError: the file cannot be read, or is no such list.
        ConfigError: there is no such column.
    """
    kind = file.suffix.lower()
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if kind == ".txt":
                yield from ((number, name) for number, line in enumerate(lines, 1) if (name := line.strip("\r\n")))
            elif kind == ".jsonl":
                yield from _of_objects(lines, file, column)
            else:
                yield from _of_table(lines, file, column, "\t" if kind == ".tsv" else ",")
    except OSError as error:
        raise ImageError(
            f"{shown(file)} cannot be read ({error.strerror}); check the name and its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise ImageError(f"{shown(file)} is not UTF-8 text; save the list as UTF-8") from error
    except csv.Error as error:
        raise ImageError(f"{shown(file)} is no table ({error}); save the list as CSV again") from error


def _of_table(lines: IO[str], file: Path, column: str | None, delimiter: str) -> Iterator[tuple[int, str]]:
    first = lines.readline()
    if delimiter == "," and "," not in first and ";" in first:
        # Spreadsheets of many countries write it so.
        delimiter = ";"
    columns = next(csv.reader([first], delimiter=delimiter), [])
    place = columns.index(_column(columns, file, column))
    rows = csv.reader(lines, delimiter=delimiter)
    for row in rows:
        if row:
            yield rows.line_num + 1, row[place] if place < len(row) else ""


def _of_objects(lines: IO[str], file: Path, column: str | None) -> Iterator[tuple[int, str]]:
    key: str | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ImageError(f"line {number} of {shown(file)} is no JSON; mend the line or leave it out") from error
        if not isinstance(row, dict):
            raise ImageError(f'line {number} of {shown(file)} is no JSON object; write one like {{"path": "a.jpg"}}')
        # The first object tells what there is; later ones may lack the name of their picture.
        key = _column(list(row), file, column) if key is None else key
        name = row.get(key)
        yield number, name if isinstance(name, str) else ""


def _column(columns: list[str], file: Path, column: str | None) -> str:
    if column is None:
        found = next((name for name in USUAL if name in columns), None)
        if found is not None:
            return found
    elif column in columns:
        return column
    there = ", ".join(map(shown, columns[:_MOST_NAMED])) or "none"
    hint = nearest(column, columns) if column is not None else ""
    wanted = f"no column {shown(column)}" if column is not None else "no column that is known to name pictures"
    raise ConfigError(f"{shown(file)} has {wanted}; its columns are {there}: choose one with --column.{hint}")
