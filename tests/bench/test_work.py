"""Which works a model can do, what they are called, and how they are chosen."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from opentar.bench import run
from opentar.bench.engines import Way, ways_of
from opentar.bench.facts import Facts, memory_needed
from opentar.bench.run import Options, bench, check_room
from opentar.bench.targets import TARGETS
from opentar.bench.work import chosen, works_of
from opentar.core.errors import ConfigError, ModelError


def published(facts: Facts, **changes) -> Facts:
    """A model of the published grids and weights, of which only the facts exist."""
    stored = {"ta_tok": 10**9, "language": 3 * 10**9, "detok_ar": 10**9}
    given = {"name": "big", "size": "tar-1.5b", "lengths": (729, 169, 81), "painters": {"ar": "ar"}}
    given |= {"stored": stored, "wide": {part: 2 * size for part, size in stored.items()}}
    return dataclasses.replace(facts, **given | changes)


def test_the_facts_of_a_model(facts: Facts) -> None:
    assert facts.lengths == (144, 36, 16)
    assert facts.painters == {"diffusion": "flow", "ar": "ar"}
    assert (facts.name, facts.size, facts.small) == ("tiny", "", True)
    assert set(facts.stored) == {"ta_tok", "language", "detok_diffusion", "detok_ar"}
    assert all(facts.stored[part] > 0 for part in facts.stored)


def test_works_follow_from_the_grids_and_the_painters(facts: Facts) -> None:
    names = [work.name for work in works_of(facts)]
    assert len(set(names)) == len(names)
    assert {"encode 144", "read 36", "prefill", "decode", "codes 144", "batch 8", "paint ar"} <= set(names)
    assert {"draw 16 ar", "draw 144 ar", "draw 16 diffusion", "first picture", "next picture", "answer"} <= set(names)
    assert "draw 144 diffusion" not in names
    assert {work.group for work in works_of(facts)} == {"all"}
    reader = [work.name for work in works_of(dataclasses.replace(facts, painters={}))]
    assert "decode" in reader and not any(name.startswith(("draw", "paint", "first")) for name in reader)


def test_every_target_names_a_work(facts: Facts) -> None:
    large = [work.name for work in works_of(published(facts))]
    small = [work.name for work in works_of(facts)]
    for target in TARGETS:
        assert target.work in (small if target.size == "nano" else large), target


def test_large_models_are_measured_in_groups_that_load_little(facts: Facts) -> None:
    works = works_of(published(facts))
    assert [work.group for work in works if work.kind == "decode"] == ["language"]
    assert {work.parts for work in works if work.group == "language"} == {("language",)}
    # 81 codes decode in seconds, 729 in minutes.
    assert next(work.scale for work in works if work.kind == "decode") == 2
    assert [work.name for work in works if work.long] == ["codes 729", "batch 8", "draw 729 ar"]


def test_works_are_chosen_by_their_beginnings(facts: Facts) -> None:
    works = works_of(published(facts))
    assert [work.name for work in chosen(works, ["draw"], quick=True)] == ["draw 81 ar", "draw 729 ar"]
    assert [work.name for work in chosen(works, ["decode", "encode 81"], quick=False)] == ["encode 81", "decode"]
    assert chosen(works, None, quick=False) == works
    assert not any(work.long for work in chosen(works, (), quick=True))
    for wrong in ("dec", "", "draw 8", "telepathy"):
        with pytest.raises(ConfigError, match="is unknown; this model has: encode 729, "):
            chosen(works, [wrong], quick=False)


def test_memory_is_asked_for_before_anything_is_loaded(facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    big = published(facts)
    works = works_of(big)
    both, alone = (memory_needed(big, ("ta_tok", "language", "detok_ar"), baseline) for baseline in (True, False))
    assert both > 2 * alone > 10**9
    for there, told in ((alone + 1, "add --no-baseline, which needs"), (1, "name fewer works with --works")):
        monkeypatch.setattr(run, "available_bytes", lambda there=there: there)
        with pytest.raises(ModelError, match=told):
            check_room(big, works, True)
    monkeypatch.setattr(run, "available_bytes", lambda: alone)
    check_room(big, works, False)
    monkeypatch.setattr(run, "available_bytes", lambda: None)
    check_room(big, works, True)


def test_no_process_is_started_for_what_cannot_run(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Child", None)
    with pytest.raises(ConfigError, match="telepathy"):
        bench(tiny_model, Options(works=("telepathy",)))
    monkeypatch.setattr(run, "available_bytes", lambda: 1)
    with pytest.raises(ModelError, match="needs about"):
        bench(tiny_model, Options())
    with pytest.raises(ConfigError, match="seconds is -1"):
        Options(seconds=-1)
    with pytest.raises(ConfigError, match="seconds is nan"):
        Options(seconds=float("nan"))


def test_engines_are_found(tiny_model: Path) -> None:
    ways = ways_of(tiny_model)
    assert ways[0].name == "torch" and ways[0].exact and ways[0].weight_bytes is None
    assert Way(name="four", process="four", folder=tiny_model, bits=4, exact=False).weight_bytes == 4.5 / 8


def test_ways_of_several_codes_a_pass(tiny_model: Path, facts: Facts) -> None:
    """Of the AR, of the language model, of both; in the process of the plain way, and only where something changes."""
    ways = ways_of(tiny_model, passes=["zipar"], code_passes=["jacobi", "zipar"])
    assert [way.name for way in ways] == [
        "torch",
        "torch, zipar",
        "torch, codes jacobi",
        "torch, codes zipar",
        "torch, zipar, codes jacobi",
        "torch, zipar, codes zipar",
    ]
    assert {way.process for way in ways} == {"torch"}
    assert [way.exact for way in ways] == [True, False, True, False, False, False]
    works = {work.name: work for work in works_of(facts)}
    told = {
        name: [way.name for way in ways if works[name].differs(way.passes, way.code_passes)]
        for name in ("decode", "codes 144", "paint ar", "draw 144 ar")
    }
    assert told["decode"] == ["torch"]
    assert told["codes 144"] == ["torch", "torch, codes jacobi", "torch, codes zipar"]
    assert told["paint ar"] == ["torch", "torch, zipar"]
    assert told["draw 144 ar"] == [way.name for way in ways]
