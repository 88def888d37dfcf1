"""The autoregressive de-tokenizer: features as a prefix, then the codes of a picture one after the other.

The arithmetic is that of the published ar_dtok files (LlamaGen-style): RMSNorm before attention and MLP, SwiGLU,
learned absolute positions added once, no rotation. The prefix holds T projected features at positions 0..T-1, code i
sits at position T + i (shorter prefixes use the first rows of the table) and is predicted by the position before it.
Without a condition the features are zero, so the prefix is the projection's bias.

Legend: B batch, N features, D feature width, M codes given, L codes of a picture, P positions, W model width, V codes
in the codebook, H heads, E head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opentar.core.bounds import EPS, LAYERS, SIZE, within
from opentar.core.config import from_dict, to_dict
from opentar.core.errors import ConfigError, ModelError, shown
from opentar.core.folder import assemble, atomic_folder, load_packed, load_part, save_part
from opentar.nn.half import halve
from opentar.nn.quantized import swap
from opentar.nn.sampling import check_sampling
from opentar.tokens_to_image.ar_blocks import ARBlock, Cache, Places, RMSNorm
from opentar.tokens_to_image.ar_decoding import sample_codes
from opentar.tokens_to_image.ar_session import Computes, TorchSession
from opentar.tokens_to_image.detokenizer import (
    Callback,
    check_guidance,
    grid_side,
    read_settings,
    write_settings,
)
from opentar.tokens_to_image.passes import ONE, PassCounts, Passes
from opentar.tokens_to_image.vqgan import VQGAN, LatentVQ

if TYPE_CHECKING:
    from opentar.core.storage import LoadDtype


@dataclass(frozen=True, kw_only=True)
class ARConfig:
    """Shape of an :class:`ARTransformer` and how it samples; the defaults are the nano model's."""

    feature_size: int = 256
    """Width of the features it is conditioned on."""
    prefix: int = 144
    """Longest prefix of features."""
    codes: int = 256
    """Codes of one picture, a square number."""
    codebook_size: int = 2048
    """Entries of the picture codebook."""
    hidden_size: int = 256
    """Width of the tokens."""
    layers: int = 4
    """Transformer blocks."""
    heads: int = 4
    """Attention heads."""
    mlp_size: int = 768
    """Hidden width of the SwiGLU."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMSNorm."""
    attention: Literal["matmul", "sdpa"] = "matmul"
    """Plain softmax(QK)V (trains faster on a CPU), or torch's fused kernel, for whole sequences; single steps are
    always plain."""
    guidance: float = 2.0
    """Guidance when the caller names none."""
    temperature: float = 0.8
    """Sampling temperature when the caller names none."""
    top_k: int = 0
    """Codes kept when the caller names no number; 0 keeps all."""
    top_p: float = 0.9
    """Nucleus when the caller names none; 1 is off."""

    def __post_init__(self) -> None:
        names = ("feature_size", "prefix", "codes", "codebook_size", "hidden_size", "heads", "mlp_size")
        within(self, SIZE, *names)
        within(self, LAYERS, "layers")
        within(self, EPS, "norm_eps")
        if self.hidden_size % self.heads:
            raise ConfigError(f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}")
        if math.isqrt(self.codes) ** 2 != self.codes:
            raise ConfigError(f"codes {self.codes} is not a square number; a picture is a square grid of codes")
        check_sampling(self.temperature, self.top_k, self.top_p)
        check_guidance(self.guidance)

    @property
    def positions(self) -> int:
        """Rows of the position table: the last code is never an input."""
        return self.prefix + self.codes - 1


