"""What this machine allows at most: bytes read a second, and multiplications of large matrices a second.

Shared machines drift by a factor of two within minutes, so the limits are measured before and after what they are
compared with, and the mean of both counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

KINDS = ("float32", "bfloat16", "int8")
"""Types of numbers whose products are measured."""
BUFFER = 512 << 20
"""Bytes that are streamed: well above the caches of any machine of this size, so that all come from memory."""
SIDE = 2048
"""Rows and columns of the matrices on a CPU: large enough that their products wait for arithmetic, not for memory."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """One measurement, or the mean of several."""

    bytes_per_s: float
    """Read bandwidth of the memory that the model lies in, all threads reading."""
    flops_per_s: Mapping[str, float]
    """Type of numbers -> multiplications and additions a second in a large product; a type without one is left out."""

    def rate(self, kind: str) -> float | None:
        """FLOP/s of a type of numbers, float16 as bfloat16; None where it was not measured."""
        return self.flops_per_s.get("bfloat16" if kind == "float16" else kind)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: `bandwidth_gb_s` in 1e9 bytes/s and `gemm_gflop_s` in 1e9 operations/s."""
        gemm = {kind: round(rate / 1e9, 1) for kind, rate in self.flops_per_s.items()}
        return {"bandwidth_gb_s": round(self.bytes_per_s / 1e9, 2), "gemm_gflop_s": gemm}


def measure_limits(device: str = "cpu", buffer: int = BUFFER, side: int = SIDE, repeats: int = 3) -> Limits:
    """Measure now; takes about a second on a CPU.

    Bandwidth is the best of `repeats` sums over `buffer` bytes of int32 (its additions cost less than the reading);
    products are the best of `repeats` of square matrices of `side` rows. The best, not the mean: it is a limit.

    Args:
        device: "cpu", or a device of torch with memory of its own.
        buffer: bytes, at least 4.
        side: rows, at least 32.
    """
    import torch

    place = torch.device(device)
    if place.type != "cpu":
        buffer, side = max(buffer, 4 << 30), max(side, 8192)
    numbers = torch.ones(buffer // 4, dtype=torch.int32, device=place)
    bandwidth = numbers.nbytes / _best(partial(numbers.sum, dtype=torch.int32), place, repeats)
    del numbers
    rates = {}
    for kind in KINDS:
        product = _product(kind, side, place)
        if product is not None:
            rates[kind] = 2 * side**3 / _best(product, place, repeats)
    return Limits(bytes_per_s=bandwidth, flops_per_s=rates)


def mean(samples: Sequence[Limits]) -> Limits:
    """The mean of measurements (at least one) of the same machine."""
    kinds = [kind for kind in KINDS if all(kind in one.flops_per_s for one in samples)]
    return Limits(
        bytes_per_s=fmean(one.bytes_per_s for one in samples),
        flops_per_s={kind: fmean(one.flops_per_s[kind] for one in samples) for kind in kinds},
    )


def _product(kind: str, side: int, device: torch.device) -> Callable[[], Any] | None:
    """A product of two matrices of this type; None where this build of torch has none."""
    import torch

    if kind == "int8":
        left, right = (torch.randint(-127, 128, (side, side), dtype=torch.int8, device=device) for _ in range(2))
        multiply = getattr(torch, "_int_mm", None)
        if multiply is None:
            return None

        def product() -> Any:
            return multiply(left, right)

    else:
        a, b = (torch.randn(side, side, device=device).to(getattr(torch, kind)) for _ in range(2))

        def product() -> Any:
            return a @ b

    try:
        product()
    except (RuntimeError, NotImplementedError):
        # Not every device multiplies every type; what there is none of cannot limit anything.
        return None
    return product


def _best(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    call()
    seconds = []
    for _ in range(max(repeats, 1)):
        settle(device)
        start = time.perf_counter()
        call()
        settle(device)
        seconds.append(time.perf_counter() - start)
    return max(min(seconds), 1e-9)


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was given; a CPU always has."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
