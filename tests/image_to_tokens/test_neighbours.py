"""Rows of a codebook, the nearest first."""

from __future__ import annotations

import pytest
import torch

from opentar.image_to_tokens import neighbours
from opentar.image_to_tokens.neighbours import Neighbours


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_those_of_the_whole_table_in_whatever_blocks(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "_ROWS", 7)
    table = torch.randn(50, 12, generator=torch.Generator().manual_seed(1)).to(dtype)
    rows = torch.nn.functional.normalize(table.float(), dim=-1)
    codes = [3, 49, 0, 3]
    expected = (rows[codes] @ rows.T).argsort(dim=-1, descending=True)[:, :9].tolist()
    assert Neighbours(table).nearest(codes, 9) == expected
    assert [own[0] for own in expected] == codes


def test_the_code_itself_comes_first_and_there_are_no_more_than_all() -> None:
    twins = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    assert [own[0] for own in Neighbours(twins).nearest([0, 1, 2, 3], 2)] == [0, 1, 2, 3]
    assert sorted(Neighbours(twins).nearest([2], 20)[0]) == [0, 1, 2, 3]
