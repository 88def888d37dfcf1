"""Large parts: several files, one held at a time; tensors come from the disk as they lie there, and are not copied."""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from opentar.core import atomic
from opentar.core import folder as folders
from opentar.core import storage as storages
from opentar.core.errors import ConfigError, WeightsError
from opentar.core.folder import load_part, save_part

INDEX = "model.safetensors.index.json"


def _state(count: int = 7, rows: int = 100) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    state = {f"layer{index}": torch.randn(rows, 64, generator=generator) for index in range(count)}
    return state | {"steps": torch.arange(5), "norm": torch.ones(64)}


class _Lazy(Mapping[str, Tensor]):
    """Makes each tensor when it is asked for, and counts how many are alive."""

    def __init__(self, names: list[str], rows: int) -> None:
        self.names, self.rows = names, rows
        self.alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
        self.most = 0
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> Tensor:
        tensor = torch.full((self.rows, 64), float(len(self.asked)))
        self.asked.append(name)
        self.alive.add(tensor)
        self.most = max(self.most, len(self.alive))
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_several_files_hold_what_one_would(tmp_path: Path, storage: str) -> None:
    state = _state()
    save_part(tmp_path / "one", {"width": 3}, state, storage)
    save_part(tmp_path / "many", {"width": 3}, state, storage, {"x.txt": b"x"}, shard_bytes=30_000)
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    count = len(files)
    assert count > 1
    assert files == [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    assert not (tmp_path / "one" / INDEX).exists()
    index = json.loads((tmp_path / "many" / INDEX).read_text())
    assert set(index["weight_map"].values()) == set(files)
    assert {name for name in index["weight_map"] if "::" not in name} == set(state)
    stored = sum(path.stat().st_size for path in (tmp_path / "many").glob("*.safetensors"))
    assert 0 < index["metadata"]["total_size"] < stored
    one, many = load_part(tmp_path / "one"), load_part(tmp_path / "many")
    assert one[0] == many[0] == {"width": 3}
    assert one[1].keys() == many[1].keys()
    assert all(torch.equal(one[1][name], many[1][name]) for name in state)
    manifest = json.loads((tmp_path / "many" / folders.MANIFEST).read_text())
    assert set(manifest["files"]) == {*files, INDEX, "config.json", "x.txt"}


@pytest.mark.skipif(sys.platform == "win32", reason="rights of POSIX")
def test_weights_may_be_read_by_those_who_may_read_the_config(tmp_path: Path) -> None:
    save_part(tmp_path / "part", {}, _state(), shard_bytes=60_000)
    rights = {path.stat().st_mode for path in (tmp_path / "part").iterdir()}
    assert len(rights) == 1


def test_the_library_of_the_format_reads_the_files(tmp_path: Path) -> None:
    """Both by the index, as others do, and file by file."""
    from safetensors.torch import load_file

    state = _state()
    save_part(tmp_path / "part", {}, state, shard_bytes=60_000)
    places = json.loads((tmp_path / "part" / INDEX).read_text())["weight_map"]
    for name, tensor in state.items():
        assert torch.equal(load_file(tmp_path / "part" / places[name])[name], tensor)


def test_tied_weights_are_stored_once_in_several_files(tmp_path: Path) -> None:
    state = _state()
    state["head"] = state["layer0"]
    save_part(tmp_path / "part", {}, state, shard_bytes=60_000)
    read = load_part(tmp_path / "part", "stored")[1]
    assert read["head"] is read["layer0"]
    assert "head" not in json.loads((tmp_path / "part" / INDEX).read_text())["weight_map"]


def test_no_more_than_one_file_is_held_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, limit = 100, 3 * 100 * 64 * 2
    state = _Lazy([f"layer{index}" for index in range(10)], rows)
    asked_before_file, sizes = [], []
    real = storages.save_file

    def watched(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        asked_before_file.append(len(state.asked))
        sizes.append(sum(tensor.nbytes for tensor in tensors.values()))
        real(tensors, path, metadata)

    monkeypatch.setattr(storages, "save_file", watched)
    save_part(tmp_path / "part", {}, state, "bfloat16", shard_bytes=limit)
    assert sizes == [limit, limit, limit, limit // 3]
    # A file is written as soon as the first tensor of the next one is there, never later.
    assert asked_before_file == [4, 7, 10, 10]
    assert state.most == 1
    assert state.asked == state.names
    read = load_part(tmp_path / "part")[1]
    # The memory of a tensor that is gone is given to the next one: that makes them no twins.
    assert [float(read[name][0, 0]) for name in state.names] == list(range(10))


def test_pairs_will_do(tmp_path: Path) -> None:
    state = _state()
    save_part(tmp_path / "part", {}, ((name, tensor.clone()) for name, tensor in state.items()), shard_bytes=60_000)
    read = load_part(tmp_path / "part")[1]
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_nan_in_a_late_file_leaves_nothing(tmp_path: Path) -> None:
    state = _state()
    state["layer6"][5, 5] = float("nan")
    with pytest.raises(WeightsError, match="layer6 holds NaN"):
        save_part(tmp_path / "part", {}, state, shard_bytes=30_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bits", ["flip", "cut", "missing"])
def test_damage_in_the_second_file_is_named(tmp_path: Path, bits: str) -> None:
    save_part(tmp_path / "part", {}, _state(), shard_bytes=60_000)
    path = sorted((tmp_path / "part").glob("*.safetensors"))[1]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content if bits == "flip" else content[:-9])
    if bits == "missing":
        path.unlink()
    for check in (load_part, folders.verify):
        with pytest.raises(WeightsError) as caught:
            check(tmp_path / "part")
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ({}, "no weight_map"),
        ({"weight_map": ["a"]}, "no weight_map"),
        ({"weight_map": {"layer0": 3}}, "only safetensors files beside it"),
        ({"weight_map": {"layer0": "../up.safetensors"}}, "only safetensors files beside it"),
        ({"weight_map": {"layer0": "model.bin"}}, "only safetensors files beside it"),
        ({"weight_map": {"layer0": "none.safetensors"}}, "none.safetensors is not a readable"),
        ({"weight_map": {"layer0": "model-00001-of-00004.safetensors"}}, "other tensors than"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, index: object, expected: str) -> None:
    save_part(tmp_path / "part", {}, _state(), shard_bytes=60_000)
    (tmp_path / "part" / INDEX).write_text(json.dumps(index))
    (tmp_path / "part" / folders.MANIFEST).unlink()
    atomic._write_manifest(tmp_path / "part")
    with pytest.raises(WeightsError, match=expected):
        load_part(tmp_path / "part")


def test_types_of_loaded_tensors(tmp_path: Path) -> None:
    state = _state()
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.float32}
    for storage, stored in kinds.items():
        save_part(tmp_path / storage, {}, state, storage)
        wanted = load_part(tmp_path / storage)[1]
        assert {tensor.dtype for name, tensor in wanted.items() if name != "steps"} == {torch.float32}
        for dtype, expected in (("stored", stored), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32)):
            read = load_part(tmp_path / storage, dtype)[1]
            for name, tensor in read.items():
                assert tensor.dtype == (torch.int64 if name == "steps" else expected)
                assert torch.equal(tensor, wanted[name].to(tensor.dtype))


def test_names_of_types() -> None:
    resolve = storages.resolve_dtype
    assert resolve(None) == resolve("stored") == "stored"
    assert resolve("bf16") == resolve("bfloat16") == resolve(torch.bfloat16) == torch.bfloat16
    assert resolve("fp32") == resolve("float32") == resolve(torch.float32) == torch.float32
    assert resolve("fp16") == resolve("float16") == resolve(torch.float16) == torch.float16
    for wrong in ("int8", torch.float64, "", "bfloat"):
        with pytest.raises(ConfigError, match="use stored, float32"):
            resolve(wrong)


def _mapped_from(tensor: Tensor) -> str:
    """The file behind the memory of a tensor, or an empty text."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, _, _, *name = line.split(maxsplit=5)
        low, high = (int(end, 16) for end in span.split("-"))
        if low <= tensor.data_ptr() < high:
            return name[0] if name else ""
    return ""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the maps of the process")
@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_stored_tensors_are_mapped_and_writing_to_them_spares_the_file(tmp_path: Path, storage: str) -> None:
    # Large enough that no allocator would put a copy beside the mapping.
    save_part(tmp_path / "part", {}, {"table": torch.ones(1024, 512), "other": torch.ones(1024, 512)}, storage)
    read = load_part(tmp_path / "part", "stored")[1]
    file = tmp_path / "part" / folders.WEIGHTS
    assert {_mapped_from(tensor) for tensor in read.values()} == {str(file)}
    read["table"].mul_(3)
    assert (read["table"] == 3).all()
    folders.verify(tmp_path / "part")
    assert (load_part(tmp_path / "part", "stored")[1]["table"] == 1).all()


def test_a_shallow_check_leaves_the_parts_to_themselves(tmp_path: Path) -> None:
    with folders.atomic_folder(tmp_path / "model") as unfinished:
        (unfinished / "words.txt").write_text("word")
        save_part(unfinished / "inner", {}, _state())
        save_part(unfinished / "a" / "b", {}, _state())
    weights = tmp_path / "model" / "inner" / folders.WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    folders.verify(tmp_path / "model", deep=False)
    for check in (lambda: folders.verify(tmp_path / "model"), lambda: load_part(weights.parent)):
        with pytest.raises(WeightsError, match=folders.WEIGHTS):
            check()
    (tmp_path / "model" / "words.txt").write_text("Word")
    with pytest.raises(WeightsError, match=r"words\.txt' has changed"):
        folders.verify(tmp_path / "model", deep=False)
    (tmp_path / "model" / "a" / "b" / folders.MANIFEST).unlink()
    with pytest.raises(WeightsError, match=r"manifest\.json' is missing"):
        folders.verify(tmp_path / "model", deep=False)


@pytest.mark.parametrize("shard_bytes", [None, 30_000])
def test_tensors_one_by_one(tmp_path: Path, shard_bytes: int | None) -> None:
    state = _state()
    save_part(tmp_path / "part", {}, state, "bfloat16", shard_bytes=shard_bytes)
    found = dict(storages.each_tensor(tmp_path / "part"))
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        name: torch.bfloat16 if tensor.is_floating_point() else torch.int64 for name, tensor in state.items()
    }
    assert all(torch.equal(found[name], tensor.to(found[name].dtype)) for name, tensor in state.items())
    next((tmp_path / "part").glob("*.safetensors")).write_bytes(b"no")
    with pytest.raises(WeightsError, match="is missing or damaged"):
        dict(storages.each_tensor(tmp_path / "part"))


@pytest.mark.parametrize(
    ("storage", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("int8", torch.float32)]
)
def test_the_type_that_a_file_runs_in(tmp_path: Path, storage: str, expected: torch.dtype) -> None:
    save_part(tmp_path / "part", {}, _state(), storage)
    assert storages.stored_dtype(tmp_path / "part") == expected


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_exact_tensors_are_never_rounded(tmp_path: Path, storage: str) -> None:
    """Large ones are converted in mappings of their own: the same numbers."""
    state = {"table": torch.randn(512, 1024), "codes.table": torch.randn(512, 1024), "codes.norm": torch.randn(8)}
    save_part(tmp_path / "part", {}, state, storage)
    plain = load_part(tmp_path / "part", "stored")[1]
    _, found = load_part(tmp_path / "part", torch.bfloat16, exact=("codes.",))
    assert found["table"].dtype == torch.bfloat16
    assert torch.equal(found["table"], plain["table"].bfloat16())
    for name in ("codes.table", "codes.norm"):
        assert found[name].dtype == plain[name].dtype
        assert torch.equal(found[name], plain[name])
    assert load_part(tmp_path / "part", torch.float32, exact=("codes.",))[1]["codes.table"].dtype == torch.float32


@pytest.mark.parametrize(("number", "storage"), [(1e300, "float32"), (3.4e38, "bfloat16"), (1e300, "int8")])
def test_numbers_too_large_for_their_type_are_refused(tmp_path: Path, number: float, storage: str) -> None:
    state = {"table": torch.full((2, 3), number, dtype=torch.float64)}
    with pytest.raises(WeightsError, match="table holds numbers too large for torch"):
        save_part(tmp_path / "part", {}, state, storage)
    assert not list(tmp_path.iterdir())
