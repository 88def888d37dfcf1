"""The steps of nano's recipes: what each needs, the score that opens the way on, and how it is built."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from opentar.core.config import to_dict
from opentar.core.errors import ConfigError
from opentar.core.folder import load_part, strict_load
from opentar.data.pictures import PictureData
from opentar.image_to_tokens.ta_tok import TATok
from opentar.language.folder import load_language
from opentar.language.prompt import PromptBuilder
from opentar.nano.bundle import bundle, known_words
from opentar.nano.corpus import CorpusSettings, SceneCorpus, read_scenes, write_scenes
from opentar.nano.looks import DrawLook, ReadLook, TextLook
from opentar.nano.recipes import SETTINGS, NanoSettings
from opentar.nano.stages.codebook import lay_codebook
from opentar.nano.stages.heads import DenseHeads, concept_embeddings
from opentar.nano.stages.pictures import ScenePictures
from opentar.nano.stages.ta_tok import SceneTATokStage
from opentar.nano.stages.teacher import TeacherStage
from opentar.nano.tasks import JointSettings, TextTasks, joint_task
from opentar.nano.tokenizer import build_tokenizer
from opentar.nano.worded_tasks import WordedSettings, stranger_texts, template_texts, worded_task, worded_words
from opentar.tokens_to_image.autoencoder import Autoencoder
from opentar.tokens_to_image.vqgan import LatentVQ
from opentar.train.recipe import Gate, Recipe, Run, Step, trained
from opentar.train.stage import Stage
from opentar.train.stages.ar import ARStage
from opentar.train.stages.autoencoder import AutoencoderStage
from opentar.train.stages.diffusion import FlowStage
from opentar.train.stages.draft import DraftStage
from opentar.train.stages.language import LanguageStage
from opentar.train.stages.latent_vq import LatentVQStage

TEMPLATE_REPEATS = 50
"""How often a tokenizer is shown the words of templates, which stand in many more samples than that."""


def recipe_of(name: str) -> Recipe:
    """The recipe called `name`. Raises ConfigError naming the known ones."""
    known = {function.__name__: function for function in SETTINGS}
    if name not in known:
        raise ConfigError(f"unknown recipe {name!r}; the recipes are {', '.join(known)}")
    settings = known[name]()
    return Recipe(model="nano", name=name, settings=to_dict(settings), steps=steps_of(settings), gated=settings.gated)


def steps_of(settings: NanoSettings) -> dict[str, Step]:
    """The graph of a nano model."""
    return _seeing(settings) | _encoding(settings) | _speaking(settings) | _painting(settings) | _ending(settings)


def _seeing(settings: NanoSettings) -> dict[str, Step]:
    """Pictures to codes, and the canvas of the de-tokenizers."""
    return {
        "teacher": Step(
            run=trained(lambda out: TeacherStage(settings.teacher)), gates=(Gate("scene_p1", 0.85),), weight=9
        ),
        "codebook": Step(
            run=lambda out, quiet: lay_codebook(
                settings.codebook, _result(out, "teacher"), out / "codebook", quiet=quiet
            ),
            needs=("teacher",),
            gates=(Gate("scene_s1", 0.7),),
            weight=8,
        ),
        "ta_tok": Step(
            run=trained(
                lambda out: SceneTATokStage(
                    settings.ta_tok, _result(out, "teacher"), _result(out, "codebook") / "ta_tok"
                )
            ),
            needs=("teacher", "codebook"),
            gates=(Gate("scene_s1", 0.75),),
            weight=8,
        ),
        "autoencoder": Step(
            run=trained(lambda out: autoencoder_stage(settings)), gates=(Gate("psnr", 24.0),), weight=5
        ),
        "latent_vq": Step(
            run=trained(lambda out: LatentVQStage(settings.latent_vq, canvas_pictures(), autoencoder_of(out))),
            needs=("autoencoder",),
            gates=(Gate("psnr", 22.0),),
            weight=1,
        ),
    }


def _encoding(settings: NanoSettings) -> dict[str, Step]:
    """Scenes encoded once."""
    corpora = {
        "corpus_draw": settings.corpus_draw,
        "corpus_free": settings.corpus_free,
        "corpus_all": settings.corpus_all,
        "corpus_paint": settings.corpus_paint,
    }
    return {
        name: Step(run=encoded(name, own), needs=("ta_tok", "autoencoder"), weight=7) for name, own in corpora.items()
    }


def _speaking(settings: NanoSettings) -> dict[str, Step]:
    """Words, then words and codes, then more questions."""
    return {
        "text": Step(run=trained(lambda out: text_stage(settings, out)), weight=4),
        "joint": Step(
            run=trained(lambda out: joint_stage(settings, out)),
            needs=("text", "corpus_draw", "corpus_free", "corpus_all"),
            gates=(Gate("draw_single", 0.7),),
            weight=6,
        ),
        "tune": Step(
            run=trained(lambda out: tune_stage(settings, out)),
            needs=("joint",),
            gates=(Gate("draw_single", 0.8), Gate("read_presence", 0.75)),
            weight=5,
        ),
    }


def _painting(settings: NanoSettings) -> dict[str, Step]:
    """Codes to pictures."""
    return {
        "draft": Step(
            run=trained(lambda out: draft_stage(settings, out)),
            needs=("corpus_draw", "corpus_free", "corpus_paint"),
            gates=(Gate("psnr_s1", 18.0),),
            weight=7,
        ),
        "flow": Step(
            run=trained(lambda out: flow_stage(settings, out)),
            needs=("draft", "corpus_draw", "corpus_free", "corpus_paint"),
            gates=(Gate("psnr_s1", 20.0),),
            weight=6,
        ),
        "polish": Step(
            run=trained(lambda out: polish_stage(settings, out)),
            needs=("flow",),
            gates=(Gate("psnr_s1", 22.0),),
            weight=5,
        ),
        "ar": Step(
            run=trained(lambda out: ar_stage(settings, out)),
            needs=("corpus_draw", "corpus_free", "latent_vq"),
            weight=3,
        ),
    }


def _ending(settings: NanoSettings) -> dict[str, Step]:
    """The parts put together."""
    return {
        "bundle": Step(
            run=lambda out, quiet: bundle(settings.storage, out, _words(settings)), needs=("tune", "polish", "ar")
        ),
    }


def _words(settings: NanoSettings) -> tuple[str, ...] | None:
    """The words of a model that learned worded prompts; None for those of captions and questions alone."""
    return worded_words(known_words()) if isinstance(settings.joint, WordedSettings) else None


def _result(out: Path, step: str) -> Path:
    """Where a step leaves its result."""
    return out / step / "result"


def ta_tok_of(out: Path) -> TATok:
    """The trained tokenizer of a run."""
    return TATok.from_folder(_result(out, "ta_tok") / "ta_tok")


def autoencoder_of(out: Path) -> Autoencoder:
    """The trained autoencoder of a run."""
    return Autoencoder.from_folder(_result(out, "autoencoder") / "autoencoder")


def canvas_of(out: Path) -> LatentVQ:
    """The picture codes of a run."""
    return LatentVQ.from_folder(_result(out, "latent_vq") / "canvas")


def corpora_of(settings: NanoSettings, out: Path, *, latents: bool) -> list[SceneCorpus]:
    """The corpora of a run: what is drawn, the drawing style anywhere, all styles; the last one has no latents."""
    named = {
        "corpus_draw": settings.corpus_draw,
        "corpus_free": settings.corpus_free,
        "corpus_all": settings.corpus_all,
    }
    return [read_scenes(out / name, own, latents=latents) for name, own in named.items() if own.latents or not latents]


def painted_of(settings: NanoSettings, out: Path) -> list[SceneCorpus]:
    """What the diffusion de-tokenizer learns from: what is drawn, more of the same, the drawing style anywhere."""
    draw, free = corpora_of(settings, out, latents=True)
    return [draw, read_scenes(out / "corpus_paint", settings.corpus_paint, latents=True), free]


def encoded(name: str, settings: CorpusSettings) -> Run:
    """A step that writes one corpus."""

    def run(out: Path, quiet: bool) -> dict[str, float]:
        return write_scenes(out / name, settings, ta_tok_of(out), autoencoder_of(out), quiet=quiet)

    return run


def canvas_pictures(mosaic_share: float = 0.4) -> PictureData:
    """Crowded pictures to learn from, held-out combinations, and held-out styles."""
    return PictureData(
        train=ScenePictures(mosaic_share=mosaic_share),
        held_out={"": ScenePictures(split="val"), "style_": ScenePictures(split="train", sprites="val")},
    )


def autoencoder_stage(settings: NanoSettings) -> AutoencoderStage:
    """The autoencoder of all pictures."""
    own = settings.autoencoder
    return AutoencoderStage(own, canvas_pictures(own.mosaic_share), fit=ScenePictures(mosaic_share=0.3))


def text_stage(settings: NanoSettings, out: Path) -> LanguageStage:
    """Text pre-training: words before pictures."""
    own, texts = settings.text, TextTasks(settings.text)
    return LanguageStage(
        own, texts, builder_of(settings, out), name="text", looks=[TextLook(settings=own, texts=texts)]
    )


def joint_stage(settings: NanoSettings, out: Path) -> LanguageStage:
    """Joint training: drawing, reading and text, from the text model and the tokenizer's codebook."""
    ta_tok, start = ta_tok_of(out), load_part(_result(out, "text") / "language")[1]
    return _joint("joint", settings.joint, settings, out, start, ta_tok, ta_tok.codebook())


