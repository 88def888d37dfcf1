"""4-bit weights that are chosen by what their layer is given lose less of what it gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from opentar.core.errors import ModelError
from opentar.core.quantization import dequantize, quantize
from opentar.nn.gptq import InputGram, quantize_for


def inputs(count: int, width: int) -> Tensor:
    """Correlated inputs, some of them much larger than others."""
    random = torch.Generator().manual_seed(1)
    mixed = torch.randn(count, width // 4, generator=random) @ torch.randn(width // 4, width, generator=random)
    return (mixed + torch.randn(count, width, generator=random)) * torch.linspace(0, 2, width).exp()


def gram_of(x: Tensor) -> Tensor:
    gram = InputGram(x.shape[-1])
    # In pieces and with more dimensions, as layers are given them.
    for part in x.split(100):
        gram.add(part[None])
    return gram.sum_KK


@pytest.mark.parametrize("kind", ["int4", "int4z"])
@pytest.mark.parametrize(("width", "group"), [(256, 32), (192, 64), (96, 32), (384, 128)])
def test_outputs_are_nearer_than_by_rounding(width: int, group: int, kind: str) -> None:
    weight = torch.randn(48, width, generator=torch.Generator().manual_seed(2))
    x, other = inputs(900, width).split(600)
    made = quantize_for(weight, gram_of(x), group, zero=kind == "int4z")
    rounded = dequantize(*quantize(weight, f"{kind}/{group}"))
    assert made.numel() == weight.numel() and made.numbers().shape == weight.shape
    assert [one.dtype for one in made] == [torch.uint8, torch.float16]

    def lost(numbers: Tensor) -> float:
        return float((other @ (numbers - weight).T).norm() / (other @ weight.T).norm())

    assert lost(made.numbers()) < 0.8 * lost(rounded)
    if kind == "int4z":
        scale, middle = made.scale.float().unbind(-1)
        assert torch.equal(middle / scale, (middle / scale).round())


def test_the_sum_is_that_of_all_inputs() -> None:
    x = inputs(250, 64)
    assert torch.allclose(gram_of(x), x.T @ x, rtol=1e-4, atol=1e-2)


def test_inputs_that_never_occur_keep_their_weights() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(2))
    x = inputs(300, 64)
    x[:, 5] = 0
    made = quantize_for(weight, gram_of(x), 32).numbers()
    assert bool(made.isfinite().all()) and float((made[:, 5] - weight[:, 5]).abs().max()) < 1.0
    nothing = quantize_for(weight, torch.zeros(64, 64), 32).numbers()
    assert float((nothing - weight).norm() / weight.norm()) < 0.12


def test_inputs_without_numbers_are_refused() -> None:
    gram = torch.eye(64)
    gram[3, 3] = float("nan")
    with pytest.raises(ModelError, match="NaN or infinity"):
        quantize_for(torch.randn(16, 64), gram, 32)
