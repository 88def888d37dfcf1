"""Joint training: one language model learns to draw, to read, to answer and to speak, with one loss.

Samples come from corpora of codes. A reading sample is a short conversation about one picture, so that its codes are
paid for once and several answers are learned from them; yes and no stand in equal number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from opentar.core.folder import strict_load
from opentar.data.captions import caption, plain
from opentar.data.palette import COLOURS
from opentar.data.questions import QA, describe, one_of_each_kind, presence_questions, questions
from opentar.data.spec import SceneSpec
from opentar.image_to_tokens.ta_tok import TATok
from opentar.language.folder import save_language
from opentar.language.generate import draw_codes, generate_text
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.language.prompt import PromptBuilder, Shown
from opentar.language.tokenizer import TextTokenizer
from opentar.train.corpus import Corpus, spell
from opentar.train.stage import LoopSettings, Stage
from opentar.train.stages.heads import DenseHeads
from opentar.train.stages.pictures import ScenePictures
from opentar.train.stages.text import LanguageModule, TextTasks, conversation, pad_batch

Example = tuple[list[int], list[int]]


@dataclass(frozen=True, kw_only=True)
class JointSettings:
    """The recipe of joint training."""

    loop: LoopSettings
    model: LanguageConfig
    task_shares: tuple[float, float, float] = (0.55, 0.4, 0.05)
    """Share of samples that draw, read, and turn text into text."""
    draw_scales: tuple[float, ...] = (0.03, 0.17, 0.8)
    """How often a drawing is spelled at each scale index: 16 codes hold a tidy picture and cost a ninth of 144."""
    read_scales: tuple[float, ...] = (0.02, 0.58, 0.4)
    """How often a picture is read at each scale index."""
    shown_scale: int = 2
    """Scale index of the drawings that are scored."""
    chinese: float = 0.25
    """Share of samples in Chinese; the rest is English."""
    unconditional: float = 0.08
    """Share of drawings that learn without their text, for guidance."""
    answers: int = 5
    """Questions about one picture in a row."""
    presence: int = 2
    """How many of them, at most, ask whether something is there."""
    described: float = 0.6
    """How many conversations hold a description, half of them before the questions, half after."""
    read_corpora: tuple[float, ...] = (0.2, 0.15, 0.65)
    """Share of reading samples from each corpus."""
    text_weight: float = 0.5
    """Weight of the mean text loss beside the mean code loss."""
    by_answer: bool = True
    """Take the mean text loss over answers, not over ids: "yes" then counts as much as a long description."""


class JointStage(Stage):
    """See the module docstring. `corpora`: what is drawn first, then what is only read."""

    def __init__(
        self,
        settings: JointSettings,
        corpora: Sequence[Corpus],
        tokenizer: TextTokenizer,
        ta_tok: TATok,
        heads: DenseHeads,
        texts: TextTasks,
        start: dict[str, torch.Tensor] | None,
        *,
        name: str = "joint",
        knows_codes: bool = False,
    ) -> None:
        """`start`: weights to go on from; `knows_codes`: their code rows stay, else they start from the codebook."""
        self.name, self.recipe, self.settings, self.corpora = name, settings, settings.loop, corpora
        self.ta_tok, self.heads, self.start, self.knows_codes = ta_tok, heads, start, knows_codes
        self.prompts = PromptBuilder(tokenizer, settings.model.vocab, limit=settings.model.max_length)
        self.texts = texts

    def module(self) -> nn.Module:
        model = TarLanguageModel(self.recipe.model)
        if self.start is not None:
            tied = {"lm_head.weight": self.start["model.embed_tokens.weight"]} if self.recipe.model.tie else {}
            strict_load(model.qwen, {**self.start, **tied}, "the stage before")
        if not self.knows_codes:
            model.start_code_rows(self.ta_tok.codebook())
        return LanguageModule(model, self.recipe.text_weight, self.recipe.by_answer)

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        return pad_batch([self._example(rng) for _ in range(size)], self.prompts.padding)

    def _example(self, rng: np.random.Generator) -> Example:
        lang = "zh" if rng.random() < self.recipe.chinese else "en"
        task = int(rng.choice(3, p=self.recipe.task_shares))
        if task == 2:
            return self.texts.example(rng, self.prompts)
        corpus = self.corpora[0 if task == 0 else int(rng.choice(len(self.corpora), p=self.recipe.read_corpora))]
        scale = int(rng.choice(3, p=self.recipe.draw_scales if task == 0 else self.recipe.read_scales))
        index = int(rng.integers(len(corpus.specs)))
        codes, spec = corpus.codes[scale][index].tolist(), corpus.specs[index]
        if task == 0:
            unsaid = rng.random() < self.recipe.unconditional
            # Tidy pictures have the first object on the left: said in that order, a sentence has one picture.
            return self.prompts.train_draw(None if unsaid else caption(spec, lang, rng, ordered=True), codes)
        return self.prompts.train_conversation(conversation(Shown(codes), self._asked(spec, lang, rng)))

    def _asked(self, spec: SceneSpec, lang: str, rng: np.random.Generator) -> list[QA]:
        """A few questions by lot, but for presence of different kinds; a description comes first or last."""
        asked = [qa for qa in questions(spec, lang, rng) if qa.kind != "presence"]
        by_kind = one_of_each_kind(asked, rng)
        described = bool(rng.random() < self.recipe.described)
        chosen = presence_questions(spec, lang, rng, self.recipe.presence)
        room = max(0, self.recipe.answers - len(chosen) - described)
        chosen += [by_kind[place] for place in rng.permutation(len(by_kind))[:room]]
        chosen = [chosen[place] for place in rng.permutation(len(chosen))]
        if described:
            chosen.insert(0 if rng.random() < 0.5 else len(chosen), describe(spec, lang, rng))
        return chosen

    def scores(self, module: nn.Module) -> dict[str, float]:
        assert isinstance(module, LanguageModule)
        return {**self._drawing_scores(module.model), **self._reading_scores(module.model)}

    def _drawing_scores(self, model: TarLanguageModel) -> dict[str, float]:
        """Draw held-out scenes and read the codes back with the teacher's heads: names, and names with colours."""
        scores, scale = {}, model.vocab.scale(self.recipe.shown_scale)
        styles = self.corpora[0].styles
        for kind in ("single", "colour", "two"):
            source = ScenePictures(split="val", styles=styles, kinds=[kind], tidy=self.corpora[0].tidy)
            specs = source.specs(np.random.default_rng(9), max(2, self.settings.score_size // 8))
            prompts = [self.prompts.draw(plain(spec, "en"), scale) for spec in specs]
            codes = draw_codes(model, prompts, scale, seeds=list(range(len(specs))), temperature=0.7, top_p=0.9)
            right = [
                said_right(self.heads, self.ta_tok.decode(row[None]), spec)
                for row, spec in zip(codes, specs, strict=True)
            ]
            scores[f"draw_{kind}"] = float(np.mean(right))
        return scores

    def _reading_scores(self, model: TarLanguageModel) -> dict[str, float]:
        """Exact answers to questions about held-out scenes, by kind."""
        source, rng = ScenePictures(split="val"), np.random.default_rng(9)
        specs = source.specs(rng, max(2, self.settings.score_size // 3))
        codes = spell(specs, source, self.ta_tok, None, model.vocab.scales)["codes1"].tolist()
        asked = [(row, qa) for row, spec in zip(codes, specs, strict=True) for qa in self._asked(spec, "en", rng)]
        right: dict[str, list[bool]] = {}
        for start in range(0, len(asked), 64):
            part = asked[start : start + 64]
            said = generate_text(model, [self.prompts.read([row], qa.question) for row, qa in part], max_new_tokens=40)
            for (_, qa), ids in zip(part, said, strict=True):
                right.setdefault(qa.kind, []).append(self.prompts.tokenizer.decode(ids).strip() == qa.answer)
        return {f"read_{kind}": float(np.mean(values)) for kind, values in sorted(right.items())}

    def samples(self, module: nn.Module, folder: Path, step: int) -> None:
        assert isinstance(module, LanguageModule)
        source = ScenePictures(split="val")
        specs = source.specs(np.random.default_rng(3), 12)
        codes = spell(specs, source, self.ta_tok, None, module.model.vocab.scales)["codes1"].tolist()
        said = generate_text(
            module.model, [self.prompts.read([row], "Describe the picture.") for row in codes], max_new_tokens=40
        )
        lines = [
            f"{plain(spec, 'en')}  ->  {self.prompts.tokenizer.decode(ids)}\n"
            for spec, ids in zip(specs, said, strict=True)
        ]
        (folder / f"step-{step:07d}.txt").write_text("".join(lines), encoding="utf-8")

    def finish(self, module: nn.Module, folder: Path) -> None:
        assert isinstance(module, LanguageModule)
        save_language(folder / "language", module.model, self.prompts)


def said_right(heads: DenseHeads, feats_1ND: torch.Tensor, spec: SceneSpec) -> bool:
    """Whether the frozen heads find exactly the scene's names, each in its colour where one was asked for."""
    found = heads.names(feats_1ND)
    wanted = {(item.concept, COLOURS.index(item.colour) if item.colour else None) for item in spec.objects}
    coloured = all(any(name == concept and colour in (None, hue) for name, hue in found) for concept, colour in wanted)
    return coloured and {name for name, _ in found} == {concept for concept, _ in wanted}
