"""Damaged files of weights under a right hash: one line, and no memory for what they claim."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
import torch

from memory_peak import forget_the_peak, peak
from opentar.core import atomic
from opentar.core import folder as folders
from opentar.core.errors import WeightsError
from opentar.core.folder import load_part, save_part
from opentar.core.headers import check_header

HUGE = 1 << 40
"""Numbers or bytes that no machine has."""


def _with(header: object, body: bytes = bytes(64)) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content + body


def _tensor(shape: list[int], place: tuple[int, int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(place)}


DAMAGED = {
    "a header of 2^63": (2**63 - 1).to_bytes(8, "little") + b"{}",
    "a header of 90 MB": (90_000_000).to_bytes(8, "little") + b"{}",
    "tensors that overlap": _with({"a": _tensor([16], (0, 64)), "b": _tensor([8], (0, 32))}),
    "tensors with a gap": _with({"a": _tensor([4], (0, 16)), "b": _tensor([4], (48, 64))}),
    "a tensor behind the end": _with({"a": _tensor([HUGE], (0, 4 * HUGE))}),
    "a shape that its bytes do not hold": _with({"a": _tensor([HUGE], (0, 64))}),
    "a shape of too many bytes": _with({"a": _tensor([2**62, 2**62], (0, 64))}),
    "a negative side": _with({"a": _tensor([-16], (0, 64))}),
    "ends before it begins": _with({"a": _tensor([16], (64, 0))}),
    "a type that there is not": _with({"a": _tensor([16], (0, 64), "F99")}),
    "no object": _with([1, 2]),
    "entries that are none": _with({"a": 5}),
    "braces without end": _with(b"{" * 100_000),
    "the same name twice": _with(
        b'{"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "cut off": _with({"a": _tensor([32], (0, 128))}),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_one_line_and_takes_no_memory(tmp_path: Path, what: str) -> None:
    part = tmp_path / "part"
    save_part(part, {}, {"a": torch.zeros(16)})
    load_part(part)
    (part / folders.WEIGHTS).write_bytes(DAMAGED[what])
    (part / folders.MANIFEST).unlink()
    atomic._write_manifest(part)
    forget_the_peak()
    before = psutil.Process().memory_info().rss
    with pytest.raises(WeightsError) as told:
        load_part(part)
    assert "\n" not in str(told.value) and folders.WEIGHTS in str(told.value)
    assert peak() - before < 64 << 20, "what the file claims was allocated"


def test_headers_say_no_more_than_the_file_holds(tmp_path: Path) -> None:
    for number, (what, content) in enumerate(DAMAGED.items()):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(content)
        # Its shapes and types are for the reader of tensors; the places of all of them must lie in the file.
        if "shape" in what or "type" in what or "side" in what or "overlap" in what or "gap" in what or "twice" in what:
            continue
        with pytest.raises(WeightsError) as told:
            check_header(path)
        assert "\n" not in str(told.value)
