"""The quick search gives the codes of exact arithmetic, also where rounding could not tell rows apart."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from opentar.image_to_tokens import nearest, quantizer
from opentar.image_to_tokens.nearest import NearestRows
from opentar.image_to_tokens.quantizer import QuantizerConfig, TextAlignedQuantizer


def random(rows: int, width: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def close_together(rows: int, width: int) -> Tensor:
    """All rows within rounding of one another, some of them the same."""
    table = normalize(random(1, width) + 1e-4 * random(rows, width, 3), dim=-1)
    table[rows // 2] = table[min(3, rows - 1)]
    return table


def correlated(rows: int, width: int) -> Tensor:
    """Rows around one large mean, as word vectors have it."""
    return normalize(3 * random(1, width) + random(rows, width, 5), dim=-1)


@pytest.mark.parametrize("table", [random, close_together, correlated])
@pytest.mark.parametrize("rows", [1, 5, 700])
def test_the_code_is_that_of_exact_arithmetic(table: Callable[[int, int], Tensor], rows: int) -> None:
    table_KC = table(rows, 48)
    unit_MC = torch.cat([random(300, 48, 7), table_KC[: min(rows, 40)]])
    found_M = NearestRows(table_KC).find(unit_MC)
    scores_MK = unit_MC.double() @ table_KC.double().T
    best_M = scores_MK.argmax(-1)
    # A block in which rounding decides nothing is compared in float32, whose last bit may choose among equals.
    lost_M = scores_MK.amax(-1) - scores_MK.gather(-1, found_M[:, None])[:, 0]
    assert float(lost_M.max()) < 1e-6
    if table is not close_together:
        assert torch.equal(found_M, best_M)


def test_alone_and_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    search, unit_MC = NearestRows(random(500, 32)), random(90, 32, 9)
    together = search.find(unit_MC)
    assert [int(search.find(one[None])) for one in unit_MC] == together.tolist()
    monkeypatch.setattr(nearest, "_BLOCK", 7)
    assert torch.equal(search.find(unit_MC), together)
    assert search.find(unit_MC[:0]).shape == (0,)


def test_among_equal_rows_the_first_is_taken() -> None:
    table = random(60, 32)
    table[40] = table[9]
    table[50] = table[9]
    assert NearestRows(table).find(table[[9, 40, 50, 10]]).tolist() == [9, 9, 9, 10]


def test_a_quantizer_takes_it_where_its_table_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    one = TextAlignedQuantizer(QuantizerConfig(codebook_size=300, width=24, row_width=20)).eval()
    z = torch.randn(2, 50, 24)
    plain = one.nearest(z)
    rows = one.look_up(plain)
    used = []
    find = NearestRows.find
    monkeypatch.setattr(NearestRows, "find", lambda self, unit: used.append(len(unit)) or find(self, unit))
    monkeypatch.setattr(nearest, "LEAST_NUMBERS", 1)
    monkeypatch.setattr(nearest, "has_bf16_cpu", lambda: True)
    assert torch.equal(one.nearest(z), plain) and used == [100]
    torch.testing.assert_close(one.look_up(plain), rows, atol=1e-6, rtol=1e-5)
    # Each row by itself is the same to the bit.
    assert torch.equal(one.look_up(plain[0, :1]), one.look_up(plain)[0, :1])
    with torch.no_grad():
        one.start_from(one.embedding.weight.flip(0))
    assert torch.equal(one.nearest(z), quantizer.TextAlignedQuantizer.nearest(one, z))
    assert not torch.equal(one.nearest(z), plain), "another table, another search"


def test_a_search_is_made_once_for_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    one = TextAlignedQuantizer(QuantizerConfig(codebook_size=300, width=24, row_width=20)).eval()
    made = []
    start = NearestRows.__init__
    monkeypatch.setattr(NearestRows, "__init__", lambda self, table: made.append(len(table)) or start(self, table))
    monkeypatch.setattr(nearest, "LEAST_NUMBERS", 1)
    monkeypatch.setattr(nearest, "has_bf16_cpu", lambda: True)
    for _ in range(3):
        one.nearest(torch.randn(2, 5, 24))
    assert made == [300]
    with torch.no_grad():
        one.embedding_proj.weight.mul_(-1)
    one.nearest(torch.randn(2, 5, 24))
    assert made == [300, 300]


def test_the_bar_never_shuts_out_the_best_row() -> None:
    for seed in range(20):
        table, unit_MC = random(500, 24, seed), random(64, 24, 100 + seed)
        search, narrow = NearestRows(table), unit_MC.bfloat16()
        scores = narrow @ search.narrow_KC.T
        best_M = (unit_MC.double() @ table.double().T).argmax(-1)
        assert bool((scores[torch.arange(64), best_M] >= search._bar(unit_MC, narrow, scores)).all())


def test_rows_are_looked_up_without_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    one = TextAlignedQuantizer(QuantizerConfig(codebook_size=300, width=24, row_width=20)).eval()
    monkeypatch.setattr(nearest, "LEAST_NUMBERS", 1)
    codes = torch.tensor([[3, 299, 3], [0, 17, 299]])
    rows = one.look_up(codes)
    assert one._table is None
    one.codebook()
    assert torch.equal(one.look_up(codes), rows), "what was computed before changes no bit"
    assert one.train().look_up(codes).requires_grad
