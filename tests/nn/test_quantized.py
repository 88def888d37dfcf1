"""Layers of quantized weights: as near as their weights allow, the same alone and in a batch, rows by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from opentar.core.errors import ModelError, WeightsError
from opentar.core.quantization import Packed, dequantize, form_of, quantize
from opentar.core.storage import read_packed, write_tensors
from opentar.nn import int8, quantized
from opentar.nn.quantized import QuantizedHead, QuantizedLinear, rows_of, swap


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(96, 128)
        self.layers = nn.ModuleList([nn.Linear(128, 192), nn.Linear(192, 64, bias=False)])
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 300, bias=False)


def _net() -> _Net:
    torch.manual_seed(0)
    net = _Net().requires_grad_(False)
    # A number of each kind that is hard to round beside its neighbours.
    net.layers[0].weight[3, 5] = 4.0
    return net


def _stored(folder: Path, net: nn.Module, bits: int) -> dict[str, Packed]:
    folder.mkdir()
    forms = {
        f"{name}.weight": form_of(bits if name.startswith("layers") else 8, *layer.weight.shape)
        for name, layer in net.named_modules()
        if isinstance(layer, (nn.Linear, nn.Embedding))
    }
    write_tensors(folder, net.state_dict(), "int4", forms=forms)
    return read_packed(folder, "int4", {}, forms)[1]


def _rounded(packed: Packed) -> Tensor:
    return dequantize(packed.values(), packed.scale())


@pytest.fixture(params=["onednn", "fbgemm", "plain"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way of multiplying whole numbers that this machine has."""
    found = {kernel.name: kernel for kernel in int8.exact_kernels()}
    if request.param not in found:
        pytest.skip(f"{request.param} is missing or inexact here")
    monkeypatch.setattr(int8, "kernel", lambda: found[request.param])
    return str(request.param)


