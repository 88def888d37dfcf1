"""Sizes of the published models, part by part, and a tiny one of the same kinds for tests.

They are what the importers find in the published files (the language model after its padded rows are gone), so that
a model of random weights has the shapes of a real one. Numbers: arXiv 2506.18898 and the published files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opentar.core.errors import ModelError, nearest, shown
from opentar.image_to_tokens.decoder import DecoderConfig
from opentar.image_to_tokens.encoder import PUBLISHED as PUBLISHED_VISION
from opentar.image_to_tokens.encoder import VisionConfig
from opentar.image_to_tokens.quantizer import QuantizerConfig
from opentar.image_to_tokens.ta_tok import TATokConfig
from opentar.language.model import LanguageConfig
from opentar.tokens_to_image.ar import ARConfig
from opentar.tokens_to_image.vqgan import VQGANConfig

CODES = 65_536
SANA_CODES = 729
"""Length of the negative features of the published SANA folders."""


@dataclass(frozen=True, kw_only=True)
class SanaSize:
    """Settings of the three parts of a SANA folder, as diffusers' classes take them."""

    transformer: Mapping[str, Any]
    """SanaTransformer2DModel"""
    vae: Mapping[str, Any]
    """AutoencoderDC"""
    scheduler: Mapping[str, Any]
    """DPMSolverMultistepScheduler"""
    negative_length: int
    """features of "no condition" """


@dataclass(frozen=True, kw_only=True)
class TarSize:
    """Configs of all parts of a model."""

    name: str
    """how it is called on the command line"""
    language: LanguageConfig
    """tokens -> tokens"""
    ta_tok: TATokConfig
    """picture <-> codes"""
    ar: ARConfig
    """codes -> picture, one picture code after the other"""
    vqgan: VQGANConfig
    """the canvas of `ar`"""
    sana: SanaSize
    """codes -> picture, from noise"""


def language_1_5b() -> LanguageConfig:
    """Qwen2.5-1.5B with the 65,541 new tokens: 217,206 rows, one table for input and output."""
    return LanguageConfig(
        text_size=151_665,
        codebook_size=CODES,
        grid_side=PUBLISHED_VISION.grid_side,
        text_pieces=151_643,
        first_new=151_665,
        rows=217_206,
        hidden=1536,
        layers=28,
        heads=12,
        kv_heads=2,
        head_size=128,
        mlp=8960,
        tie=True,
        rope_theta=1_000_000.0,
        norm_eps=1e-6,
        attention="sdpa",
        max_length=32_768,
    )


def language_7b() -> LanguageConfig:
    """Qwen2.5-7B with the same new tokens; its two tables are not tied."""
    return dataclasses.replace(
        language_1_5b(), hidden=3584, layers=28, heads=28, kv_heads=4, head_size=128, mlp=18_944, tie=False
    )


def ta_tok() -> TATokConfig:
    """SigLIP2 so400m at 384 px, 65,536 codes of width 1536, a feature decoder of three layers."""
    return TATokConfig(
        vision=PUBLISHED_VISION,
        quantizer=QuantizerConfig(codebook_size=CODES, width=1536, row_width=1536, stochastic=True),
        decoder=DecoderConfig(input_size=1536, hidden_size=1152, output_size=1152),
    )


def ar_lp(codes: int = 256) -> ARConfig:
    """The AR de-tokenizer LP (654 M numbers) for 256, 1024 or 4096 picture codes: 256, 512 or 1024 px."""
    return ARConfig(
        feature_size=1152,
        prefix=PUBLISHED_VISION.cells,
        codes=codes,
        codebook_size=16_384,
        hidden_size=1280,
        layers=30,
        heads=20,
        mlp_size=3584,
        attention="sdpa",
        guidance=4.0,
        temperature=1.0,
        top_p=1.0,
    )


