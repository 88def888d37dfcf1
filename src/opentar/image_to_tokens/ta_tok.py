"""TA-Tok: pixels -> codes -> features. The encoder, the text-aligned quantizer and the feature decoder in one module.

    pixels -> VisionEncoder -> average-pool by scale -> Linear, Tanh -> in_linear -> nearest codebook row -> codes
    codes  -> codebook rows -> FeatureDecoder -> features

Shape suffixes: B batch, H height, W width, N codes of the scale, D feature width, C codebook width, K codebook entries.
Source: arXiv 2506.18898 section 3.1 and the published ta_tok.pth (its names are mapped in published.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from opentar.core.bounds import SIZE, within
from opentar.core.config import from_dict, to_dict
from opentar.core.errors import ConfigError, nearest, shown
from opentar.core.folder import assemble, load_packed, load_part, save_part
from opentar.image_to_tokens.decoder import DecoderConfig, FeatureDecoder
from opentar.image_to_tokens.encoder import VisionConfig, VisionEncoder, pool_grid
from opentar.image_to_tokens.quantizer import Quantized, QuantizerConfig, TextAlignedQuantizer
from opentar.nn.quantized import swap
from opentar.vocab import Scale

if TYPE_CHECKING:
    from opentar.core.storage import LoadDtype
    from opentar.image_to_tokens.openvino_tower import OpenVINOTower

TOWERS = ("torch", "openvino-float32", "openvino-bfloat16", "openvino-int8")
"""What may run the encoder; "torch" runs it in the type that the part is loaded in."""
_BOTTLENECK = ("encode_task_layer.", "in_linear.")


@dataclass(frozen=True, kw_only=True)
class TATokConfig:
    """The three parts; they must fit each other."""

    vision: VisionConfig
    """the encoder"""
    quantizer: QuantizerConfig
    """the codebook"""
    decoder: DecoderConfig
    """the feature decoder"""
    task_size: int | None = None
    """width between the two linear layers before the quantizer; None = the encoder's width, as published"""
    roles: int = 1
    """What a code says may hang on its cell: row + column modulo this number chooses one of so many last linear layers.
    With 2, neighbours on a checkerboard can say a name and a colour, so that an unseen pair is two known codes.
    1 = all cells alike, as published"""

    def __post_init__(self) -> None:
        within(self, SIZE, "task_size", "roles")
        if self.decoder.input_size != self.quantizer.width:
            raise ConfigError(
                f"decoder.input_size {self.decoder.input_size} is not quantizer.width {self.quantizer.width};"
                " make them equal"
            )


@dataclass(frozen=True, kw_only=True)
class TATokOutput:
    """Result of a training step."""

    decoded_BND: torch.Tensor
    """features from the decoder, to be compared with the teacher's"""
    codes_BN: torch.Tensor
    """int64"""
    quantized: Quantized
    """straight-through rows and the two codebook losses (`quantized.loss` is their weighted sum)"""
    pooled_BND: torch.Tensor
    """the encoder's pooled features that were quantized"""


