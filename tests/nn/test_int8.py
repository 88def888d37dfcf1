"""Products of whole numbers: as exact as 8 or 16 bits allow at any number of rows, and the same by every kernel."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from opentar.nn import int8
from opentar.nn.int8 import Int8Product, Kernel

KERNELS = list(int8.exact_kernels())


def _weights(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    values = torch.randint(-127, 128, (rows, columns), generator=random, dtype=torch.int8)
    return values, torch.rand(rows, generator=random) / 100


def _input(rows: int, columns: int) -> Tensor:
    """Rows of very different sizes, each with one large number."""
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
    x[:, 3] *= 20
    return x * torch.logspace(-2, 2, rows)[torch.randperm(rows, generator=torch.Generator().manual_seed(2))][:, None]


def _product(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, fine: bool, columns: int = 640) -> Int8Product:
    monkeypatch.setattr(int8, "kernel", lambda: kernel)
    return Int8Product(*_weights(200, columns), fine=fine)


@pytest.mark.parametrize("rows", [1, 16, 500])
@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_many_rows_are_as_near_as_their_bits_allow(
    kernel: Kernel, fine: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, scale = _weights(200, 640)
    exact = values.double() * scale.double()[:, None]
    x = _input(rows, 640)
    found = _product(kernel, monkeypatch, fine)(x)
    steps = 2 * kernel.levels * (2 * kernel.levels if fine else 1)
    # Half a step of the row's largest number, for each weight; float32 adds some millionths of the sum.
    room = x.abs().amax(-1, keepdim=True) * exact.abs().sum(1) * (1 / steps + 2e-6)
    assert bool(((found - x.double() @ exact.T).abs() <= room).all())


@pytest.mark.parametrize("fine", [False, True])
def test_kernels_of_as_many_levels_give_the_same_numbers(fine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = _input(300, 640)
    found = [_product(kernel, monkeypatch, fine)(x) for kernel in KERNELS if kernel.levels == 127]
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_a_row_gives_the_same_in_any_number_of_rows(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    product, x = _product(kernel, monkeypatch, fine=False), _input(500, 640)
    together = product(x)
    for start, rows in ((0, 1), (7, 2), (100, 15), (204, 64), (240, 260)):
        assert torch.equal(product(x[start : start + rows]), together[start : start + rows])


def test_input_that_is_rounded_once_serves_several_products(monkeypatch: pytest.MonkeyPatch) -> None:
    product, x = _product(int8.kernel(), monkeypatch, fine=True), _input(9, 640)
    assert torch.equal(product.of(int8.rounded(x, fine=True, kernel=product.kernel)), product(x))


def test_the_same_input_is_rounded_once_until_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    product, last = _product(int8.kernel(), monkeypatch, fine=False), int8.LastRounded()
    x = _input(6, 640).view(2, 3, 640)
    first = last(x, product)
    assert last(x, product) is first and first.steps_MK.shape == (6, 640)
    x[0, 0] = 7.0
    second = last(x, product)
    assert second is not first and torch.equal(product.of(second), product(x.flatten(0, 1)))
    # An equal tensor that is another one, and one that wants 16 bits.
    assert last(x.clone(), product) is not second
    fine = _product(int8.kernel(), monkeypatch, fine=True)
    assert last(x, product).fine is False and last(x, fine).fine is True
    with torch.inference_mode():
        y = x + 1
        seen = last(y, product)
        y += 1
        assert not torch.equal(last(y, product).scale_M1, seen.scale_M1)
    del x, y
    assert last._kept is None


def test_odd_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    for kernel in KERNELS:
        product = _product(kernel, monkeypatch, fine=False, columns=37)
        assert product(_input(5, 37)).shape == (5, 200)


def test_a_processor_without_vnni_takes_another_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "has_vnni", lambda: False)
    assert int8.ONEDNN not in list(int8.exact_kernels())


@pytest.mark.skipif(int8.ONEDNN not in KERNELS, reason="oneDNN is not what this machine would take")
def test_onednn_held_back_to_avx2_is_found_inexact() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from opentar.nn import int8; print(int8.kernel().name)"],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() in ("fbgemm", "plain")
