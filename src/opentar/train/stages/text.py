"""Text pre-training: words before pictures. Real text, not a copy task.

Emoji names, tags and their translations, dictionary glosses, and captions of scenes with their paraphrases and
translations; the byte-level BPE is made from the same texts first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from opentar.core.config import to_dict
from opentar.core.folder import save_part
from opentar.data.captions import caption, plain
from opentar.data.questions import questions
from opentar.data.texts import TextPair, load_texts, raw_strings, tasks_of, text_task
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.language.prompt import PromptBuilder
from opentar.language.tokenizer import TextTokenizer, train_bpe
from opentar.train.stage import LoopSettings, Stage
from opentar.train.stages.pictures import ScenePictures

CAPTIONS_FOR_BPE = 12_000
"""Scenes whose captions and questions the tokenizer is made from, beside all texts."""


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """The recipe of text pre-training."""

    loop: LoopSettings
    model: LanguageConfig
    caption_share: float = 0.6
    """Share of samples made from captions; the rest come from the text corpus."""
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


class TextTasks:
    """Samples of text -> text: the corpus' tasks, and captions rephrased or translated."""

    def __init__(self, caption_share: float, held_out: float) -> None:
        texts = [text for text in load_texts() if tasks_of(text)]
        order = np.random.default_rng(13).permutation(len(texts))
        count = max(1, round(held_out * len(texts)))
        self.kept_back = [texts[index] for index in order[:count]]
        self.texts = [texts[index] for index in order[count:]]
        self.caption_share, self.source = caption_share, ScenePictures()

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """One (prompt, answer)."""
        if rng.random() >= self.caption_share:
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
        return LanguageModule(TarLanguageModel(self.recipe.model))

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        tasks = [self.tasks.sample(rng) for _ in range(size)]
        return pad_batch([self.prompts.train_text(*task) for task in tasks], self.prompts.padding)

    def scores(self, module: nn.Module) -> dict[str, float]:
        assert isinstance(module, LanguageModule)
        rng = np.random.default_rng(7)
        tasks = [any_task(entry, rng) for entry in self.tasks.kept_back for _ in range(2)][:256]
        batch = pad_batch([self.prompts.train_text(*task) for task in tasks], self.prompts.padding)
        return {"held_out_nats": float(module.model.loss_parts(batch["ids"], batch["labels"]).text)}

    def finish(self, module: nn.Module, folder: Path) -> None:
        assert isinstance(module, LanguageModule)
        save_part(folder / "language", to_dict(self.recipe.model), module.model.state())
