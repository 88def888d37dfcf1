"""Headers of GGUF files, read within bounds: what is damaged is told, and nothing is taken on trust."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from opentar.core.errors import WeightsError
from opentar.core.gguf_header import read_gguf, tensor_bytes

gguf = pytest.importorskip("gguf", reason="pip install 'opentar[llamacpp]'")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_uint32("a.number", 7)
    writer.add_float32("a.float", 0.5)
    writer.add_bool("a.truth", True)
    writer.add_string("a.text", "drei Äpfel")
    writer.add_array("texts", ["a", "bc", ""])
    writer.add_array("numbers", [1, 2, 3, 4])
    writer.add_tensor("plain", np.arange(12, dtype=np.float32).reshape(3, 4))
    rows = np.ones((2, 64), np.float32)
    writer.add_tensor(
        "packed",
        gguf.quants.quantize(rows, gguf.GGMLQuantizationType.Q8_0),
        raw_dtype=gguf.GGMLQuantizationType.Q8_0,
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_keys_and_tensors(file: Path) -> None:
    header = read_gguf(file)
    assert header.values == {
        "general.architecture": "qwen2",
        "a.number": 7,
        "a.float": 0.5,
        "a.truth": True,
        "a.text": "drei Äpfel",
        "texts": 3,
        "numbers": 4,
    }
    assert {name: (one.kind, one.shape, one.bytes) for name, one in header.tensors.items()} == {
        "plain": (0, (3, 4), 48),
        "packed": (8, (2, 64), 136),
    }
    begin = header.tensors["plain"].begin
    assert np.frombuffer(file.read_bytes()[begin : begin + 48], np.float32).tolist() == list(range(12))


def test_sizes_of_the_package_are_ours() -> None:
    from opentar.core.gguf_header import BLOCKS

    known = {int(kind): sizes for kind, sizes in gguf.constants.GGML_QUANT_SIZES.items()}
    assert {kind: known[kind] for kind in BLOCKS} == BLOCKS
    with pytest.raises(ValueError, match="no whole blocks of 256"):
        tensor_bytes(12, (4, 128))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no GGUF file"),
        (b"PK\x03\x04" + bytes(100), "is no GGUF file"),
        (b"GGUF", "is no readable GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "is GGUF of version 1; versions 2 and 3 are read"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is GGUF of version 50331648"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "is no readable GGUF file"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62) + bytes(20), "leads out of the file"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 1 << 62) + bytes(20), "leads out of the file"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 2) + bytes(20), "is no readable GGUF file"),
        (b"GGUF" + struct.pack("<IQQQ1sII", 3, 1, 0, 1, b"t", 9, 1) + bytes(80), "a tensor of 9 dimensions"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 4, 99, 0) + bytes(80), "in a type (number 99)"),
    ],
)
def test_what_is_no_gguf_file_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_gguf(path)
    assert told in str(caught.value)


def test_cut_or_grown_files_are_refused(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-60])
    with pytest.raises(WeightsError, match="is cut short"):
        read_gguf(file)
    file.write_bytes(content + bytes(4096))
    with pytest.raises(WeightsError, match="its size is not that of its tensors"):
        read_gguf(file)
    with pytest.raises(WeightsError, match="No such file"):
        read_gguf(file.with_name("none.gguf"))


def test_damage_anywhere_ends_in_our_error_or_in_a_header(file: Path) -> None:
    content, source = bytearray(file.read_bytes()), random.Random(5)
    end = min(one.begin for one in read_gguf(file).tensors.values())
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[source.randrange(4, end)] = source.randrange(256)
        file.write_bytes(damaged[: source.choice((len(content), source.randrange(len(content))))])
        try:
            read_gguf(file)
        except WeightsError:
            refused += 1
    assert refused > 200
