"""Building modules that get their weights from somewhere else: without memory, and without drawing random numbers.

torch.device("meta") alone costs no memory either, but the first random filling of a tensor without memory imports
torch's compiler and sympy: more than a second of a start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_FILLINGS = frozenset({"normal_", "uniform_", "orthogonal_", "xavier_uniform_", "mul", "mul_"})
"""By name, of tensors and of torch.nn.init, whatever calls them; a start is scaled by a number, if at all."""
_RANDOM = (torch.rand, torch.randn)


class _NoFilling(TorchFunctionMode):
    """Leaves tensors without memory as they are where they would be filled."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = {} if kwargs is None else dict(kwargs)
        if func in _RANDOM:
            given.pop("generator", None)
            return torch.empty(*args, **given)
        if getattr(func, "__name__", "") in _FILLINGS:
            tensor = args[0] if args else given.get("tensor")
            if (
                isinstance(tensor, Tensor)
                and tensor.is_meta
                and not any(isinstance(other, Tensor) for other in args[1:])
            ):
                return tensor
        return func(*args, **given)


@contextmanager
def blank() -> Iterator[None]:
    """What is built inside has tensors on the meta device, and nothing is drawn for them."""
    with torch.device("meta"), _NoFilling():
        yield
