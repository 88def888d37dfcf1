"""The numbers of nano's recipes: functions that return every setting of a training run.

Each docstring states command, machine, time and scores; the scores were measured with exactly that recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from opentar.image_to_tokens.decoder import DecoderConfig
from opentar.image_to_tokens.encoder import VisionConfig
from opentar.image_to_tokens.quantizer import QuantizerConfig
from opentar.image_to_tokens.ta_tok import TATokConfig
from opentar.language.model import LanguageConfig
from opentar.nano.corpus import CorpusSettings
from opentar.nano.stages.codebook import CodebookSettings, RoleSettings
from opentar.nano.stages.ta_tok import TATokSettings
from opentar.nano.stages.teacher import TeacherSettings
from opentar.nano.tasks import JointSettings, TextSettings
from opentar.nano.worded_tasks import WordedSettings
from opentar.tokens_to_image.ar import ARConfig
from opentar.tokens_to_image.autoencoder import AutoencoderConfig
from opentar.tokens_to_image.draft import DraftConfig
from opentar.tokens_to_image.flow import FlowConfig
from opentar.train.stage import LoopSettings
from opentar.train.stages.ar import ARSettings
from opentar.train.stages.autoencoder import AutoencoderSettings
from opentar.train.stages.diffusion import FlowSettings
from opentar.train.stages.draft import DraftSettings
from opentar.train.stages.latent_vq import LatentVQSettings

DRAWING_STYLE = "fluent-flat"
"""The one style that nano draws in: flat shapes, MIT, all 301 concepts. It reads all seven."""


@dataclass(frozen=True, kw_only=True)
class NanoSettings:
    """Settings of every step of a nano model."""

    teacher: TeacherSettings
    codebook: CodebookSettings
    ta_tok: TATokSettings
    autoencoder: AutoencoderSettings
    latent_vq: LatentVQSettings
    corpus_draw: CorpusSettings
    corpus_free: CorpusSettings
    corpus_all: CorpusSettings
    corpus_paint: CorpusSettings
    draft: DraftSettings
    flow: FlowSettings
    polish: FlowSettings
    ar: ARSettings
    text: TextSettings
    joint: JointSettings
    tune: JointSettings
    storage: str = "int8"
    """How the finished parts are stored."""
    gated: bool = True
    """False where the numbers are far too small to pass a gate (smoke tests)."""


def nano() -> NanoSettings:
    """The bundled model: `opentar train nano --out RUN`.

    On 2 cores of an AMD EPYC with AVX512-bf16: 6.5 hours of one core, so some 3.3 hours where both are busy. In
    minutes of one core, with scores on validation combinations: teacher 36 (scene_p1 .932), codebook 11 (scene_s1
    .805), ta_tok 4 (.810), autoencoder 31 (30.6 dB), latent_vq 3 (28.9 dB), text 11, corpora 36, joint 50 and tune 15
    (draw_single .96, draw_two 1.00, read_presence .88), draft 11 (20.2 dB), ar 55 (13.9 dB); with two threads flow 42
    (21.5 dB) and polish 21 (23.3 dB). The stages were run one by one with these numbers, some of them beside tests;
    README has the scores of the result.
    """
    return NanoSettings(**_seeing(), **_encoding(), **_painting(), **_speaking())


def _seeing() -> dict[str, Any]:
    """Pictures to codes."""
    vision = VisionConfig(
        image_size=96, grid_side=12, stem="conv", stem_widths=(32, 64, 128), stem_blocks=(0, 1, 1), hidden_size=256,
        layers=3, heads=4, mlp_size=512, activation="relu", attention="matmul",
    )  # fmt: skip
    decoder = DecoderConfig(
        input_size=256, hidden_size=256, output_size=256, layers=2, heads=4, mlp_size=512, position_side=12,
        activation="relu", attention="matmul", front_size=1024,
    )  # fmt: skip
    quantizer = QuantizerConfig(codebook_size=4096, width=256, row_width=384, commitment_weight=0.1)
    tokenizer = TATokConfig(vision=vision, quantizer=quantizer, decoder=decoder, task_size=1024, roles=2)
    names = RoleSettings(
        share=0.8,
        heads={"concept": 1.0, "colour": 0.03, "background": 0.05, "centre": 0.1},
        tells={"concept": 1.0, "ground": 0.2, "cluster": 0.2},
    )
    hues = RoleSettings(
        share=0.2,
        heads={"concept": 0.1, "colour": 1.0, "background": 0.4, "centre": 0.1},
        tells={"concept": 0.1, "colour": 1.0, "ground": 0.1, "background": 0.3, "cluster": 0.2},
    )
    return {
        "teacher": TeacherSettings(
            loop=LoopSettings(
                steps=3400, batch_size=32, learning_rate=2e-3, warmup_steps=200, muon=("encoder.layers.",)
            ),
            vision=vision,
        ),
        "codebook": CodebookSettings(
            model=tokenizer,
            roles=(names, hues),
            pictures=8_000,
            tidy=0.3,
            drawn_share=0.25,
            drawn_styles=(DRAWING_STYLE,),
            scales=(1, 2),
            scale_shares=(0.1, 0.45, 0.45),
        ),
        "ta_tok": TATokSettings(
            loop=LoopSettings(steps=500, batch_size=32, learning_rate=1e-4, warmup_steps=60),
            model=tokenizer,
            tidy=0.4,
            scale_shares=(0.1, 0.45, 0.45),
            learns=("model.decoder.", "painter."),
        ),
    }


def _encoding() -> dict[str, Any]:
    """Scenes encoded once; the kinds that are hard to draw have the larger shares."""
    shares = {
        "single": 0.22, "colour": 0.22, "count": 0.12, "two": 0.15, "position": 0.15, "attribution": 0.08,
        "counted_colour": 0.06,
    }  # fmt: skip
    # A painter finds new hues the hardest.
    painted = {
        "single": 0.14, "colour": 0.36, "count": 0.1, "two": 0.12, "position": 0.12, "attribution": 0.08,
        "counted_colour": 0.08,
    }  # fmt: skip
    return {
        "corpus_draw": CorpusSettings(
            scenes=24_576, styles=(DRAWING_STYLE,), shares=shares, tidy=1.0, latents=True, seed=1
        ),
        "corpus_free": CorpusSettings(scenes=8_192, styles=(DRAWING_STYLE,), shares=shares, latents=True, seed=3),
        "corpus_all": CorpusSettings(scenes=16_384, tidy=0.25, seed=2),
        "corpus_paint": CorpusSettings(
            scenes=24_576, styles=(DRAWING_STYLE,), shares=painted, tidy=1.0, latents=True, seed=4
        ),
    }


def _painting() -> dict[str, Any]:
    """Codes to pictures, in the drawing style only."""
    draft = DraftConfig()
    flow = FlowSettings(
        loop=LoopSettings(
            steps=7000,
            batch_size=48,
            learning_rate=2e-3,
            warmup_steps=100,
            ema_decay=0.998,
            muon=("model.blocks.",),
        ),
        model=FlowConfig(layers=4, mlp_size=448, time_size=64, draft=draft),
        scale_shares=(0.05, 0.6, 0.35),
        corpus_shares=(0.4, 0.5, 0.1),
        time_shift=3.0,
        object_weight=3.0,
    )
    return {
        "autoencoder": AutoencoderSettings(
            loop=LoopSettings(steps=5000, batch_size=8, learning_rate=2e-3, warmup_steps=100, ema_decay=0.999),
            model=AutoencoderConfig(),
        ),
        "latent_vq": LatentVQSettings(loop=LoopSettings(steps=800, batch_size=8, learning_rate=5e-4)),
        "draft": DraftSettings(
            loop=LoopSettings(
                steps=2400,
                batch_size=512,
                learning_rate=2e-3,
                warmup_steps=50,
                weight_decay=0.0,
                muon=("model.gated.",),
            ),
            model=draft,
            scale_shares=(0.04, 0.6, 0.36),
            corpus_shares=(0.42, 0.5, 0.08),
        ),
        "flow": flow,
        "polish": replace(
            flow,
            loop=replace(flow.loop, steps=3600, learning_rate=1.2e-3, warmup_steps=40, ema_decay=0.997),
            corpus_shares=(0.15, 0.8, 0.05),
            contrast=0.3,
        ),
        "ar": ARSettings(
            loop=LoopSettings(steps=3600, batch_size=32, learning_rate=2e-3, warmup_steps=60, muon=("model.blocks.",)),
            model=ARConfig(hidden_size=192, layers=2, heads=3, mlp_size=448),
            scale_shares=(0.05, 0.65, 0.3),
            corpus_shares=(0.95, 0.05),
        ),
    }


def _speaking() -> dict[str, Any]:
    """Words, then words and codes, then more questions."""
    language = LanguageConfig(
        text_size=2048, codebook_size=4096, grid_side=12, layers=6, kv_heads=2, mlp=512, max_length=512
    )
    return {
        "text": TextSettings(
            loop=LoopSettings(
                steps=800, batch_size=32, learning_rate=1.5e-3, warmup_steps=80, muon=("model.qwen.model.layers.",)
            ),
            model=language,
        ),
        "joint": JointSettings(
            loop=LoopSettings(
                steps=1500,
                batch_size=64,
                learning_rate=2e-3,
                warmup_steps=120,
                final_fraction=0.3,
                muon=("model.qwen.model.layers.",),
                sample_every=500,
            ),
            model=language,
            task_shares=(0.48, 0.42, 0.1),
            answers=4,
            text_weight=0.8,
        ),
        "tune": JointSettings(
            loop=LoopSettings(
                steps=400,
                batch_size=64,
                learning_rate=8e-4,
                warmup_steps=20,
                muon=("model.qwen.model.layers.",),
                sample_every=200,
            ),
            model=language,
            task_shares=(0.4, 0.58, 0.02),
            read_scales=(0.02, 0.9, 0.08),
            answers=4,
            described=0.4,
            text_weight=1.0,
        ),
    }


def smoke() -> NanoSettings:
    """Every stage for a few steps with small batches: shows that the way is whole, teaches nothing."""
    recipe = nano()

    def short(settings: LoopSettings) -> LoopSettings:
        return replace(
            settings, steps=3, batch_size=2, warmup_steps=1, save_every=2, sample_every=3, log_every=1, score_size=6
        )

    staged = {
        name: replace(getattr(recipe, name), loop=short(getattr(recipe, name).loop))
        for name in ("teacher", "ta_tok", "autoencoder", "draft", "flow", "polish", "ar", "text", "joint", "tune")
    }
    start = replace(
        recipe.codebook,
        pictures=512,
        cells=6000,
        lay_rounds=1,
        settle_steps=2,
        sharpen_steps=2,
        invert_steps=2,
        read_steps=2,
        batch_size=2,
        score_size=6,
    )
    corpus = CorpusSettings(scenes=8, shard=4, latents=True, styles=(DRAWING_STYLE,))
    canvas = replace(
        recipe.latent_vq, loop=short(recipe.latent_vq.loop), pictures=64, rows=2400, rounds=1, codebook_size=2048
    )
    return replace(
        recipe,
        **staged,
        codebook=start,
        latent_vq=canvas,
        corpus_draw=replace(corpus, tidy=1.0),
        corpus_paint=replace(corpus, tidy=1.0),
        corpus_free=corpus,
        corpus_all=replace(corpus, latents=False),
        gated=False,
    )


def nano_words() -> NanoSettings:
    """The next training, with language as people use it: `opentar train nano --recipe nano_words --out RUN`.

    Everything up to the corpora and the painters is that of `nano`; tokenizer of text, `joint` and `tune` differ. They
    have half as many steps more, for prompts are more varied. Not trained yet, so there are no times and no scores.
    """
    recipe = nano()

    def worded(settings: JointSettings, steps: int) -> WordedSettings:
        own = {one.name: getattr(settings, one.name) for one in fields(settings)}
        return WordedSettings(**own | {"loop": replace(settings.loop, steps=steps)})

    return replace(recipe, joint=worded(recipe.joint, 2250), tune=worded(recipe.tune, 600))


def smoke_words() -> NanoSettings:
    """`nano_words` for a few steps with small batches: shows that the way is whole, teaches nothing."""
    small, worded = smoke(), nano_words()
    return replace(
        small, joint=replace(worded.joint, loop=small.joint.loop), tune=replace(worded.tune, loop=small.tune.loop)
    )


SETTINGS: tuple[Callable[[], NanoSettings], ...] = (nano, smoke, nano_words, smoke_words)