class ARTransformer(nn.Module):
    """Next code of a picture, given features and the codes so far."""

    def __init__(self, config: ARConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.positions = nn.Parameter(torch.randn(config.positions, width) * 0.02)
        self.features_in = nn.Linear(config.feature_size, width)
        self.codes_in = nn.Embedding(config.codebook_size, width)
        self.blocks = nn.ModuleList([ARBlock(config, index) for index in range(config.layers)])
        self.norm = RMSNorm(width, config.norm_eps)
        self.logits = nn.Linear(width, config.codebook_size, bias=False)
        for name, weight in self.named_parameters():
            if name.endswith(("attention_out.weight", "mlp_down.weight")):
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * config.layers))
            elif weight.ndim == 2 and not name.startswith("features_in"):
                nn.init.normal_(weight, std=0.02)

    def prefix(self, features_BND: Tensor, dropped_B: Tensor | None = None) -> Tensor:
        """Projected features (B, N, W); where `dropped_B` is True those of zero features, "no condition".

        Raises:
            ModelError: features of another width, not a square grid, or more than the prefix holds.
        """
        side = grid_side(features_BND, self.config.feature_size)
        if side * side > self.config.prefix:
            raise ModelError(f"{side * side} features a picture; this de-tokenizer takes at most {self.config.prefix}")
        if dropped_B is not None:
            features_BND = features_BND.masked_fill(dropped_B.view(-1, 1, 1), 0.0)
        return self.features_in(features_BND)

    def forward(self, features_BND: Tensor, codes_BM: Tensor, dropped_B: Tensor | None = None) -> Tensor:
        """Logits (B, M + 1, V) of codes 0..M, given codes 0..M-1 (int64, B x M, M below `codes`)."""
        prefix_BNW = self.prefix(features_BND, dropped_B)
        inputs_BPW = torch.cat([prefix_BNW, self.codes_in(codes_BM).to(prefix_BNW)], dim=1)
        x_BPW = self._run(inputs_BPW, None)
        return self.logits(self.norm(x_BPW[:, features_BND.shape[1] - 1 :]))

    def begin(self, rows: int, slots: int) -> TorchSession:
        """A drawing with room for so many rows and slots."""
        return TorchSession(self, rows, slots)

    def step(self, inputs_RPW: Tensor, cache: Cache) -> Tensor:
        """Logits (R, V) after the last of the new inputs: the whole prefix first, then one embedded code a call."""
        x_R1W = self._run(inputs_RPW, cache)
        cache.filled += inputs_RPW.shape[1]
        return self.logits(self.norm(x_R1W[:, -1]))

    def several(self, inputs_RPW: Tensor, cache: Cache, places: Places) -> Tensor:
        """Logits (R, P, V) after each of several embedded codes that stand at `places`."""
        # What only fills up a shorter row stands behind the table.
        x_RPW = inputs_RPW + self.positions[places.slots_RP.clamp(max=len(self.positions) - 1)]
        for block in self.blocks:
            x_RPW = block(x_RPW, cache, places)
        return self.logits(self.norm(x_RPW))

    def _run(self, x_RPW: Tensor, cache: Cache | None) -> Tensor:
        start = 0 if cache is None else cache.filled
        x_RPW = x_RPW + self.positions[start : start + x_RPW.shape[1]]
        for block in self.blocks[:-1]:
            x_RPW = block(x_RPW, cache)
        # With a cache only the last position is looked at: the last block needs the keys of the others, no more.
        return self.blocks[-1](x_RPW, cache, last=cache is not None)

    def loss(self, features_BND: Tensor, codes_BL: Tensor, *, dropped_B: Tensor | None = None) -> Tensor:
        """Teacher-forced cross-entropy of all L codes, a float32 scalar (ln of the codebook size at the start).

        Args:
            features_BND: features; all pictures of a batch share one grid.
            codes_BL: int64, all codes of each picture.
            dropped_B: bool, True where the picture learns without its condition (about one in ten, for guidance).
        """
        logits_BLV = self(features_BND, codes_BL[:, :-1], dropped_B)
        return F.cross_entropy(logits_BLV.flatten(0, 1).float(), codes_BL.flatten())

    def save(self, folder: str | Path, storage: str = "float32") -> None:
        """Write config.json, model.safetensors and manifest.json into `folder`."""
        save_part(Path(folder), to_dict(self.config), self.state_dict(), storage)

    @classmethod
    def from_folder(cls, folder: str | Path, dtype: LoadDtype = "stored") -> ARTransformer:
        """Read what ``save`` wrote, in eval mode; `dtype` "stored" maps the weights, float16 is as nn/half.py says.

        "packed", for a quantized folder, computes with the weights as they are (nn/quantized.py).
        Raises WeightsError or ConfigError.
        """
        if dtype == "packed":
            config, state, packed = load_packed(Path(folder))
            sizes = from_dict(ARConfig, config, where=f"{folder}/config.json")
            return assemble(lambda: cls(sizes), state, str(folder), lambda made: swap(made, packed, str(folder)))
        config, state = load_part(Path(folder), "stored" if dtype == torch.float16 else dtype)
        sizes = from_dict(ARConfig, config, where=f"{folder}/config.json")
        model = assemble(lambda: cls(sizes), state, str(folder))
        if dtype == torch.float16:
            halve(model, str(folder))
        return model


