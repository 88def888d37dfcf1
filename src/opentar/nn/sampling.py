"""Choosing from logits: guidance, top-k, nucleus, and draws that repeat on every device. Pure functions.

Randomness comes from the CPU and is a row's own, so that a picture depends on its own seed alone: not on the device,
and not on which other pictures share its batch. ``sample`` and ``noise`` read one generator a row; the noise of
``gumbel_sample`` is fixed for each (seed, position), so it does not depend on the order of the draws either.

Legend: B rows, V entries to choose from, C candidates that are looked at instead of all V.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opentar.core.errors import ConfigError, ModelError

_SEED_LIMIT = 2**63
_CANDIDATES = 1024
"""A nucleus is looked for among so many of the likeliest first, or a sixteenth of all: sorting 65,536 numbers takes ten
times as long."""


def guide(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance, uncond + scale (cond - uncond); scale 1 returns `cond` itself."""
    return cond if scale == 1 else uncond + scale * (cond - uncond)


def only_likely(logits_V: Tensor, entry: int, share: float) -> Tensor:
    """Logits (V,) with `entry` alone where it is at least `share` times as likely as the likeliest, else as given.

    Whoever draws from them takes a guess that the model itself might have made, and draws where it would not have.
    NaN and infinity are handed on, for the draw to refuse.
    """
    likely = share == 0 or bool(logits_V[entry] >= logits_V.max() + math.log(share))
    if not likely or not bool(torch.isfinite(logits_V).all()):
        return logits_V
    alone_V = torch.full_like(logits_V, float("-inf"))
    alone_V[entry] = logits_V[entry]
    return alone_V


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
        return _likeliest(logits)
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


