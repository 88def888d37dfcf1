"""A folder is whole or it is not there; damage is named; nothing of somebody else's is replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from opentar.core import atomic, manifest
from opentar.core import folder as folders
from opentar.core.errors import ConfigError, OutputError, WeightsError
from opentar.core.folder import load_part, save_part


def _state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "large": torch.randn(64, 96, generator=generator),
        "kernel": torch.randn(16, 8, 7, 7, generator=generator),
        "small": torch.randn(8, 8, generator=generator),
        "norm": torch.randn(5000, generator=generator),
        "steps": torch.arange(5),
        "mask": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
    }


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def test_float32_is_exact(tmp_path: Path) -> None:
    state = _state()
    save_part(tmp_path / "part", {"width": 3, "名": "苹果"}, state)
    config, read = load_part(tmp_path / "part")
    assert config == {"width": 3, "名": "苹果"}
    assert set(read) == set(state)
    for name, tensor in state.items():
        assert torch.equal(read[name], tensor), name
        assert read[name].dtype == tensor.dtype
    assert sorted(file.name for file in tmp_path.iterdir()) == ["part"]


def test_int8_error_is_at_most_half_a_step(tmp_path: Path) -> None:
    state = _state()
    # From rows of denormal size to large ones, an all-zero row included: each row has its own scale.
    state["rows"] = torch.randn(64, 128) * torch.logspace(-6, 3, 64)[:, None]
    state["rows"][5] = 0
    save_part(tmp_path / "part", {}, state, "int8")
    _, read = load_part(tmp_path / "part")
    for name in ("rows", "large", "kernel"):
        wanted = state[name].flatten(1)
        step = wanted.abs().amax(dim=1, keepdim=True) / 127
        # A float16 scale is at most 2^-10 off, or one denormal step (6e-8) for tiny rows.
        bound = 0.5 * (step * (1 + 2**-10) + 6e-8) + 1e-12
        assert ((read[name].flatten(1) - wanted).abs() <= bound).all(), name
        assert read[name].dtype == torch.float32
    assert (read["rows"][5] == 0).all()
    for name in ("small", "norm", "steps", "mask", "scalar", "empty"):
        assert torch.equal(read[name], state[name]), name


def test_int8_saved_again_is_the_same(tmp_path: Path) -> None:
    save_part(tmp_path / "one", {}, _state(), "int8")
    save_part(tmp_path / "two", {}, load_part(tmp_path / "one")[1], "int8")
    once, twice = load_part(tmp_path / "one")[1], load_part(tmp_path / "two")[1]
    assert all(torch.allclose(once[name], twice[name], rtol=2**-9, atol=0) for name in once)


def test_storage_sizes(tmp_path: Path) -> None:
    state = {"weight": torch.randn(512, 256)}
    sizes = {}
    for storage in ("float32", "bfloat16", "int8"):
        save_part(tmp_path / storage, {}, state, storage)
        sizes[storage] = (tmp_path / storage / folders.WEIGHTS).stat().st_size
    assert sizes["float32"] > 1.9 * sizes["bfloat16"] > 3.6 * sizes["int8"]
    read = load_part(tmp_path / "bfloat16")[1]["weight"]
    assert torch.equal(read, state["weight"].bfloat16().float())


def test_values_too_large_for_a_half_scale_stay_float32(tmp_path: Path) -> None:
    state = {"weight": torch.randn(64, 64) * 1e9}
    save_part(tmp_path / "part", {}, state, "int8")
    assert torch.equal(load_part(tmp_path / "part")[1]["weight"], state["weight"])


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    table = torch.randn(64, 64)
    save_part(tmp_path / "part", {}, {"embed": table, "head": table, "turned": table.T})
    assert (tmp_path / "part" / folders.WEIGHTS).stat().st_size < 2.2 * table.numel() * 4
    _, read = load_part(tmp_path / "part")
    assert torch.equal(read["head"], table)
    assert torch.equal(read["turned"], table.T)


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_never_saved(tmp_path: Path, storage: str, value: float) -> None:
    state = _state()
    save_part(tmp_path / "part", {"step": 1}, state, storage)
    state["large"][3, 4] = value
    with pytest.raises(WeightsError, match="large holds NaN or infinity"):
        save_part(tmp_path / "part", {"step": 2}, state, storage)
    assert load_part(tmp_path / "part")[0] == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["part"]


def test_unknown_storage(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bfloat16, int8"):
        save_part(tmp_path / "part", {}, _state(), "int3")
    assert list(tmp_path.iterdir()) == []
    save_part(tmp_path / "part", {}, _state())
    _rewrite_config(tmp_path / "part", {"storage": "int2"})
    with pytest.raises(WeightsError, match="int2"):
        load_part(tmp_path / "part")
    _rewrite_config(tmp_path / "part", {})
    with pytest.raises(WeightsError, match="how its tensors are stored"):
        load_part(tmp_path / "part")


def _rewrite_config(part: Path, config: dict[str, str]) -> None:
    """A well-formed folder with another config, as a newer version might write it."""
    (part / folders.CONFIG).write_text(json.dumps(config))
    (part / folders.MANIFEST).unlink()
    atomic._write_manifest(part)


@pytest.mark.parametrize("name", [folders.WEIGHTS, folders.CONFIG, "tokenizer.json"])
@pytest.mark.parametrize("damage", [_flip, _cut, Path.unlink], ids=["flip", "cut", "missing"])
def test_damage_is_named(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    save_part(tmp_path / "part", {"width": 3}, _state(), extra={"tokenizer.json": b"{}  "})
    damage(tmp_path / "part" / name)
    with pytest.raises(WeightsError) as caught:
        load_part(tmp_path / "part")
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match=name):
        folders.verify(tmp_path / "part")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"files": 3}', b'{"files": {"a": 1}}', b"\xff\xfe", b"[" * 100_000]
)
def test_damaged_manifest(tmp_path: Path, content: bytes) -> None:
    save_part(tmp_path / "part", {}, _state())
    (tmp_path / "part" / folders.MANIFEST).write_bytes(content)
    with pytest.raises(WeightsError, match="manifest"):
        load_part(tmp_path / "part")


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/../../b", "c:\\x", "nul\0"])
def test_manifest_cannot_point_outside(tmp_path: Path, name: str) -> None:
    save_part(tmp_path / "part", {}, _state())
    entry = {"bytes": 1, "sha256": "0"}
    (tmp_path / "part" / folders.MANIFEST).write_text(json.dumps({"files": {name: entry}}))
    with pytest.raises(WeightsError, match="is not a list of files"):
        load_part(tmp_path / "part")


@pytest.mark.parametrize("name", ["../up.json", "/abs.json", "a/../../b", "", "config.json", "manifest.json"])
def test_names_of_extra_files_are_checked(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        save_part(tmp_path / "part", {}, _state(), extra={name: b"x"})
    assert list(tmp_path.iterdir()) == []


def test_malformed_safetensors_with_a_right_hash(tmp_path: Path) -> None:
    save_part(tmp_path / "part", {}, _state())
    for content in (b"", b"\xff" * 64, (2**63 - 1).to_bytes(8, "little") + b"{}", b"\x02" + bytes(7) + b"{}"):
        (tmp_path / "part" / folders.WEIGHTS).write_bytes(content)
        (tmp_path / "part" / folders.MANIFEST).unlink()
        atomic._write_manifest(tmp_path / "part")
        if content.endswith(b"{}") and content[0] == 2:
            assert load_part(tmp_path / "part")[1] == {}
        else:
            with pytest.raises(WeightsError, match=folders.WEIGHTS):
                load_part(tmp_path / "part")


def test_unfinished_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no folder"):
        load_part(tmp_path / "none")
    save_part(tmp_path / "part", {}, _state())
    (tmp_path / "part" / folders.MANIFEST).unlink()
    with pytest.raises(WeightsError, match="not a finished OpenTar folder"):
        load_part(tmp_path / "part")


def test_refuses_to_replace_what_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "extension").mkdir()
    (tmp_path / "extension" / "manifest.json").write_text('{"manifest_version": 3}')
    for name in ("photos", "file", "extension"):
        with pytest.raises(OutputError):
            save_part(tmp_path / name, {}, _state())
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"
    assert (tmp_path / "file").read_bytes() == b"text"
    assert (tmp_path / "extension" / "manifest.json").read_text() == '{"manifest_version": 3}'
    assert len(list(tmp_path.iterdir())) == 3


def test_replaces_an_older_part_and_makes_parents(tmp_path: Path) -> None:
    part = tmp_path / "a" / "b" / "part"
    save_part(part, {"step": 1}, _state(), extra={"old.txt": b"old"})
    save_part(part, {"step": 2}, _state())
    assert load_part(part)[0] == {"step": 2}
    assert not (part / "old.txt").exists()
    assert [file.name for file in part.parent.iterdir()] == ["part"]


def test_files_of_others_stay_when_a_part_is_replaced(tmp_path: Path) -> None:
    part = tmp_path / "part"
    save_part(part, {"step": 1}, _state())
    (part / "drawings").mkdir()
    (part / "drawings" / "cat.png").write_bytes(b"cat")
    (part / "notes.txt").write_bytes(b"mine")
    (part / ".deep.partial").mkdir()
    (part / ".deep.partial" / "half").write_bytes(b"left by a killed save")
    save_part(part, {"step": 2}, _state(), extra={"new.txt": b"new"})
    assert load_part(part)[0] == {"step": 2}
    assert (part / "drawings" / "cat.png").read_bytes() == b"cat"
    assert (part / "notes.txt").read_bytes() == b"mine"
    assert not (part / ".deep.partial").exists()
    assert set(manifest.read_manifest(part)) == {"config.json", "model.safetensors", "new.txt"}
    with pytest.raises(OutputError, match=r"notes\.txt.*would be lost"):
        save_part(part, {"step": 3}, _state(), extra={"notes.txt": b"ours"})
    assert (part / "notes.txt").read_bytes() == b"mine"
    assert load_part(part)[0] == {"step": 2}


def test_old_files_of_a_part_saved_by_hand_are_not_carried_over(tmp_path: Path) -> None:
    """Beside a single new file an old index would be read in its place."""
    with folders.atomic_folder(tmp_path / "model") as unfinished:
        save_part(unfinished / "a", {}, {"x": torch.full((64, 64), 1.0)})
    save_part(tmp_path / "model" / "a", {}, {n: torch.full((64, 64), 7.0) for n in ("x", "y")}, shard_bytes=17_000)
    assert (tmp_path / "model" / "a" / "model.safetensors.index.json").is_file()
    with folders.atomic_folder(tmp_path / "model") as unfinished:
        save_part(unfinished / "a", {}, {"x": torch.full((64, 64), 2.0)})
    assert load_part(tmp_path / "model" / "a")[1]["x"].unique().tolist() == [2.0]


def test_a_broken_manifest_does_not_keep_a_part_from_being_written_again(tmp_path: Path) -> None:
    part = tmp_path / "part"
    save_part(part, {"step": 1}, _state())
    (part / folders.MANIFEST).write_bytes(b"{")
    save_part(part, {"step": 2}, _state())
    assert load_part(part)[0] == {"step": 2}


def test_hash_follows_the_content(tmp_path: Path) -> None:
    for name, width in (("a", 1), ("b", 1), ("c", 2)):
        save_part(tmp_path / name, {"width": width}, _state())
    first, same, other = (folders.folder_hash(tmp_path / name) for name in "abc")
    assert first == same != other
    assert len(first) == 12


def test_model_folder_with_parts(tmp_path: Path) -> None:
    with folders.atomic_folder(tmp_path / "model") as unfinished:
        (unfinished / folders.CONFIG).write_text('{"kind": "opentar"}')
        save_part(unfinished / "language", {"width": 2}, _state())
        assert not (tmp_path / "model").exists()
    folders.verify(tmp_path / "model")
    assert load_part(tmp_path / "model" / "language")[0] == {"width": 2}
    assert folders.read_config(tmp_path / "model") == {"kind": "opentar"}
    _flip(tmp_path / "model" / "language" / folders.WEIGHTS)
    with pytest.raises(WeightsError, match="language"):
        folders.verify(tmp_path / "model")


def test_config_must_be_plain(tmp_path: Path) -> None:
    for config in ({"path": tmp_path}, {"x": float("nan")}, {"storage": "int8"}, {"tied_tensors": {}}):
        with pytest.raises(ConfigError):
            save_part(tmp_path / "part", config, _state())
    assert list(tmp_path.iterdir()) == []


def test_strict_load_tells_the_difference() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {name: tensor.clone() + 1 for name, tensor in module.state_dict().items()}
    folders.strict_load(module, state, "tiny")
    assert all(torch.equal(module.state_dict()[name], state[name]) for name in state)
    state["0.weight"] = torch.zeros(5, 5)
    state["2.bias"] = state.pop("1.bias")
    with pytest.raises(WeightsError) as caught:
        folders.strict_load(module, state, "tiny")
    for text in ("tiny", "1 missing: 1.bias", "1 not known here: 2.bias", "0.weight [5, 5] instead of [3, 2]"):
        assert text in str(caught.value)
