"""Headers are read without the numbers, and too little memory is told with both numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from opentar.core import memory
from opentar.core.errors import ModelError, WeightsError
from opentar.core.folder import save_part
from opentar.core.headers import SCALE, read_header


def test_headers_tell_types_and_shapes(tmp_path: Path) -> None:
    state = {"table": torch.randn(128, 64), "norm": torch.ones(64), "steps": torch.arange(3)}
    save_part(tmp_path / "part", {}, state, "int8")
    found = read_header(tmp_path / "part" / "model.safetensors")
    assert {name: (header.dtype, header.shape) for name, header in found.items()} == {
        "table": ("I8", (128, 64)),
        "table" + SCALE: ("F16", (128,)),
        "norm": ("F32", (64,)),
        "steps": ("I64", (3,)),
    }
    assert found["table"].numbers == 128 * 64


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 64, (2**62).to_bytes(8, "little"), b"\x02" + bytes(7) + b"[]", b"\x05" + bytes(7) + b'{"a":'],
)
def test_files_that_are_none_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        read_header(path)
    path.write_bytes(content)
    if content:
        with pytest.raises(WeightsError, match=r"model\.safetensors"):
            read_header(path)


def test_memory_is_read_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "_MEMINFO", info)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    info.write_text("MemTotal:       24000000 kB\nMemAvailable:    2000000 kB\n")
    assert memory.available_bytes() == 2_048_000_000
    memory.check_memory("this", 2_048_000_000)
    with pytest.raises(ModelError, match=r"this needs 2\.5 GB of memory and 2\.0 GB are available"):
        memory.check_memory("this", 2_500_000_000)


@pytest.mark.parametrize(
    ("limit", "used", "stat", "cached"),
    [
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ],
)
def test_the_limit_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, used: str, stat: str, cached: str
) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable:    2000000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    for name, text in (
        (limit, "1000000\n"),
        (used, "700000\n"),
        (stat, f"anon 500000\n{cached} 200000\n{cached.replace('inactive', 'active')} 100000\n"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory.available_bytes() == 600_000
    (tmp_path / limit).write_text("max\n")
    assert memory.available_bytes() == 2_048_000_000


def test_unknown_memory_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "none")
    monkeypatch.delattr(memory.os, "sysconf", raising=False)
    assert memory.available_bytes() is None
    memory.check_memory("this", 10**18)
