"""SANA's autoencoder over large pictures in strips, without seams: the same picture with a fraction of the memory.

Cutting latents into tiles, as diffusers does, changes the picture: the deep levels attend to all of it, and overlaps
have to be blended. The two last levels only have 3x3 convolutions and norms of single pixels. They alone are computed
strip by strip, each with as many rows around it as its convolutions reach, which are cut off again; and they alone
need much memory (0.5 GB a tensor at 1024 px in float32).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

STRIP_PIXELS = 1 << 18
"""Pixels of one strip; a picture of no more (512 x 512) is computed as a whole."""
_LEVELS = 2
"""Levels that are computed in strips. One more would halve the memory of little and double the rows around a strip."""


def decode_latents(vae: Any, latents_BChw: Tensor, strip_pixels: int = STRIP_PIXELS) -> Tensor:
    """What `vae.decode` gives, (B, 3, H, W) in the type of the weights, up to the order of sums.

    Args:
        vae: diffusers' AutoencoderDC.
        latents_BChw: divided by its scaling factor, in its type.
        strip_pixels: of one picture at a time.
    """
    levels = _local_levels(vae.decoder)
    factor = 2 ** (len(vae.decoder.up_blocks) - 1)
    pixels = latents_BChw.shape[2] * latents_BChw.shape[3] * factor**2
    if pixels <= strip_pixels or not levels:
        return vae.decode(latents_BChw, return_dict=False)[0]
    return torch.cat([_decode_one(vae.decoder, one, levels, strip_pixels) for one in latents_BChw.split(1)])


def _local_levels(decoder: Any) -> int:
    """How many of the last levels look at nothing but near pixels, at most _LEVELS."""
    for count, level in enumerate(decoder.up_blocks[:_LEVELS]):
        kinds = {(type(block).__name__, getattr(block, "norm_type", "rms_norm")) for block in level}
        # In other norms or blocks all pixels may meet. The level of full size may be empty.
        if not kinds <= {("ResBlock", "rms_norm"), ("DCUpBlock2d", "rms_norm")} or not len(level):
            return count
    return min(_LEVELS, len(decoder.up_blocks) - 1)


def _decode_one(decoder: Any, latents_1Chw: Tensor, levels: int, strip_pixels: int) -> Tensor:
    x = decoder.conv_in(latents_1Chw)
    if decoder.in_shortcut:
        x = x + latents_1Chw.repeat_interleave(decoder.in_shortcut_repeats, dim=1)
    for level in reversed(decoder.up_blocks[levels:]):
        x = level(x)
    factor, halo = 2**levels, _halo(decoder, levels)
    rows = max(1, strip_pixels // (x.shape[3] * factor * factor))
    out: Tensor | None = None
    for top in range(0, x.shape[2], rows):
        bottom = min(top + rows, x.shape[2])
        first = max(top - halo, 0)
        strip = x[:, :, first : bottom + halo].contiguous(memory_format=torch.channels_last)
        for level in reversed(decoder.up_blocks[:levels]):
            strip = level(strip)
        strip = decoder.norm_out(strip.movedim(1, -1)).movedim(-1, 1)
        strip = decoder.conv_out(decoder.conv_act(strip))
        if out is None:
            out = strip.new_empty(1, strip.shape[1], x.shape[2] * factor, strip.shape[3])
        wanted = (bottom - top) * factor
        start = (top - first) * factor
        out[:, :, top * factor : bottom * factor] = strip[:, :, start : start + wanted]
    assert out is not None
    return out


def _halo(decoder: Any, levels: int) -> int:
    """Rows around a strip that its pixels depend on, before the last `levels` levels."""
    # Of the last convolution.
    reach = 1
    for level in decoder.up_blocks[:levels]:
        reach += 2 * sum(type(block).__name__ == "ResBlock" for block in level)
        # Half as many rows before the doubling, and one for its own convolution.
        reach = (reach + 1) // 2 + 1
    return reach