@pytest.mark.parametrize("rows", [1, 2, 7, 40])
@pytest.mark.parametrize("bits", [8, 4])
def test_results_are_those_of_the_rounded_weights(tmp_path: Path, path: str, bits: int, rows: int) -> None:
    net = _net()
    packed = _stored(tmp_path / "net", net, bits)
    exact = [_rounded(packed[f"layers.{index}.weight"]) for index in range(2)]
    bias = net.layers[0].bias
    swap(net, packed, "net")
    x = (
        torch.randn(3, rows, 128, generator=torch.Generator().manual_seed(1))
        * torch.tensor([0.01, 1.0, 300.0])[:, None, None]
    )
    found = net.layers[0](x)
    expected = nn.functional.linear(x, exact[0], bias)
    assert found.shape == (3, rows, 192) and found.dtype == torch.float32
    # Rounding moves each number of the input by at most 1/254 of the largest of its row (8 bits).
    room = x.abs().amax(-1, keepdim=True) / 254 * exact[0].abs().sum(1) + 1e-4 * expected.abs().amax()
    assert bool(((found - expected).abs() <= room).all())
    spread = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert float(spread.max()) < 0.02
    assert net.layers[1](found.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("rows", [2, 9, 50])
def test_a_row_gives_the_same_alone_and_in_a_batch(tmp_path: Path, path: str, rows: int) -> None:
    net = _net()
    swap(net, _stored(tmp_path / "net", net, 8), "net", {"head": (100,)})
    x = torch.randn(rows, 128, generator=torch.Generator().manual_seed(2)) * torch.logspace(-3, 3, rows)[:, None]
    for layer in (net.layers[0], lambda x: net.head(x[:, :64])):
        together = layer(x)
        assert all(torch.equal(layer(x[row : row + 1])[0], together[row]) for row in range(rows))


def test_zeros_and_very_small_and_large_rows_stay_finite(tmp_path: Path, path: str) -> None:
    net = _net()
    swap(net, _stored(tmp_path / "net", net, 8), "net")
    x = torch.tensor([0.0, 1e-30, 1e30])[:, None].expand(3, 128)
    found = net.layers[0](x)
    assert torch.equal(found[0], net.layers[0].bias)
    assert bool(found.isfinite().all())


def test_a_head_gives_ranges_and_arranges_only_those_blocks(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "_BLOCK", 32)
    net = _net()
    packed = _stored(tmp_path / "net", net, 8)
    swap(net, packed, "net", {"head": (100, 200)})
    head = net.head
    assert isinstance(head, QuantizedHead)
    x = torch.randn(2, 3, 64)
    codes = rows_of(head, x, range(200, 300))
    assert codes.shape == (2, 3, 100) and sorted(head._ready) == [200, 232, 264, 296]
    whole = head(x)
    assert whole.shape == (2, 3, 300)
    for ids in (range(200, 300), range(100), range(90, 131), range(299, 300), range(5, 5)):
        assert torch.equal(rows_of(head, x, ids), whole[..., ids.start : ids.stop])
    exact = x @ _rounded(packed["head.weight"]).T
    # 16 bits of the input.
    assert float((whole - exact).abs().max()) < 2e-4 * float(exact.abs().max())


def test_layers_named_fine_keep_16_bits_of_their_input(tmp_path: Path, path: str) -> None:
    net = _net()
    packed = _stored(tmp_path / "net", net, 8)
    exact = [_rounded(packed[f"layers.{index}.weight"]) for index in range(2)]
    swap(net, packed, "net", fine=("1",))
    x = torch.randn(5, 192, generator=torch.Generator().manual_seed(4))
    expected = x @ exact[1].T
    assert float((net.layers[1](x) - expected).norm() / expected.norm()) < 2e-4
    assert f"int8, {path}, fine" in repr(net.layers[1]) and repr(net.layers[0]).endswith(f"int8, {path})")


def test_rows_of_an_ordinary_head() -> None:
    head, x = nn.Linear(8, 20, bias=False), torch.randn(2, 8)
    assert torch.equal(rows_of(head, x, range(5, 9)), x @ head.weight[5:9].T)


def test_tables_give_their_rounded_rows(tmp_path: Path) -> None:
    net = _net()
    packed = _stored(tmp_path / "net", net, 4)
    swap(net, packed, "net")
    ids = torch.tensor([[3, 3, 95], [0, 1, 2]])
    assert torch.equal(net.table(ids), _rounded(packed["table.weight"])[ids])


def test_many_rows_of_4_bits_agree_with_few(tmp_path: Path) -> None:
    net = _net()
    swap(net, _stored(tmp_path / "net", net, 4), "net")
    layer = net.layers[0]
    assert isinstance(layer, QuantizedLinear) and layer.form == "int4/32"
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(3))
    many, few = layer(x), torch.cat([layer(part) for part in x.split(4)])
    assert float((many - few).norm() / few.norm()) < 5e-3


def test_weights_are_arranged_in_blocks_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    values, scale = quantize(torch.randn(336, 64, generator=random), "int4/32")
    x = torch.randn(3, 64, generator=random)
    whole = quantized.Int4Product(values, scale, 32)(x)
    monkeypatch.setattr(quantized, "_UNPACKED_ROWS", 128)
    assert torch.equal(quantized.Int4Product(values, scale, 32)(x), whole)
    exact = x @ dequantize(values, scale).T
    assert float((whole - exact).norm() / exact.norm()) < 0.01


def test_bad_places_are_refused(tmp_path: Path) -> None:
    net = _net()
    packed = _stored(tmp_path / "net", net, 4)
    norm = Packed(packed["table.weight"].path, "table.weight", "int8", (1, 64))
    with pytest.raises(WeightsError, match=r"norm\.weight is quantized, but belongs to no linear layer or table"):
        swap(net, {"norm.weight": norm}, "net")
    with pytest.raises(WeightsError, match=r"the table layers\.0\.weight is int4/32; tables are int8"):
        swap(net, {"layers.0.weight": packed["layers.0.weight"]}, "net", {"layers.0": ()})


def test_arranged_weights_are_not_saved_silently(tmp_path: Path) -> None:
    net = _net()
    swap(net, _stored(tmp_path / "net", net, 8), "net")
    with pytest.raises(ModelError, match="load the folder as float32 first"):
        net.state_dict()
