"""A whole OpenTar model, tiny and with random weights, from the real classes: it says nonsense, but all of it works.

Pictures are 32 px, codes 12 x 12, 6 x 6 or 4 x 4 from a codebook of 64; everything is 16 wide. The folder has 200 kB.
"""

from __future__ import annotations

from pathlib import Path

import torch

from opentar.checkpoints.model_folder import write_model
from opentar.checkpoints.settings import Defaults, DrawSettings, ModelConfig, ReadSettings
from opentar.image_to_tokens.decoder import DecoderConfig
from opentar.image_to_tokens.encoder import VisionConfig
from opentar.image_to_tokens.quantizer import QuantizerConfig
from opentar.image_to_tokens.ta_tok import TATok, TATokConfig
from opentar.language.folder import save_language
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.language.prompt import PromptBuilder
from opentar.language.tokenizer import train_bpe
from opentar.tokens_to_image.ar import ARConfig, ARDetokenizer, ARTransformer
from opentar.tokens_to_image.autoencoder import Autoencoder, AutoencoderConfig
from opentar.tokens_to_image.flow import FlowConfig, FlowDetokenizer, FlowTransformer
from opentar.tokens_to_image.vqgan import LatentVQ, LatentVQConfig

CODES = 64
WIDTH = 16
IMAGE_SIZE = 32
KNOWN_WORDS = ("three", "red", "apple", "a", "on", "light", "blue", "background", "dog", "三", "个", "红", "苹果")
WORDS = tuple(f"word{index}" for index in range(CODES))
TEXTS = (
    "three red apples on a light blue background",
    "a dog to the left of a blue car. Is there a cat? Yes. No.",
    "浅蓝色背景上的三个红苹果",
)


def tiny_ta_tok() -> TATok:
    """TA-Tok that reads 24 px pictures."""
    vision = VisionConfig(image_size=24, grid_side=12, hidden_size=WIDTH, layers=1, heads=2, mlp_size=32)
    quantizer = QuantizerConfig(codebook_size=CODES, width=WIDTH, row_width=WIDTH)
    decoder = DecoderConfig(
        input_size=WIDTH, hidden_size=WIDTH, output_size=WIDTH, layers=1, heads=2, mlp_size=32, position_side=6
    )
    return TATok(TATokConfig(vision=vision, quantizer=quantizer, decoder=decoder)).eval()


def tiny_language() -> tuple[TarLanguageModel, PromptBuilder]:
    """Language model of one layer and its builder."""
    tokenizer = train_bpe(TEXTS, 300)
    config = LanguageConfig(
        text_size=tokenizer.size,
        codebook_size=CODES,
        hidden=WIDTH,
        layers=1,
        heads=2,
        kv_heads=1,
        head_size=8,
        mlp=32,
        max_length=512,
    )
    return TarLanguageModel(config).eval(), PromptBuilder(tokenizer, config.vocab, limit=config.max_length)


def tiny_flow() -> FlowDetokenizer:
    """Flow de-tokenizer of two steps."""
    flow = FlowConfig(
        feature_size=WIDTH,
        latent_channels=2,
        latent_side=4,
        hidden_size=WIDTH,
        layers=1,
        heads=2,
        mlp_size=32,
        steps=2,
    )
    return FlowDetokenizer(FlowTransformer(flow), tiny_autoencoder())


def tiny_ar() -> ARDetokenizer:
    """AR de-tokenizer over 4 x 4 codes of 32 entries."""
    config = ARConfig(feature_size=WIDTH, codes=16, codebook_size=32, hidden_size=WIDTH, layers=1, heads=2, mlp_size=32)
    canvas = LatentVQ(LatentVQConfig(autoencoder=tiny_autoencoder().config, codebook_size=config.codebook_size))
    return ARDetokenizer(ARTransformer(config), canvas)


def tiny_autoencoder() -> Autoencoder:
    """Autoencoder of 32 px pictures and 4 x 4 x 2 latents."""
    return Autoencoder(
        AutoencoderConfig(
            image_size=IMAGE_SIZE,
            latent_channels=2,
            encoder_channels=(4, 4, 4),
            decoder_channels=(4, 4, 4),
            encoder_blocks=(0, 0, 1),
            decoder_blocks=(1, 0, 0),
        )
    )


def write_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write a whole tiny model with both de-tokenizers into `folder` and return it; the same seed, the same files."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = folder.parent / f"{folder.name}-parts"
        tiny_ta_tok().save(parts / "ta_tok", extra={"words.txt": "\n".join(WORDS).encode() + b"\n"})
        save_language(parts / "language", *tiny_language())
        tiny_flow().save(parts / "detok_diffusion")
        tiny_ar().save(parts / "detok_ar")
        names = ("ta_tok", "language", "detok_diffusion", "detok_ar")
    config = ModelConfig(
        name="tiny",
        parts=names,
        defaults=Defaults(draw=DrawSettings(temperature=1.0), read=ReadSettings(max_new_tokens=8)),
        known_words=KNOWN_WORDS,
        licence="Apache-2.0",
        data="none: the weights are random",
    )
    write_model(folder, config, {name: parts / name for name in names})
    return folder