class ARDetokenizer(nn.Module):
    """AR transformer and the canvas its codes are painted on: features to pixels. See the ``Detokenizer`` protocol."""

    def __init__(self, transformer: ARTransformer, canvas: VQGAN | LatentVQ, computes: Computes | None = None) -> None:
        super().__init__()
        if transformer.config.codebook_size != canvas.codebook_size:
            raise ConfigError(
                f"the transformer has {transformer.config.codebook_size} codes, the canvas knows "
                f"{canvas.codebook_size}; use parts that were trained together"
            )
        self.transformer = transformer
        self.canvas = canvas
        self._computes = computes
        self.eval()

    @property
    def image_size(self) -> int:
        """Side of the pictures."""
        return math.isqrt(self.transformer.config.codes) * self.canvas.factor

    @property
    def feature_size(self) -> int:
        """Width of the features."""
        return self.transformer.config.feature_size

    @torch.no_grad()
    def decode(
        self,
        features_BND: Tensor,
        *,
        seed: int | Sequence[int] = 0,
        guidance: float | None = None,
        steps: int | None = None,
        callback: Callback | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        passes: Passes = ONE,
        counts: PassCounts | None = None,
    ) -> Tensor:
        """Features to pixels float32 (B, 3, H, W) in [0, 1], as the ``Detokenizer`` protocol says.

        The number of steps is the number of codes; ConfigError when another is asked for. `passes` says how many codes
        are drawn at once, and what that cost is added to `counts`; the callback is called after each pass.
        """
        if steps is not None and steps != self.transformer.config.codes:
            raise ConfigError(
                f"steps is {steps}; the AR de-tokenizer draws {self.transformer.config.codes} codes: leave it out"
            )
        features_BND = features_BND.to(self.transformer.positions.dtype)
        codes_BL = sample_codes(
            self.transformer, features_BND, seed=seed, guidance=guidance, temperature=temperature, top_k=top_k,
            top_p=top_p, passes=passes, counts=counts, callback=callback, canvas=self.canvas, computes=self._computes,
        )  # fmt: skip
        return self.canvas.decode_codes(codes_BL)

    def save(self, folder: str | Path, storage: str = "float32") -> None:
        """Write transformer/, canvas/, config.json and manifest.json, all or nothing."""
        with atomic_folder(Path(folder)) as unfinished:
            self.transformer.save(unfinished / "transformer", storage)
            self.canvas.save(unfinished / "canvas", storage)
            write_settings(unfinished, "ar", {"canvas": "vqgan" if isinstance(self.canvas, VQGAN) else "latent"})

    @classmethod
    def from_folder(cls, folder: str | Path, dtype: LoadDtype = "stored", *, openvino: bool = False) -> ARDetokenizer:
        """Read what ``save`` wrote; `dtype` is that of the transformer, the canvas always paints in float32.

        With `openvino` that library runs the transformer, on the CPU. Raises WeightsError, ModelError or ConfigError.
        """
        folder = Path(folder)
        kind = read_settings(folder, "ar").get("canvas")
        if kind not in ("vqgan", "latent"):
            raise ModelError(f"{folder} names the canvas {shown(kind)}; 'vqgan' and 'latent' are known")
        canvas = (VQGAN if kind == "vqgan" else LatentVQ).from_folder(folder / "canvas")
        transformer = ARTransformer.from_folder(folder / "transformer", dtype)
        if not openvino:
            return cls(transformer, canvas)
        from opentar.tokens_to_image.openvino_ar import OpenVINOTransformer

        return cls(transformer, canvas, OpenVINOTransformer(transformer))
