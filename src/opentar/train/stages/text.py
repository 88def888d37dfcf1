"""Text pre-training: words before pictures. Real text, not a copy task.

Emoji names, tags and their translations, dictionary glosses, captions of scenes with their paraphrases and
translations, and questions about a scene that a caption tells; the byte-level BPE is made from the same texts first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from opentar.core.config import to_dict
from opentar.core.folder import save_part
from opentar.data.captions import caption, plain
from opentar.data.questions import QA, one_of_each_kind, presence_questions, questions
from opentar.data.spec import SceneSpec
from opentar.data.texts import TextPair, load_texts, raw_strings, tasks_of, text_task
from opentar.language.generate import generate_text
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.language.prompt import PromptBuilder, Shown, Turn
from opentar.language.tokenizer import TextTokenizer, train_bpe
from opentar.train.stage import LoopSettings, Stage
from opentar.train.stages.pictures import ScenePictures

CHINESE = 0.25
"""Share of conversations about told scenes that are Chinese; the rest is English."""
CAPTIONS_FOR_BPE = 12_000
"""Scenes whose captions and questions the tokenizer is made from, beside all texts."""


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """The recipe of text pre-training."""

    loop: LoopSettings
    model: LanguageConfig
    caption_share: float = 0.4
    """Share of samples that say a caption in other words or another language."""
    question_share: float = 0.35
    """Share of conversations about a scene that a caption tells; the rest of all come from the text corpus."""
    held_out: float = 0.03
    """Share of the corpus' entries that is never trained on and is scored."""


def bpe_texts() -> Iterator[str]:
    """Everything the tokenizer should know the pieces of."""
    yield from raw_strings(load_texts())
    source, rng = ScenePictures(), np.random.default_rng(1)
    for spec in source.specs(rng, CAPTIONS_FOR_BPE):
        for lang in ("en", "zh"):
            yield caption(spec, lang, rng)
            for qa in questions(spec, lang, rng, describing=True):
                yield f"{qa.question} {qa.answer}"


