"""FLOPs of what has no simple formula (convolutions, the diffusion transformers), counted while it runs once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def count_flops(call: Callable[[], Any], part: str = "") -> tuple[float, float]:
    """Run `call` once: its FLOPs in all, and those below the module of class `part` (0 without one).

    Counted are products, convolutions and attention of torch, each multiplication and addition as one.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        flops: int = sdpa_flop_count(query, key, value)
        return flops

    # The counter knows the attention of GPUs only.
    own = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=own) as counter:
        call()
    below: float = sum(counter.get_flop_counts().get(part, {}).values())
    return float(counter.get_total_flops()), float(below)
