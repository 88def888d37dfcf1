"""Configs: strict in, equal out, and every refusal names its place."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from opentar.core.config import from_dict, to_dict
from opentar.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    layers: int
    activation: Literal["gelu", "silu"] = "gelu"

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"layers is {self.layers}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Outer:
    width: int
    rate: float = 0.5
    name: str | None = None
    either: int | str = 1
    pools: tuple[int, ...] = (1, 2, 3)
    pair: tuple[int, float] = (1, 2.0)
    words: list[str] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    inner: Inner = field(default_factory=lambda: Inner(layers=2))
    stages: tuple[Inner, ...] = ()
    on: bool = False
    path: Path | None = None


FULL: dict[str, Any] = {
    "width": 4,
    "rate": 1,
    "name": "苹果",
    "either": "x",
    "pools": [4, 5],
    "pair": [1, 2],
    "words": ["a"],
    "shares": {"single": 1},
    "inner": {"layers": 3, "activation": "silu"},
    "stages": [{"layers": 1}, {"layers": 2}],
    "on": True,
    "path": "a/b",
}


def test_round_trip_through_json() -> None:
    config = from_dict(Outer, FULL)
    assert config.pools == (4, 5)
    assert isinstance(config.rate, float)
    assert isinstance(config.pair[1], float)
    assert config.stages[1] == Inner(layers=2)
    assert from_dict(Outer, json.loads(json.dumps(to_dict(config)))) == config


def test_defaults_are_filled_in() -> None:
    assert from_dict(Outer, {"width": 4}) == Outer(width=4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"widht": 1}, ("widht", "Did you mean 'width'?")),
        ({"zzz": 1}, ("zzz", "Known keys")),
        ({"width": "4"}, ("config.width", "a whole number", "a text")),
        ({"width": True}, ("config.width", "true or false")),
        ({"width": 4.0}, ("config.width",)),
        ({"width": None}, ("config.width", "empty")),
        ({"rate": "fast"}, ("config.rate", "a number")),
        ({"on": 1}, ("config.on", "true or false")),
        ({"name": 3}, ("config.name", "a text")),
        ({"either": 1.5}, ("config.either", "a whole number or a text")),
        ({"pools": "123"}, ("config.pools", "a list")),
        ({"pools": [1, "2"]}, ("config.pools[1]",)),
        ({"pair": [1]}, ("config.pair", "1 values", "have 2")),
        ({"shares": {"a": "b"}}, ("config.shares.a",)),
        ({"inner": {"layers": 0}}, ("config.inner", "layers is 0")),
        ({"inner": {"layers": 1, "activation": "gleu"}}, ("config.inner.activation", "gelu, silu", "Did you mean")),
        ({"inner": {}}, ("config.inner lacks layers",)),
        ({"inner": 3}, ("config.inner", "mapping")),
        ({"stages": [{"layer": 1}]}, ("config.stages[0]", "Did you mean 'layers'?")),
        ({"path": 3}, ("config.path", "a path")),
    ],
)
def test_refusals_name_the_place(change: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Outer, FULL | change)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_key_and_wrong_top() -> None:
    with pytest.raises(ConfigError, match="recipe lacks width"):
        from_dict(Outer, {}, where="recipe")
    with pytest.raises(ConfigError, match="must be a mapping"):
        from_dict(Outer, [1])  # type: ignore[arg-type]