def tune_stage(settings: NanoSettings, out: Path) -> LanguageStage:
    """The same with another mixture, from the joint model."""
    start = load_language(_result(out, "joint") / "language").model.state()
    return _joint("tune", settings.tune, settings, out, start, ta_tok_of(out), None)


def _joint(
    name: str,
    own: JointSettings,
    settings: NanoSettings,
    out: Path,
    start: dict[str, Tensor],
    ta_tok: TATok,
    codebook: Tensor | None,
) -> LanguageStage:
    heads = DenseHeads(settings.teacher.vision.hidden_size, concept_embeddings())
    strict_load(heads, load_part(_result(out, "teacher") / "heads")[1], "the teacher's heads")
    corpora = corpora_of(settings, out, latents=False)
    texts = TextTasks(settings.text)
    task = worded_task(own, corpora, texts) if isinstance(own, WordedSettings) else joint_task(own, corpora, texts)
    return LanguageStage(
        own,
        task,
        builder_of(settings, out),
        name=name,
        start=start,
        codebook=codebook,
        looks=[
            DrawLook(settings=own, corpus=corpora[0], ta_tok=ta_tok, heads=heads),
            ReadLook(settings=own, ta_tok=ta_tok),
        ],
    )


def builder_of(settings: NanoSettings, out: Path) -> PromptBuilder:
    """The builder of sequences, after its tokenizer was made."""
    model = settings.text.model
    worded = isinstance(settings.joint, WordedSettings)
    more = [*template_texts(), *stranger_texts()] * TEMPLATE_REPEATS if worded else ()
    tokenizer = build_tokenizer(out / "text" / "tokenizer", model.text_size, more)
    return PromptBuilder(tokenizer, model.vocab, limit=model.max_length)


