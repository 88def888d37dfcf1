"""Choosing from logits: guidance, top-k, nucleus, and draws that repeat on every device. Pure functions.

Draws read their randomness from seeded CPU generators, one a row, so that a picture depends on its own seed alone:
not on the device, and not on which other pictures share its batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from opentar.core.errors import ConfigError, ModelError

_SEED_LIMIT = 2**63


def guide(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance, uncond + scale (cond - uncond); scale 1 returns `cond` itself."""
    return cond if scale == 1 else uncond + scale * (cond - uncond)


def check_sampling(temperature: float, top_k: int, top_p: float) -> None:
    """Raise ConfigError for settings outside temperature >= 0, top_k >= 0 (0 = off), 0 <= top_p <= 1 (1 = off)."""
    if not (temperature >= 0 and temperature < float("inf")):
        raise ConfigError(f"temperature is {temperature}; give 0 (always the likeliest) or a positive number")
    if top_k < 0:
        raise ConfigError(f"top_k is {top_k}; give 0 (off) or how many of the likeliest to keep")
    if not 0 <= top_p <= 1:
        raise ConfigError(f"top_p is {top_p}; give a number from 0 to 1 (1 is off)")


def top_k_top_p(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Logits (..., V) with everything outside the top-k and the nucleus at -inf; the input is left as it is.

    Everything tied with the k-th is kept. The nucleus keeps the most likely entries up to and including the first
    that takes their sum over `top_p`, so at least one entry always stays.
    """
    if 0 < top_k < logits.shape[-1]:
        kth = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, float("-inf"))
    if top_p < 1:
        # Not a stable sort: where ties straddle the edge, the published code keeps the ones this sort puts first.
        ordered, order = logits.sort(dim=-1, descending=True)
        over = ordered.float().softmax(-1).cumsum(-1) > top_p
        # Shifted by one place: the entry that crosses the threshold still belongs to the nucleus.
        outside = torch.cat([torch.zeros_like(over[..., :1]), over[..., :-1]], dim=-1)
        logits = logits.masked_fill(outside.scatter(-1, order, outside), float("-inf"))
    return logits


def probabilities(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Float32 probabilities (..., V) after temperature, then top-k, then nucleus.

    Temperature 0 stands for 1e-5, as in the published code: all on the likeliest entry, shared where several tie.
    """
    check_sampling(temperature, top_k, top_p)
    return top_k_top_p(logits.float() / max(temperature, 1e-5), top_k, top_p).softmax(-1)


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Draw one index a row.

    Args:
        logits: float (B, V).
        temperature: 0 takes the likeliest and uses no randomness.
        top_k: how many of the likeliest to keep; 0 keeps all.
        top_p: nucleus mass; 1 keeps all.
        generator: CPU generator(s): one for all rows in turn, or one a row.

    Returns:
        int64 (B,) on the device of `logits`.

    Raises:
        ConfigError: a setting is out of its range.
        ModelError: NaN or infinity in `logits`.
    """
    check_sampling(temperature, top_k, top_p)
    if temperature == 0:
        index_B = logits.float().argmax(-1)
        # NaN counts as the largest.
        _check_finite(logits.gather(-1, index_B[:, None]))
        return index_B
    # The inverse of the distribution function on the CPU: torch.multinomial draws differently on each device.
    sums_BV = probabilities(logits, temperature, top_k, top_p).cpu().double().cumsum(-1)
    _check_finite(sums_BV[:, -1:])
    if generator is None or isinstance(generator, torch.Generator):
        draws_B1 = torch.rand(len(sums_BV), 1, generator=generator, dtype=torch.float64)
    else:
        assert len(generator) == len(sums_BV), (len(generator), len(sums_BV))
        draws_B1 = torch.stack([torch.rand(1, generator=own, dtype=torch.float64) for own in generator])
    index_B1 = torch.searchsorted(sums_BV, draws_B1 * sums_BV[:, -1:], right=True)
    # A draw that rounds up to the whole sum must not land behind the last entry with any probability.
    last_B1 = (sums_BV < sums_BV[:, -1:]).sum(-1, keepdim=True)
    return torch.minimum(index_B1, last_B1).squeeze(1).to(logits.device)


def _check_finite(numbers: Tensor) -> None:
    if not bool(torch.isfinite(numbers).all()):
        raise ModelError(
            "the model computed NaN or infinity: its weights or its config are damaged, or numbers were too large for "
            "their type; load it in float32"
        )


def generators(seed: int | Sequence[int], count: int) -> list[torch.Generator]:
    """One CPU generator a picture: from `count` seeds, or from seed, seed + 1, ... where one is given.

    Raises:
        ConfigError: a seed is not a whole number from 0 to 2**63 - 1, or their number is not `count`.
    """
    seeds = [seed + index for index in range(count)] if isinstance(seed, int) else list(seed)
    if len(seeds) != count:
        raise ConfigError(f"{len(seeds)} seeds for {count} pictures; give one seed, or one for each picture")
    made = []
    for one in seeds:
        if not isinstance(one, int) or isinstance(one, bool) or not 0 <= one < _SEED_LIMIT:
            raise ConfigError(f"seed {one} is not a whole number from 0 to {_SEED_LIMIT - 1}")
        made.append(torch.Generator("cpu").manual_seed(one))
    return made


def noise(sources: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Standard normal float32 (len(sources), *shape) on the CPU, row i from source i."""
    return torch.stack([torch.randn(tuple(shape), generator=source) for source in sources])