class TATok(nn.Module):
    """Text-aligned tokenizer of pictures."""

    def __init__(self, config: TATokConfig) -> None:
        super().__init__()
        self.config = config
        width = config.vision.hidden_size
        task_size = config.task_size or width
        self.encoder = VisionEncoder(config.vision)
        self.encode_task_layer = nn.Sequential(nn.Linear(width, task_size), nn.Tanh())
        self.in_linear = nn.Linear(task_size, config.quantizer.width * config.roles)
        self.quantizer = TextAlignedQuantizer(config.quantizer)
        self.decoder = FeatureDecoder(config.decoder)
        self._tower: OpenVINOTower | None = None

    @torch.no_grad()
    def encode(self, pixels_B3HW: torch.Tensor, scale: Scale) -> torch.Tensor:
        """Codes of pictures; deterministic, whatever the mode.

        Args:
            pixels_B3HW: (B, 3, image_size, image_size) float in [-1, 1], any B.
            scale: one of the three grids.

        Returns:
            (B, scale.length) int64, codes row by row.

        Raises:
            ConfigError: pixels of another size, or a scale of another base grid.
        """
        return self.encode_scales(pixels_B3HW, (scale,))[0]

    @torch.no_grad()
    def encode_scales(self, pixels_B3HW: torch.Tensor, scales: tuple[Scale, ...]) -> tuple[torch.Tensor, ...]:
        """`encode` at several scales for one pass of the encoder: (B, scale.length) int64 for each of `scales`.

        Raises:
            ConfigError: as `encode`.
        """
        self._check_scales(scales)
        if not len(pixels_B3HW):  # transformers' attention cannot take an empty batch
            return tuple(torch.zeros(0, scale.length, dtype=torch.int64) for scale in scales)
        cells_BND = (self._tower or self.encoder)(pixels_B3HW)
        if isinstance(self.in_linear, nn.Linear):  # a quantized one takes any type
            cells_BND = cells_BND.to(self.in_linear.weight)
        pooled = [pool_grid(cells_BND, scale.pool) for scale in scales]
        return tuple(self.quantizer.nearest(self.bottleneck(feats_BND)) for feats_BND in pooled)

    def decode(self, codes_BN: torch.Tensor) -> torch.Tensor:
        """Features of codes.

        Args:
            codes_BN: (B, N) int64, N any square number.

        Returns:
            (B, N, decoder.output_size) float in the dtype of the weights.

        Raises:
            ConfigError: a code outside the codebook, or N is not a square number.
        """
        return self.decoder(self.quantizer.look_up(codes_BN))

    def features(self, pixels_B3HW: torch.Tensor, scale: Scale) -> torch.Tensor:
        """The encoder's features pooled to the scale, (B, scale.length, vision.hidden_size), with gradients.

        Raises:
            ConfigError: as `encode`.
        """
        self._check_scales((scale,))
        return pool_grid(self.encoder(pixels_B3HW), scale.pool)

    def _check_scales(self, scales: tuple[Scale, ...]) -> None:
        grid = self.config.vision.grid_side
        for scale in scales:
            if scale.side != grid // scale.pool:
                raise ConfigError(
                    f"scale {scale.index} has {scale.side} cells a side; a grid of side {grid} pooled by {scale.pool}"
                    f" has {grid // scale.pool}: take the scale from this model's own Vocab"
                )

    def task_features(self, pooled_BND: torch.Tensor) -> torch.Tensor:
        """Pooled features after Linear and Tanh, the last ones before the bottleneck, (B, N, task_size)."""
        return self.encode_task_layer(pooled_BND)

    def bottleneck(self, pooled_BND: torch.Tensor, roles_N: torch.Tensor | None = None) -> torch.Tensor:
        """Pooled features -> what the quantizer compares with its rows, (B, N, C).

        Args:
            pooled_BND: (B, N, D) float.
            roles_N: (N,) int64, the role of each cell; None stands for square grids, row by row.
        """
        z_BNC = self.in_linear(self.task_features(pooled_BND))
        if self.config.roles == 1:
            return z_BNC
        if roles_N is None:
            roles_N = cell_roles(pooled_BND.shape[1], self.config.roles)
        by_role_BNRC = z_BNC.unflatten(-1, (self.config.roles, -1))
        return by_role_BNRC[:, torch.arange(len(roles_N)), roles_N]

    def codebook(self) -> torch.Tensor:
        """(K, C) float32 projected table, normalised where the config says so; computed once in eval mode."""
        return self.quantizer.codebook()

    def forward_train(
        self, pixels_B3HW: torch.Tensor, scale: Scale, generator: torch.Generator | None = None
    ) -> TATokOutput:
        """The whole way with gradients; `generator` drives the stochastic choice and the restarts of codes.

        Raises:
            ConfigError: as `encode`.
        """
        return self.train_from_features(self.features(pixels_B3HW, scale), generator)

    def train_from_features(self, pooled_BND: torch.Tensor, generator: torch.Generator | None = None) -> TATokOutput:
        """`forward_train` from pooled features that are already there (a frozen encoder's)."""
        quantized = self.quantizer(self.bottleneck(pooled_BND), generator)
        return TATokOutput(
            decoded_BND=self.decoder(quantized.quantized_BNC),
            codes_BN=quantized.codes_BN,
            quantized=quantized,
            pooled_BND=pooled_BND,
        )

    def save(self, folder: Path, storage: str = "float32", extra: dict[str, bytes] | None = None) -> None:
        """Write a checkpoint folder (see core/folder.py for storages and errors)."""
        save_part(folder, to_dict(self.config), self.state_dict(), storage, extra)

    @classmethod
    def from_folder(cls, folder: Path, dtype: LoadDtype = "stored", tower: str = "torch") -> TATok:
        """The tokenizer of a checkpoint folder, in eval mode.

        Args:
            folder: the checkpoint.
            dtype: of encoder and decoder; "stored" maps them as they lie there, float16 is taken as float32. The
                codebook is never rounded, and always projected and compared in float32, because a rounded table would
                move codes. "packed", for a quantized folder, computes with the weights as they are (nn/quantized.py).
            tower: what runs the encoder in `encode` and `encode_scales`, one of TOWERS. int8 weights of OpenVINO are
                kept in the cache folder.

        Raises:
            WeightsError: missing, damaged or unfitting files.
            ConfigError: a config this version does not know, or another tower.
            ModelError: openvino is not installed, or cannot run this encoder.
        """
        if tower not in TOWERS:
            raise ConfigError(f"tower {shown(tower)} is unknown; use {', '.join(TOWERS)}.{nearest(tower, TOWERS)}")
        if dtype == "packed" and tower == "torch":
            config, state, packed = load_packed(folder, exact=("quantizer.",))
            sizes = from_dict(TATokConfig, config, where=f"{folder}/config.json")
            state = {name: tensor.float() if name.startswith(_BOTTLENECK) else tensor for name, tensor in state.items()}
            return assemble(lambda: cls(sizes), state, str(folder), lambda made: swap(made, packed, str(folder)))
        # float16 is for parts that nn/half.py keeps from overflowing; SigLIP's activations do.
        wide = torch.float32 if dtype == torch.float16 else "stored" if dtype == "packed" else dtype
        config, state = load_part(folder, wide, exact=("quantizer.", *_BOTTLENECK))
        sizes = from_dict(TATokConfig, config, where=f"{folder}/config.json")
        # Two small layers before the choice of codes: in bfloat16 they alone would move one code in a hundred.
        state = {name: tensor.float() if name.startswith(_BOTTLENECK) else tensor for name, tensor in state.items()}
        tokenizer = assemble(lambda: cls(sizes), state, str(folder))
        if tower != "torch":
            from opentar.image_to_tokens.openvino_tower import OpenVINOTower

            tokenizer._tower = OpenVINOTower(tokenizer.encoder, tower.removeprefix("openvino-"), folder)
        return tokenizer


def cell_roles(cells: int, roles: int) -> torch.Tensor:
    """Role (cells,) int64 of every cell of a square grid, row by row: row + column modulo `roles`."""
    line_S = torch.arange(math.isqrt(cells))
    return ((line_S[:, None] + line_S) % roles).flatten()
