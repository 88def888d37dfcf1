"""Products of whole numbers with int8 weights, by what stock PyTorch has (CPU).

The numbers of each row of the input are divided by that row's largest and rounded to whole numbers, the product is one
of whole numbers, and both scales are multiplied in afterwards. Whole numbers add up exactly and no row knows of
another, so a row gives the same alone and in a batch, and the same by every kernel that has as many levels.

Shape suffixes: M rows of the input, K columns (the width of the input), N rows of the weight.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

_LEAST = 1e-30
"""Stands in for the largest number of a row of zeros."""
_ROUNDED_AT_ONCE = 1 << 17
"""Numbers of the input that are rounded together: what lies between the steps then stays in the caches."""


@dataclass(frozen=True)
class Kernel:
    """One way to multiply whole numbers."""

    name: str
    """onednn: signed weights and unsigned input by the instructions VNNI or AMX, the fastest at any number of rows;
    fbgemm: x86 without them; plain: everything else (arm64), where weights stay mapped as they lie in the file"""
    levels: int
    """of the input, on each side of zero: 127, or 63 where pairs of products are added up in 16 bits"""
    stored: torch.dtype
    """how rounded input is handed over"""
    arrange: Callable[[Tensor, Tensor], Any]
    """weights int8 (N, K) and scales float32 (N,) -> what `multiply` reads"""
    multiply: Callable[[Tensor, Any, Tensor], Tensor]
    """rounded input (M, K) in `stored`, arranged weights, scales float32 (N,) -> float32 (M, N)"""


@dataclass(frozen=True)
class Rounded:
    """Input that is rounded for one kernel."""

    steps_MK: Tensor
    scale_M1: Tensor
    kernel: Kernel
    fine: bool
    """whether there are 2 M rows of steps: the second half is what the first leaves over"""


def rounded(x_MK: Tensor, *, fine: bool, kernel: Kernel) -> Rounded:
    """float32 (M, K) -> whole numbers; `fine` keeps 16 bits: what 8 bits leave over is rounded again."""
    at_once = max(1, _ROUNDED_AT_ONCE // x_MK.shape[1])
    stored = torch.int8 if kernel.stored == torch.uint8 else kernel.stored
    if len(x_MK) <= at_once:
        scale_M1, parts = _whole(x_MK, kernel.levels, fine)
        steps = (torch.cat(parts) if fine else parts[0]).to(stored)
    else:
        halves = torch.empty(2 if fine else 1, *x_MK.shape, dtype=stored)
        scale_M1 = torch.empty(len(x_MK), 1)
        for start in range(0, len(x_MK), at_once):
            place = slice(start, start + at_once)
            scale_M1[place], parts = _whole(x_MK[place], kernel.levels, fine)
            for half, part in zip(halves, parts, strict=True):
                half[place] = part
        steps = halves.flatten(0, 1)
    if kernel.stored == torch.uint8:
        # 128 stands for zero. Float to int8 and around by one addition is faster than float to uint8.
        steps = steps.view(torch.uint8).add_(128)
    return Rounded(steps, scale_M1, kernel, fine)


def _whole(x_MK: Tensor, levels: int, fine: bool) -> tuple[Tensor, list[Tensor]]:
    """Scales (M, 1) and whole numbers as float32 (M, K), for `fine` those of what is left over as well."""
    scale_M1 = x_MK.abs().amax(-1, keepdim=True).clamp_min_(_LEAST).div_(levels)
    steps_MK = x_MK / scale_M1
    if not fine:
        return scale_M1, [steps_MK.round_()]
    whole_MK = steps_MK.round()
    # What is left is at most half a step.
    return scale_M1, [whole_MK, steps_MK.sub_(whole_MK).mul_(2 * levels).round_()]


class LastRounded:
    """The rounded form of the input that was seen last: q, k and v, or gate and up, are given the same one in turn."""

    def __init__(self) -> None:
        self._kept: tuple[weakref.ref[Tensor], int, Rounded] | None = None

    def __call__(self, x: Tensor, product: Int8Product) -> Rounded:
        """`rounded` of x (..., K), of any type, for this product; kept until another comes, x changes or goes."""
        # Read once: another thread may put its own there.
        last = self._kept
        if last is not None and not x.is_inference():
            seen, version, kept = last
            if seen() is x and version == x._version and (kept.kernel, kept.fine) == (product.kernel, product.fine):
                return kept
        made = rounded(x.float().flatten(0, -2), fine=product.fine, kernel=product.kernel)
        if not x.is_inference():
            # Tensors of inference mode do not count their changes.
            self._kept = weakref.ref(x, self._forget), x._version, made
        return made

    def _forget(self, _: object) -> None:
        self._kept = None


class Int8Product:
    """int8 weights (N, K) with a scale for each row, ready to be multiplied.

    `fine` rounds the input to 16 bits instead of 8.
    """

    def __init__(self, values_NK: Tensor, scale_N: Tensor, *, fine: bool = False) -> None:
        self.kernel, self.fine = kernel(), fine
        self._scale_N = scale_N.float()
        self._held: Any = self.kernel.arrange(values_NK, self._scale_N)

    def __call__(self, x_MK: Tensor) -> Tensor:
        """float32 (M, K) to float32 (M, N)."""
        return self.of(rounded(x_MK, fine=self.fine, kernel=self.kernel))

    def of(self, x: Rounded) -> Tensor:
        """The same of input that was rounded for this product's kernel, as fine or not."""
        assert x.kernel == self.kernel
        out_MN = self.kernel.multiply(x.steps_MK, self._held, self._scale_N)
        if x.fine:
            out_MN, left_MN = out_MN.chunk(2)
            out_MN.add_(left_MN, alpha=1 / (2 * self.kernel.levels))
        return out_MN.mul_(x.scale_M1)


