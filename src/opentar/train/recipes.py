"""Recipes: functions that return every number of a training run.

Each docstring states command, machine, time and scores; the scores were measured with exactly that recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from opentar.image_to_tokens.decoder import DecoderConfig
from opentar.image_to_tokens.encoder import VisionConfig
from opentar.image_to_tokens.quantizer import QuantizerConfig
from opentar.image_to_tokens.ta_tok import TATokConfig
from opentar.language.model import LanguageConfig
from opentar.tokens_to_image.ar import ARConfig
from opentar.tokens_to_image.autoencoder import AutoencoderConfig
from opentar.tokens_to_image.flow import FlowConfig
from opentar.train.corpus import CorpusSettings
from opentar.train.stage import LoopSettings
from opentar.train.stages.ar import ARSettings
from opentar.train.stages.autoencoder import AutoencoderSettings
from opentar.train.stages.flow import FlowSettings
from opentar.train.stages.joint import JointSettings
from opentar.train.stages.latent_vq import LatentVQSettings
from opentar.train.stages.ta_tok import TATokSettings
from opentar.train.stages.teacher import TeacherSettings
from opentar.train.stages.text import TextSettings

DRAWING_STYLE = "fluent-flat"
"""The one style that nano draws in: flat shapes, MIT, all 301 concepts. It reads all seven."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of every stage of one model."""

    teacher: TeacherSettings
    ta_tok: TATokSettings
    autoencoder: AutoencoderSettings
    latent_vq: LatentVQSettings
    corpus_draw: CorpusSettings
    corpus_all: CorpusSettings
    flow: FlowSettings
    ar: ARSettings
    text: TextSettings
    joint: JointSettings
    storage: str = "int8"
    """How the finished parts are stored."""
    gated: bool = True
    """False where the numbers are far too small to pass a gate (smoke tests)."""


def nano() -> Recipe:
    """The bundled model."""
    vision = VisionConfig(
        image_size=96, grid_side=12, stem="conv", stem_widths=(32, 64, 128), stem_blocks=(0, 1, 1), hidden_size=256,
        layers=3, heads=4, mlp_size=512, activation="relu", attention="matmul",
    )  # fmt: skip
    decoder = DecoderConfig(
        input_size=256, hidden_size=256, output_size=256, layers=2, heads=4, mlp_size=512, position_side=12,
        activation="relu", attention="matmul",
    )  # fmt: skip
    language = LanguageConfig(
        text_size=2048, codebook_size=4096, grid_side=12, layers=6, kv_heads=2, mlp=512, max_length=512
    )
    shares = {
        "single": 0.22, "colour": 0.16, "count": 0.15, "two": 0.16, "position": 0.15, "attribution": 0.10,
        "counted_colour": 0.06,
    }  # fmt: skip
    return Recipe(
        teacher=TeacherSettings(
            loop=LoopSettings(steps=4000, batch_size=32, learning_rate=1e-3, warmup_steps=200), vision=vision
        ),
        ta_tok=TATokSettings(
            loop=LoopSettings(steps=3000, batch_size=32, learning_rate=1.5e-3, warmup_steps=60),
            held_steps=2000,
            frozen_steps=2600,
            model=TATokConfig(
                vision=vision,
                quantizer=QuantizerConfig(codebook_size=4096, width=256, row_width=384, commitment_weight=0.1),
                decoder=decoder,
                task_size=1024,
            ),
        ),
        autoencoder=AutoencoderSettings(
            loop=LoopSettings(steps=5000, batch_size=8, learning_rate=2e-3, warmup_steps=100, ema_decay=0.999),
            model=AutoencoderConfig(),
        ),
        latent_vq=LatentVQSettings(loop=LoopSettings(steps=800, batch_size=8, learning_rate=5e-4)),
        corpus_draw=CorpusSettings(scenes=40_960, styles=(DRAWING_STYLE,), shares=shares, latents=True, seed=1),
        corpus_all=CorpusSettings(scenes=24_576, shares=shares, latents=True, seed=2),
        flow=FlowSettings(
            loop=LoopSettings(steps=6000, batch_size=32, learning_rate=1e-3, warmup_steps=200, ema_decay=0.999),
            model=FlowConfig(mlp_size=640),
        ),
        ar=ARSettings(
            loop=LoopSettings(steps=1500, batch_size=16, learning_rate=1e-3, warmup_steps=100),
            model=ARConfig(hidden_size=192, layers=3, heads=3, mlp_size=576),
        ),
        text=TextSettings(
            loop=LoopSettings(steps=1200, batch_size=32, learning_rate=1e-3, warmup_steps=100), model=language
        ),
        joint=JointSettings(
            loop=LoopSettings(steps=3400, batch_size=64, learning_rate=1.5e-3, warmup_steps=200), model=language
        ),
    )


def smoke() -> Recipe:
    """Every stage for a few steps with small batches: shows that the way is whole, teaches nothing."""
    recipe = nano()

    def short(settings: LoopSettings) -> LoopSettings:
        return replace(
            settings, steps=3, batch_size=2, warmup_steps=1, save_every=2, sample_every=3, log_every=1, score_size=6
        )

    staged = {
        name: replace(getattr(recipe, name), loop=short(getattr(recipe, name).loop))
        for name in ("teacher", "ta_tok", "autoencoder", "flow", "ar", "text", "joint")
    }
    staged["ta_tok"] = replace(staged["ta_tok"], start_pictures=256, settle_steps=2)
    corpus = CorpusSettings(scenes=8, shard=4, latents=True, styles=(DRAWING_STYLE,))
    canvas = replace(
        recipe.latent_vq, loop=short(recipe.latent_vq.loop), pictures=64, rows=2400, rounds=1, codebook_size=2048
    )
    return replace(recipe, **staged, latent_vq=canvas, corpus_draw=corpus, corpus_all=corpus, gated=False)


RECIPES: tuple[Callable[[], Recipe], ...] = (nano, smoke)