def draft_stage(settings: NanoSettings, out: Path) -> Stage:
    """The mean picture of codes."""
    corpora = painted_of(settings, out)
    return DraftStage(settings.draft, corpora, corpora[0].held_out(), ta_tok_of(out), autoencoder_of(out))


def flow_stage(settings: NanoSettings, out: Path) -> Stage:
    """The flow over its finished draft."""
    corpora, draft = painted_of(settings, out), load_part(_result(out, "draft") / "draft")[1]
    return FlowStage(settings.flow, corpora, corpora[0].held_out(), ta_tok_of(out), autoencoder_of(out), draft)


def polish_stage(settings: NanoSettings, out: Path) -> Stage:
    """Flow and draft learn on together, with the small differences inside things weighing more."""
    corpora, start = painted_of(settings, out), load_part(_result(out, "flow") / "detok" / "transformer")[1]
    held_out = corpora[0].held_out()
    return FlowStage(
        settings.polish, corpora, held_out, ta_tok_of(out), autoencoder_of(out), start=start, name="polish"
    )


def ar_stage(settings: NanoSettings, out: Path) -> Stage:
    """The autoregressive de-tokenizer."""
    corpora = corpora_of(settings, out, latents=True)
    return ARStage(settings.ar, corpora, corpora[0].held_out(), ta_tok_of(out), canvas_of(out))