def gumbel_sample(
    logits_BV: Tensor, temperature: float, top_k: int, top_p: float, seeds: Sequence[int], positions: Sequence[int]
) -> Tensor:
    """Draw one index a row with noise that is fixed for each (seed, position).

    The index is the argmax of the kept log-probabilities plus Gumbel noise, which follows the same distribution as
    ``sample``. The noise of a position does not depend on what was drawn before it, so positions may be drawn in any
    order, again, or several at once.

    Args:
        logits_BV: float.
        temperature: 0 takes the likeliest and uses no noise.
        top_k: how many of the likeliest to keep; 0 keeps all.
        top_p: nucleus mass; 1 keeps all.
        seeds: one a row, from 0 to 2**63 - 1.
        positions: one a row, from 0.

    Returns:
        int64 (B,) on the device of `logits_BV`.

    Raises:
        ConfigError: a setting is out of its range.
        ModelError: NaN or infinity in `logits_BV`.
    """
    check_sampling(temperature, top_k, top_p)
    assert len(seeds) == len(positions) == len(logits_BV), (len(seeds), len(positions), len(logits_BV))
    if temperature == 0:
        return _likeliest(logits_BV)
    scores_BV = logits_BV.float() / max(temperature, 1e-5)
    _check_finite(scores_BV.amax(-1))
    size = scores_BV.shape[1]
    limit = top_k if top_k > 0 else min(_CANDIDATES, size // 16)
    # Few candidates pay only among many entries; without a filter all entries are candidates.
    if 4 * limit > size or size < 1024 or (top_k == 0 and top_p == 1):
        return _race(top_k_top_p(scores_BV, top_k, top_p), None, size, seeds, positions).to(logits_BV.device)
    kept_BC, index_BC, clear_B = _candidates(scores_BV, limit, top_k > 0, top_p)
    chosen_B = _race(kept_BC, index_BC, size, seeds, positions)
    for row in (~clear_B).nonzero()[:, 0].tolist():
        whole_1V = top_k_top_p(scores_BV[row : row + 1], top_k, top_p)
        chosen_B[row] = _race(whole_1V, None, size, seeds[row : row + 1], positions[row : row + 1])[0]
    return chosen_B.to(logits_BV.device)


def gumbel_noise(seeds: Sequence[int], positions: Sequence[int], size: int) -> Tensor:
    """Standard Gumbel noise float64 (B, size) on the CPU; row i is that of (seeds[i], positions[i])."""
    words = [_words(seed, position, size) for seed, position in zip(seeds, positions, strict=True)]
    return torch.from_numpy(np.stack([-_log_wait(row) for row in words]))


def _words(seed: int, position: int, size: int) -> NDArray[np.uint32]:
    """`size` random words of (seed, position).

    Philox encrypts a counter with a key. Seed and position are the key as they are: no two pairs share a sequence, and
    none is a later piece of another's (torch's CPU generator keeps 32 bits of its seed only, so pairs would collide).
    """
    source = np.random.Philox(key=np.array([seed, position], dtype=np.uint64))
    return source.random_raw((size + 1) // 2).view(np.uint32)[:size]


def _log_wait(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Logarithm of an exponential waiting time: Gumbel noise with the other sign."""
    # In float64, the last bit of a processor's logarithm cannot change a choice. Half a step keeps both ends finite.
    wait = words.astype(np.float64)
    wait += 0.5
    wait *= -(2.0**-32)
    np.log1p(wait, out=wait)
    np.negative(wait, out=wait)
    return np.log(wait, out=wait)


def _race(
    scores_BC: Tensor, index_BC: Tensor | None, size: int, seeds: Sequence[int], positions: Sequence[int]
) -> Tensor:
    """Chosen entries int64 (B,) on the CPU; `index_BC` says which of `size` entries the scores are of, None: of all."""
    scores = scores_BC.cpu().numpy()
    index = None if index_BC is None else index_BC.cpu().numpy()
    chosen = []
    for row, (seed, position) in enumerate(zip(seeds, positions, strict=True)):
        words = _words(seed, position, size)
        wait = _log_wait(words if index is None else words[index[row]])
        best = int(np.subtract(scores[row], wait, out=wait).argmax())
        chosen.append(best if index is None else int(index[row, best]))
    return torch.tensor(chosen)


def _candidates(scores_BV: Tensor, limit: int, only_these: bool, top_p: float) -> tuple[Tensor, Tensor, Tensor]:
    """What ``top_k_top_p`` keeps, without sorting everything: (scores (B, limit), their indices, clear (B,)).

    Scores outside are -inf. `only_these` says that `limit` is top-k itself. A row is not clear where the nucleus is
    wider than `limit` or where ties straddle an edge.
    """
    values, index = scores_BV.topk(limit + 1, dim=-1)
    kept, index, following = values[:, :-1], index[:, :-1], values[:, 1:]
    total_B1 = (kept if only_these else scores_BV).logsumexp(-1, keepdim=True)
    sums = (kept - total_B1).exp().cumsum(-1)
    # The last kept entry is the first that takes the sum over `top_p`, or, of top-k, the last of all.
    last = (sums <= top_p).sum(-1, keepdim=True) if top_p < 1 else torch.full_like(index[:, :1], limit - 1)
    clear_B1 = (kept[:, -1:] > following[:, -1:]) if only_these else last < limit
    last = last.clamp(max=limit - 1)
    clear_B1 = clear_B1 & (kept.gather(-1, last) > following.gather(-1, last))
    outside = torch.arange(limit, device=kept.device) > last
    return kept.masked_fill(outside, float("-inf")), index, clear_B1[:, 0]


def _likeliest(logits: Tensor) -> Tensor:
    index_B = logits.float().argmax(-1)
    # NaN counts as the largest.
    _check_finite(logits.gather(-1, index_B[:, None]))
    return index_B


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
    return [torch.Generator("cpu").manual_seed(one) for one in seed_list(seed, count)]


def seed_list(seed: int | Sequence[int], count: int) -> list[int]:
    """One seed a picture: `count` seeds as they are, or seed, seed + 1, ... where one is given.

    Raises:
        ConfigError: a seed is not a whole number from 0 to 2**63 - 1, or their number is not `count`.
    """
    seeds = [seed + index for index in range(count)] if isinstance(seed, int) else list(seed)
    if len(seeds) != count:
        raise ConfigError(f"{len(seeds)} seeds for {count} pictures; give one seed, or one for each picture")
    for one in seeds:
        if not isinstance(one, int) or isinstance(one, bool) or not 0 <= one < _SEED_LIMIT:
            raise ConfigError(f"seed {one} is not a whole number from 0 to {_SEED_LIMIT - 1}")
    return seeds


def noise(sources: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Standard normal float32 (len(sources), *shape) on the CPU, row i from source i."""
    return torch.stack([torch.randn(tuple(shape), generator=source) for source in sources])
