"""What `init` reports is what lies in the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from opentar.checkpoints.random_init import PARTS, init_random
from opentar.checkpoints.sizes import size_of
from opentar.core.headers import read_header

WIDTHS = {"F32": 4, "BF16": 2}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_numbers_and_bytes_are_those_of_the_files(tmp_path: Path, dtype: str) -> None:
    """The negative features of the diffusion de-tokenizer are float32 in any case."""
    pytest.importorskip("diffusers")
    report = init_random(size_of("tar-tiny"), tmp_path / "tiny", dtype=dtype)
    stored = {
        part: [
            tensor
            for path in (tmp_path / "tiny" / part).rglob("*.safetensors")
            for tensor in read_header(path).values()
        ]
        for part in PARTS
    }
    assert report.numbers == {part: sum(tensor.numbers for tensor in tensors) for part, tensors in stored.items()}
    every = [tensor for tensors in stored.values() for tensor in tensors]
    assert report.bytes == sum(tensor.numbers * WIDTHS[tensor.dtype] for tensor in every)
