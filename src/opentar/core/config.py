"""Strict reading of plain mappings (JSON, YAML, `--set`) into frozen dataclasses, and back.

Nothing is guessed: an unknown key, a missing key or a value of the wrong type raises `ConfigError` that names the
place (`config.vision.layers`). The only conversion is int -> float and list -> tuple, because JSON knows neither.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from opentar.core.errors import ConfigError, nearest, shown

ConfigT = TypeVar("ConfigT")


def from_dict(cls: type[ConfigT], mapping: Mapping[str, Any], where: str = "config") -> ConfigT:
    """Build the dataclass `cls` from `mapping`, nested dataclasses included.

    Args:
        cls: a dataclass type.
        mapping: plain values as JSON gives them.
        where: the name of this place in error texts.

    Raises:
        ConfigError: unknown or missing key, wrong type, or a `ValueError` from the class's own `__post_init__`.
    """
    assert dataclasses.is_dataclass(cls), cls
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where} is {_kind(mapping)}; it must be a mapping of settings for {cls.__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in mapping:
        if key not in fields:
            hint = nearest(str(key), fields) or f" Known keys: {', '.join(sorted(fields))}."
            raise ConfigError(f"{where} has the unknown key {shown(key)}.{hint}")
    hints = typing.get_type_hints(cls)
    values = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in mapping.items()}
    missing = [name for name, field in fields.items() if name not in values and _required(field)]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}; add a value for each")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def plain_number(value: Any) -> Any:
    """A number of another library (numpy, torch) as Python's own; bools, and what is no number, as they are."""
    if isinstance(value, (bool, int, float)) or "bool" in str(getattr(value, "dtype", "")):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return float(value) if isinstance(value, numbers.Real) else value


def to_dict(obj: Any) -> dict[str, Any]:
    """The plain mapping of a config dataclass; `from_dict(type(obj), to_dict(obj)) == obj` and JSON can hold it."""
    assert dataclasses.is_dataclass(obj), obj
    assert not isinstance(obj, type), obj
    return {field.name: _plain(getattr(obj, field.name)) for field in dataclasses.fields(obj) if field.init}


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _convert(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `kind`, or ConfigError naming `where`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is Literal:
        return _literal(arguments, value, where)
    if origin in (Union, types.UnionType):
        return _union(arguments, value, where)
    if origin in (tuple, list):
        return _series(origin, arguments, value, where)
    if origin in (dict, Mapping) or kind is dict:
        return _mapping(arguments, value, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else from_dict(kind, value, where)
    return _scalar(kind, value, where)


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if (isinstance(value, int) and abs(value) >= 2**63) or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(f"{where} is {shown(value)}; numbers must be finite, with at most 18 digits if whole")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    # bool is an int for Python, but `layers: true` is a mistake and never meant as 1.
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    raise ConfigError(f"{where} is {shown(value)} ({_kind(value)}); it must be {_name(kind)}")


def _literal(allowed: tuple[Any, ...], value: Any, where: str) -> Any:
    for choice in allowed:
        if value == choice and type(value) is type(choice):
            return value
    choices = ", ".join(str(choice) for choice in allowed)
    hint = nearest(str(value), [str(choice) for choice in allowed])
    raise ConfigError(f"{where} is {shown(value)}; it must be one of {choices}.{hint}")


def _union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    real = [kind for kind in kinds if kind is not type(None)]
    if len(real) == 1:
        return _convert(real[0], value, where)
    # Exact types come first: in `int | float` a 3 must stay an int.
    for kind in sorted(real, key=lambda kind: type(value) is not kind):
        try:
            return _convert(kind, value, where)
        except ConfigError:
            continue
    allowed = " or ".join(_name(kind) for kind in real)
    raise ConfigError(f"{where} is {shown(value)} ({_kind(value)}); it must be {allowed}")


def _series(origin: type, kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise ConfigError(f"{where} is {shown(value)} ({_kind(value)}); it must be a list")
    if origin is list or (len(kinds) == 2 and kinds[1] is Ellipsis):
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ConfigError(f"{where} has {len(value)} values; it must have {len(kinds)}")
    items = [
        _convert(kind, item, f"{where}[{place}]") for place, (kind, item) in enumerate(zip(kinds, value, strict=True))
    ]
    return items if origin is list else tuple(items)


def _mapping(kinds: tuple[Any, ...], value: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {shown(value)} ({_kind(value)}); it must be a mapping")
    key_kind, item_kind = kinds or (Any, Any)
    return {
        _convert(key_kind, key, f"{where} key"): _convert(item_kind, item, f"{where}.{key}")
        for key, item in value.items()
    }


def _name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}
    return names.get(kind) or str(getattr(kind, "__name__", kind))


def _kind(value: Any) -> str:
    return "empty" if value is None else _name(type(value))
