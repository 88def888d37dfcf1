"""The stages of the nano model: what each needs, the score that opens the way on, and how it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from opentar.core.folder import load_part, strict_load
from opentar.image_to_tokens.ta_tok import TATok
from opentar.language.folder import load_language
from opentar.tokens_to_image.autoencoder import Autoencoder
from opentar.tokens_to_image.vqgan import LatentVQ
from opentar.train.bundle import bundle
from opentar.train.corpus import Corpus, CorpusSettings, read_corpus, write_corpus
from opentar.train.loop import Loop
from opentar.train.recipes import Recipe
from opentar.train.stage import Gate, Stage
from opentar.train.stages.ar import ARStage
from opentar.train.stages.autoencoder import AutoencoderStage
from opentar.train.stages.cells import vocab_of
from opentar.train.stages.codebook import lay_codebook
from opentar.train.stages.draft import DraftStage
from opentar.train.stages.flow import FlowStage
from opentar.train.stages.heads import DenseHeads
from opentar.train.stages.joint import JointStage
from opentar.train.stages.latent_vq import LatentVQStage
from opentar.train.stages.ta_tok import TATokStage
from opentar.train.stages.teacher import TeacherStage
from opentar.train.stages.text import TextStage, TextTasks, build_tokenizer
from opentar.train.words import concept_embeddings

Run = Callable[[Recipe, Path, bool], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage in the order of a run."""

    run: Run
    """Trains into `run folder / stage name`, from the recipe; returns the final scores."""
    needs: tuple[str, ...] = ()
    """Stages that must have ended."""
    gates: tuple[Gate, ...] = ()
    """Scores this stage must reach before others build on it."""
    weight: int = 0
    """Of stages that are ready at once, the heavier starts first: it has the longer way to the end behind it."""

    def refusal(self, name: str, scores: dict[str, float], gated: bool) -> str | None:
        """Why nothing may build on these scores, or None."""
        texts = [gate.check(name, scores) for gate in self.gates] if gated else []
        return next((text for text in texts if text), None)


def looped(build: Callable[[Recipe, Path], Stage]) -> Run:
    """A step that is one training loop over the stage that `build(recipe, run folder)` makes."""

    def run(recipe: Recipe, out: Path, quiet: bool) -> dict[str, float]:
        stage = build(recipe, out)
        return Loop(stage, out / stage.name, quiet=quiet).run()

    return run


def ta_tok_of(out: Path) -> TATok:
    """The trained tokenizer of a run."""
    return TATok.from_folder(out / "ta_tok" / "result" / "ta_tok")


def autoencoder_of(out: Path) -> Autoencoder:
    """The trained autoencoder of a run."""
    return Autoencoder.from_folder(out / "autoencoder" / "result" / "autoencoder")


def canvas_of(out: Path) -> LatentVQ:
    """The picture codes of a run."""
    return LatentVQ.from_folder(out / "latent_vq" / "result" / "canvas")


def corpora_of(recipe: Recipe, out: Path, *, latents: bool) -> list[Corpus]:
    """The corpora of a run: what is drawn, the drawing style anywhere, all styles; the last one has no latents."""
    named = {"corpus_draw": recipe.corpus_draw, "corpus_free": recipe.corpus_free, "corpus_all": recipe.corpus_all}
    return [
        read_corpus(out / name, settings, latents=latents)
        for name, settings in named.items()
        if settings.latents or not latents
    ]


def spelled(name: str, settings: Callable[[Recipe], CorpusSettings]) -> Run:
    """A step that writes one corpus."""

    def run(recipe: Recipe, out: Path, quiet: bool) -> dict[str, float]:
        ta_tok = ta_tok_of(out)
        scales = vocab_of(ta_tok.config).scales
        return write_corpus(out / name, settings(recipe), ta_tok, autoencoder_of(out), scales, quiet=quiet)

    return run


def text_stage(recipe: Recipe, out: Path) -> TextStage:
    """Text pre-training, after its tokenizer was made."""
    tokenizer = build_tokenizer(out / "text" / "tokenizer", recipe.text.model.text_size)
    return TextStage(recipe.text, tokenizer, text_tasks(recipe))


def text_tasks(recipe: Recipe) -> TextTasks:
    """The text -> text samples of both language stages; the same entries are held out of both."""
    return TextTasks(recipe.text.caption_share, recipe.text.held_out, recipe.text.question_share)


def joint_stage(recipe: Recipe, out: Path) -> JointStage:
    """Joint training, from the text model and the tokenizer's codebook."""
    return _joint(recipe, out, load_part(out / "text" / "result" / "language")[1], "joint")


def tune_stage(recipe: Recipe, out: Path) -> JointStage:
    """The same with another mixture, from the joint model."""
    model = load_language(out / "joint" / "result" / "language").model
    return _joint(recipe, out, model.state(), "tune")