def sana_600m(pixels: int = 512) -> SanaSize:
    """SANA 0.6B with a caption projection for features, and its DC-AE (f32c32)."""
    blocks = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
    widths = [128, 256, 512, 512, 1024, 1024]
    scales: list[list[int]] = [[], [], [], [5], [5], [5]]
    return SanaSize(
        transformer={
            "in_channels": 32,
            "out_channels": 32,
            "num_attention_heads": 36,
            "attention_head_dim": 32,
            "num_layers": 28,
            "num_cross_attention_heads": 16,
            "cross_attention_head_dim": 72,
            "cross_attention_dim": 1152,
            "caption_channels": 1152,
            "mlp_ratio": 2.5,
            "sample_size": pixels // 32,
            "patch_size": 1,
        },
        vae={
            "latent_channels": 32,
            "encoder_block_types": blocks,
            "decoder_block_types": blocks,
            "encoder_block_out_channels": widths,
            "decoder_block_out_channels": widths,
            "encoder_layers_per_block": [2, 2, 2, 3, 3, 3],
            "decoder_layers_per_block": [3, 3, 3, 3, 3, 3],
            "encoder_qkv_multiscales": scales,
            "decoder_qkv_multiscales": scales,
            "downsample_block_type": "conv",
            "upsample_block_type": "interpolate",
            "scaling_factor": 0.41407,
        },
        scheduler={"flow_shift": 3.0, "use_flow_sigmas": True, "prediction_type": "flow_prediction"},
        negative_length=SANA_CODES,
    )


def tar_1_5b() -> TarSize:
    """Tar-1.5B with its 256 px AR de-tokenizer and its 512 px SANA."""
    return TarSize(
        name="tar-1.5b",
        language=language_1_5b(),
        ta_tok=ta_tok(),
        ar=ar_lp(),
        vqgan=VQGANConfig(),
        sana=sana_600m(),
    )


def tar_7b() -> TarSize:
    """Tar-7B; everything but the language model is that of Tar-1.5B."""
    return dataclasses.replace(tar_1_5b(), name="tar-7b", language=language_7b())


def tar_tiny() -> TarSize:
    """The same kinds of parts, 16 wide, for tests: 12 x 12 codes of 64, pictures of 16 px."""
    grid_side, codes, width = 12, 64, 16
    blocks, widths, scales = ["ResBlock", "EfficientViTBlock"], [8, 8], [[], [5]]
    return TarSize(
        name="tar-tiny",
        language=LanguageConfig(
            text_size=259,
            codebook_size=codes,
            grid_side=grid_side,
            hidden=width,
            layers=2,
            heads=2,
            kv_heads=1,
            head_size=8,
            mlp=32,
            attention="sdpa",
            max_length=512,
        ),
        ta_tok=TATokConfig(
            vision=VisionConfig(image_size=24, grid_side=grid_side, hidden_size=width, layers=1, heads=2, mlp_size=32),
            quantizer=QuantizerConfig(codebook_size=codes, width=width, row_width=width),
            decoder=DecoderConfig(
                input_size=width, hidden_size=width, output_size=width, layers=1, heads=2, mlp_size=32, position_side=6
            ),
        ),
        ar=ARConfig(feature_size=width, codes=16, codebook_size=32, hidden_size=width, layers=2, heads=2, mlp_size=32),
        vqgan=VQGANConfig(channels=(8, 8, 8), blocks=1, latent_channels=8, code_size=4, codebook_size=32, groups=4),
        sana=SanaSize(
            transformer={
                "in_channels": 4,
                "out_channels": 4,
                "num_attention_heads": 2,
                "attention_head_dim": 8,
                "num_layers": 2,
                "num_cross_attention_heads": 2,
                "cross_attention_head_dim": 8,
                "cross_attention_dim": 16,
                "caption_channels": width,
                "sample_size": 8,
                "patch_size": 1,
            },
            vae={
                "latent_channels": 4,
                "attention_head_dim": 4,
                "encoder_block_types": blocks,
                "decoder_block_types": blocks,
                "encoder_block_out_channels": widths,
                "decoder_block_out_channels": widths,
                "encoder_layers_per_block": [1, 1],
                "decoder_layers_per_block": [1, 1],
                "encoder_qkv_multiscales": scales,
                "decoder_qkv_multiscales": scales,
                "downsample_block_type": "conv",
                "upsample_block_type": "interpolate",
            },
            scheduler=sana_600m().scheduler,
            negative_length=36,
        ),
    )


_SIZES = {"tar-1.5b": tar_1_5b, "tar-7b": tar_7b, "tar-tiny": tar_tiny}
NAMES = ("tar-1.5b", "tar-7b")
"""The published sizes; tar-tiny is known too, for tests."""


def size_of(name: str) -> TarSize:
    """The size called `name`. Raises ModelError for another name."""
    if name not in _SIZES:
        raise ModelError(f"size {shown(name)} is unknown; there are: {', '.join(NAMES)}.{nearest(name, NAMES)}")
    return _SIZES[name]()