def build_tokenizer(folder: Path, size: int) -> TextTokenizer:
    """The tokenizer in `folder`, trained there first where it is missing; the same texts give the same pieces."""
    if not (folder / "tokenizer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Its existence means that it is whole, so it appears in one move.
        unfinished = folder.with_name(folder.name + ".partial")
        unfinished.mkdir(parents=True, exist_ok=True)
        train_bpe(bpe_texts(), size=size).save(unfinished)
        os.replace(unfinished / "tokenizer.json", folder / "tokenizer.json")
    return TextTokenizer.load(folder)


ANSWERS = 4
"""Most questions about one told scene."""


class TextTasks:
    """Samples of text -> text: the corpus' tasks, captions rephrased or translated, and questions about what they tell.

    Who has learned to find a name of the question in a caption has less to learn where codes tell the scene.
    """

    def __init__(self, caption_share: float, held_out: float, question_share: float = 0.0) -> None:
        texts = [text for text in load_texts() if tasks_of(text)]
        order = np.random.default_rng(13).permutation(len(texts))
        count = max(1, round(held_out * len(texts)))
        self.kept_back = [texts[index] for index in order[:count]]
        self.texts = [texts[index] for index in order[count:]]
        self.caption_share, self.question_share, self.source = caption_share, question_share, ScenePictures()

    def example(self, rng: np.random.Generator, prompts: PromptBuilder) -> tuple[list[int], list[int]]:
        """Ids and labels of one sample."""
        if rng.random() >= self.question_share:
            return prompts.train_text(*self.sample(rng))
        lang = "zh" if rng.random() < CHINESE else "en"
        told, asked = told_questions(self.source.generator.sample(rng), lang, rng)
        return prompts.train_conversation(conversation(told, asked))

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """One (prompt, answer) that is no question about a scene."""
        if rng.random() * (1 - self.question_share) >= self.caption_share:
            return any_task(self.texts[int(rng.integers(len(self.texts)))], rng)
        spec, background = self.source.generator.sample(rng), bool(rng.random() < 0.6)
        match int(rng.integers(3)):
            case 0:
                return "Translate into Chinese: " + plain(spec, "en", background), plain(spec, "zh", background)
            case 1:
                return "翻译成英文：" + plain(spec, "zh", background), plain(spec, "en", background)
            case _:
                said = caption(spec, "en", rng, background=background)
                return "Say it in other words: " + said, plain(spec, "en", background)


def told_questions(spec: SceneSpec, lang: str, rng: np.random.Generator) -> tuple[str, list[QA]]:
    """A caption, and questions about the scene that it answers, each kind but presence at most once."""
    background = bool(rng.random() < 0.6)
    told = caption(spec, lang, rng, background=background)
    unsaid = {"presence", *([] if background else ["background"]), *([] if spec.kind == "position" else ["position"])}
    asked = [qa for qa in questions(spec, lang, rng) if qa.kind not in unsaid]
    by_kind = one_of_each_kind(asked, rng)
    chosen = [*presence_questions(spec, lang, rng, 2), *by_kind]
    return told, [chosen[place] for place in rng.permutation(len(chosen))[:ANSWERS]]


def conversation(shown: str | Shown, asked: Sequence[QA]) -> list[Turn]:
    """A caption or a picture and several questions about it; it stands before the first question only."""
    turns = []
    for place, qa in enumerate(asked):
        parts = (shown, "\n" + qa.question) if place == 0 else (qa.question,)
        turns += [Turn("user", parts), Turn("assistant", (qa.answer,))]
    return turns


def any_task(text: TextPair, rng: np.random.Generator) -> tuple[str, str]:
    """One of the tasks that a row of the corpus can pose."""
    tasks = tasks_of(text)
    return text_task(text, tasks[int(rng.integers(len(tasks)))], rng)


def pad_batch(examples: list[tuple[list[int], list[int]]], padding: int) -> dict[str, torch.Tensor]:
    """(ids, labels) of different lengths -> int64 (B, T) tensors, filled up on the right."""
    longest = max(len(ids) for ids, _ in examples)
    ids = torch.full((len(examples), longest), padding, dtype=torch.int64)
    labels = torch.full((len(examples), longest), -100, dtype=torch.int64)
    for row, (own, said) in enumerate(examples):
        ids[row, : len(own)] = torch.tensor(own)
        labels[row, : len(said)] = torch.tensor(said)
    return {"ids": ids, "labels": labels}


LIKE_LENGTH = 16
"""Rows of a batch that are run at a time, sorted by length: conversations are twice as long as drawings."""


class LanguageModule(nn.Module):
    """The language model with the loss of both language stages."""

    def __init__(self, model: TarLanguageModel, text_weight: float = 1.0, by_answer: bool = False) -> None:
        super().__init__()
        self.model, self.text_weight, self.by_answer = model, text_weight, by_answer

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        parts = self.model.loss_parts(batch["ids"], batch["labels"], group=LIKE_LENGTH, by_answer=self.by_answer)
        shown = {"codes": parts.codes.detach(), "text": parts.text.detach()}
        loss = torch.nan_to_num(parts.codes, nan=0.0) + self.text_weight * torch.nan_to_num(parts.text, nan=0.0)
        return loss, shown


class TextStage(Stage):
    """See the module docstring."""

    name = "text"

    def __init__(self, settings: TextSettings, tokenizer: TextTokenizer, tasks: TextTasks) -> None:
        self.recipe, self.settings = settings, settings.loop
        self.tokenizer = tokenizer
        self.prompts = PromptBuilder(tokenizer, settings.model.vocab, limit=settings.model.max_length)
        self.tasks = tasks

    def module(self) -> nn.Module:
        return LanguageModule(TarLanguageModel(self.recipe.model), by_answer=True)

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        return pad_batch([self.tasks.example(rng, self.prompts) for _ in range(size)], self.prompts.padding)

    def scores(self, module: nn.Module) -> dict[str, float]:
        assert isinstance(module, LanguageModule)
        rng = np.random.default_rng(7)
        tasks = [any_task(entry, rng) for entry in self.tasks.kept_back for _ in range(2)][:256]
        batch = pad_batch([self.prompts.train_text(*task) for task in tasks], self.prompts.padding)
        nats = float(module.model.loss_parts(batch["ids"], batch["labels"]).text)
        return {"held_out_nats": nats, **self._told_scores(module.model)}

    def _told_scores(self, model: TarLanguageModel) -> dict[str, float]:
        """Exact answers to the first question about told scenes of held-out combinations."""
        source, rng = ScenePictures(split="val"), np.random.default_rng(9)
        asked = []
        for spec in source.specs(rng, max(2, self.settings.score_size // 2)):
            told, chosen = told_questions(spec, "en", rng)
            asked.append((f"{told}\n{chosen[0].question}", chosen[0]))
        said = generate_text(model, [self.prompts.text(text) for text, _ in asked], max_new_tokens=12)
        right: dict[str, list[bool]] = {}
        for (_, qa), ids in zip(asked, said, strict=True):
            right.setdefault(qa.kind, []).append(self.prompts.tokenizer.decode(ids).strip() == qa.answer)
        return {f"told_{kind}": float(np.mean(values)) for kind, values in sorted(right.items())}

    def finish(self, module: nn.Module, folder: Path) -> None:
        assert isinstance(module, LanguageModule)
        save_part(folder / "language", to_dict(self.recipe.model), module.model.state())