def _joint(recipe: Recipe, out: Path, start: dict[str, Tensor], name: str) -> JointStage:
    settings = {"joint": recipe.joint, "tune": recipe.tune}[name]
    tokenizer = build_tokenizer(out / "text" / "tokenizer", recipe.text.model.text_size)
    heads = DenseHeads(recipe.teacher.vision.hidden_size, concept_embeddings())
    strict_load(heads, load_part(out / "teacher" / "result" / "heads")[1], "the teacher's heads")
    corpora, texts = corpora_of(recipe, out, latents=False), text_tasks(recipe)
    tuned = name == "tune"
    return JointStage(settings, corpora, tokenizer, ta_tok_of(out), heads, texts, start, name=name, knows_codes=tuned)


def painted_of(recipe: Recipe, out: Path) -> list[Corpus]:
    """What the diffusion de-tokenizer learns from: what is drawn, more of the same, the drawing style anywhere."""
    draw, free = corpora_of(recipe, out, latents=True)
    return [draw, read_corpus(out / "corpus_paint", recipe.corpus_paint, latents=True), free]


def flow_stage(recipe: Recipe, out: Path) -> FlowStage:
    """The flow over its finished draft."""
    draft = load_part(out / "draft" / "result" / "draft")[1]
    return FlowStage(recipe.flow, painted_of(recipe, out), ta_tok_of(out), autoencoder_of(out), draft)


def polish_stage(recipe: Recipe, out: Path) -> FlowStage:
    """Flow and draft go on together, with the small differences inside things weighing more."""
    start = load_part(out / "flow" / "result" / "detok" / "transformer")[1]
    corpora = painted_of(recipe, out)
    return FlowStage(recipe.polish, corpora, ta_tok_of(out), autoencoder_of(out), start=start, name="polish")


STEPS: dict[str, Step] = {
    "teacher": Step(
        run=looped(lambda recipe, out: TeacherStage(recipe.teacher)), gates=(Gate("scene_p1", 0.85),), weight=9
    ),
    "codebook": Step(
        run=lambda recipe, out, quiet: lay_codebook(
            recipe.codebook, out / "teacher" / "result", out / "codebook", quiet=quiet
        ),
        needs=("teacher",),
        gates=(Gate("scene_s1", 0.7),),
        weight=8,
    ),
    "ta_tok": Step(
        run=looped(
            lambda recipe, out: TATokStage(
                recipe.ta_tok, out / "teacher" / "result", out / "codebook" / "result" / "ta_tok"
            )
        ),
        needs=("teacher", "codebook"),
        gates=(Gate("scene_s1", 0.75),),
        weight=8,
    ),
    "autoencoder": Step(
        run=looped(lambda recipe, out: AutoencoderStage(recipe.autoencoder)), gates=(Gate("psnr", 24.0),), weight=5
    ),
    "latent_vq": Step(
        run=looped(lambda recipe, out: LatentVQStage(recipe.latent_vq, autoencoder_of(out))),
        needs=("autoencoder",),
        gates=(Gate("psnr", 22.0),),
        weight=1,
    ),
    "text": Step(run=looped(text_stage), weight=4),
    "corpus_draw": Step(
        run=spelled("corpus_draw", lambda recipe: recipe.corpus_draw), needs=("ta_tok", "autoencoder"), weight=7
    ),
    "corpus_free": Step(
        run=spelled("corpus_free", lambda recipe: recipe.corpus_free), needs=("ta_tok", "autoencoder"), weight=7
    ),
    "corpus_all": Step(
        run=spelled("corpus_all", lambda recipe: recipe.corpus_all), needs=("ta_tok", "autoencoder"), weight=7
    ),
    "corpus_paint": Step(
        run=spelled("corpus_paint", lambda recipe: recipe.corpus_paint), needs=("ta_tok", "autoencoder"), weight=7
    ),
    "joint": Step(
        run=looped(joint_stage),
        needs=("text", "corpus_draw", "corpus_free", "corpus_all"),
        gates=(Gate("draw_single", 0.7),),
        weight=6,
    ),
    "tune": Step(
        run=looped(tune_stage),
        needs=("joint",),
        gates=(Gate("draw_single", 0.8), Gate("read_presence", 0.75)),
        weight=5,
    ),
    "draft": Step(
        run=looped(
            lambda recipe, out: DraftStage(recipe.draft, painted_of(recipe, out), ta_tok_of(out), autoencoder_of(out))
        ),
        needs=("corpus_draw", "corpus_free", "corpus_paint"),
        gates=(Gate("psnr_s1", 18.0),),
        weight=7,
    ),
    "flow": Step(
        run=looped(flow_stage),
        needs=("draft", "corpus_draw", "corpus_free", "corpus_paint"),
        gates=(Gate("psnr_s1", 20.0),),
        weight=6,
    ),
    "polish": Step(
        run=looped(polish_stage),
        needs=("flow",),
        gates=(Gate("psnr_s1", 22.0),),
        weight=5,
    ),
    "ar": Step(
        run=looped(
            lambda recipe, out: ARStage(
                recipe.ar, corpora_of(recipe, out, latents=True), ta_tok_of(out), canvas_of(out)
            )
        ),
        needs=("corpus_draw", "corpus_free", "latent_vq"),
        weight=3,
    ),
    "bundle": Step(run=bundle, needs=("tune", "polish", "ar")),
}