@cache
def kernel() -> Kernel:
    """The fastest kernel that is exact on this processor. They are tried out, once."""
    return next(exact_kernels())


def exact_kernels() -> Iterator[Kernel]:
    """Kernels that are exact on this processor, the fastest first."""
    if has_vnni() and _exact(ONEDNN):
        yield ONEDNN
    if packed := next(filter(_exact, (fbgemm(127), fbgemm(63))), None):
        yield packed
    yield PLAIN


def has_vnni() -> bool:
    """Whether the CPU adds up products of bytes in 32 bits; without that oneDNN is inexact (x86) or slow (arm64)."""
    features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(features.get(name)) for name in ("avx512_vnni", "avx_vnni"))


def fbgemm(levels: int) -> Kernel:
    """FBGEMM's packed product, with so many levels."""

    def multiply(steps_MK: Tensor, held: Any, scale_N: Tensor) -> Tensor:
        # The numbers are stored as 0..255 around the middle `levels` + 1.
        product: Any = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        out: Tensor = product(steps_MK, 1.0, levels + 1, held)
        return out

    return Kernel("fbgemm", levels, torch.float32, _arrange_fbgemm, multiply)


def _arrange_fbgemm(values_NK: Tensor, scale_N: Tensor) -> Any:
    zeros = torch.zeros(len(values_NK), dtype=torch.int64)
    with warnings.catch_warnings():
        # torch announces that its quantized tensors will go; they only carry the numbers into the product here.
        warnings.simplefilter("ignore")
        carrier = torch._make_per_channel_quantized_tensor(values_NK, scale_N.double(), zeros, 0)
        return torch.ops.quantized.linear_prepack(carrier, None)


def _arrange_onednn(values_NK: Tensor, scale_N: Tensor) -> Any:
    return torch.ops.onednn.qlinear_prepack(values_NK, None), torch.zeros(len(values_NK), dtype=torch.int32)


def _multiply_onednn(steps_MK: Tensor, held: Any, scale_N: Tensor) -> Tensor:
    product: Any = torch.ops.onednn.qlinear_pointwise
    weights, middles_N = held
    out: Tensor = product(
        steps_MK, 1.0, 128, weights, scale_N, middles_N, None, 1.0, 0, torch.float32, "none", [], ""
    )  # fmt: skip
    return out


def _multiply_plain(steps_MK: Tensor, held: Tensor, scale_N: Tensor) -> Tensor:
    return torch._int_mm(steps_MK, held.t()).float().mul_(scale_N)


ONEDNN = Kernel("onednn", 127, torch.uint8, _arrange_onednn, _multiply_onednn)
PLAIN = Kernel("plain", 127, torch.int8, lambda values_NK, scale_N: values_NK, _multiply_plain)


def _exact(tried: Kernel) -> bool:
    """Whether products of the largest numbers come out exactly: a sum in 16 bits would overflow or be clamped."""
    values = torch.tensor([127, -127], dtype=torch.int8).repeat_interleave(16)[:, None].repeat(1, 64)
    x = torch.tensor([[1.0], [-1.0]]).repeat(1, 64)
    try:
        scale_N = torch.ones(len(values))
        steps = rounded(x, fine=False, kernel=tried)
        found = tried.multiply(steps.steps_MK, tried.arrange(values, scale_N), scale_N)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return torch.equal(found, x.mul(tried.levels) @ values.float().T)
