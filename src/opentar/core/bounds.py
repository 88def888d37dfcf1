"""What a config may ask for: no more than its weights hold, and for the rest the ranges named here.

A config.json may come from anybody, and 10^18 layers or a table of 10^6 x 10^6 would take the machine with it. Two
rules are enough:

- Everything with weights is bounded by the weights. A model is built on the meta device while `bounded_by` watches:
  each parameter is counted when it is registered, and the first one too many, or larger than any tensor of the file,
  ends the building. So whatever number of a config makes a model grow, in our classes and in those of transformers and
  diffusers, costs at most about twice the tensors that are there, without memory; what then still differs, the
  comparison of names and shapes finds. What a class computes beside its parameters (a table of positions) it computes
  after registering a parameter of that size.
- Numbers that no tensor follows are checked by `within` in the `__post_init__` of their class.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from opentar.core.errors import ConfigError, WeightsError


class Range(NamedTuple):
    """From `low` to `high`, both included."""

    low: float
    high: float


SIZE = Range(1, 2**31 - 1)
"""Widths, rows and counts that a tensor follows: the weights bound them further."""
LAYERS = Range(1, 1000)
"""Layers, blocks and levels; python lists are made of them before the first parameter. The deepest published: 80."""
SIDE = Range(1, 4096)
"""Side of a picture in pixels, or of a grid in cells. The largest published picture has 1024 px."""
POSITIONS = Range(1, 10_000_000)
"""Longest sequence; nothing is made of this size, but it bounds what one call may ask for."""
EPS = Range(1e-12, 0.1)
"""Epsilon of norms: zero or less divides by zero, more is no norm any longer."""
THETA = Range(1, 1e12)
"""Base of rotary positions; published: 10,000 to 10,000,000."""


def within(config: object, allowed: Range, *names: str, where: str = "") -> None:
    """Raise ConfigError unless each field `names` of `config` (None is left out) lies in `allowed`.

    Lists are looked at entry by entry. `where` stands before the name in the error.
    """
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            # Comparisons with NaN are false, so NaN is refused too.
            if number is not None and not allowed.low <= number <= allowed.high:
                raise ConfigError(
                    f"{where}{name} is {value if len(str(value)) < 80 else number}; "
                    f"it must be at least {allowed.low:g} and at most {allowed.high:.10g}"
                )


@contextmanager
def bounded_by(numbers: Collection[int], where: str) -> Iterator[None]:
    """What this thread builds inside may have about twice the parameters and the numbers of the tensors that are there.

    Args:
        numbers: how many numbers each tensor of the file has.
        where: named in errors.

    Raises:
        WeightsError: the first parameter beyond that or larger than any tensor, or sizes of which nothing can be built.
    """
    from torch.nn.modules.module import register_module_parameter_registration_hook

    # A tied table is stored once and registered up to three times.
    most, most_numbers = 2 * len(numbers) + 8, 2 * sum(numbers) + max(numbers, default=0)
    largest = max(numbers, default=0)
    own, seen, held = threading.get_ident(), 0, 0

    def watch(_: object, name: str, parameter: Any) -> None:
        nonlocal seen, held
        if threading.get_ident() != own or parameter is None:
            return
        seen, held = seen + 1, held + parameter.numel()
        if seen > most or held > most_numbers or parameter.numel() > largest:
            shape = " x ".join(str(side) for side in parameter.shape)
            raise WeightsError(
                f"the config of {where} does not fit its weights: it asks for {name} of {shape} as parameter {seen}, "
                f"and the file has {len(numbers)} tensors of at most {largest} numbers; get the folder again"
            )

    handle = register_module_parameter_registration_hook(watch)
    try:
        yield
    except (RuntimeError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, MemoryError) as error:
        reason = str(error).split("\n")[0][:160]
        raise WeightsError(f"the config of {where} cannot be built ({reason}); get the folder again") from error
    finally:
        handle.remove()
