"""Language: one model learns from conversations, of words alone or of words and codes, with one loss.

What it learns is its task, usually a mixture (`data/task.py`); what it is scored on are its looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from opentar.core.folder import strict_load
from opentar.data.stream import Batch
from opentar.data.task import Task
from opentar.engine.backends.torch_backend import TorchBackend
from opentar.engine.engine import Engine
from opentar.language.folder import save_language
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.language.prompt import IGNORED, PromptBuilder
from opentar.train.stage import LoopSettings, Stage

LIKE_LENGTH = 16
"""Rows of a batch that are run at a time, sorted by length: conversations are twice as long as drawings."""
LOOK_BATCH = 64
"""Requests side by side where a model is looked at: nobody waits for the first one."""


class LanguageRecipe(Protocol):
    """What the recipe of a language stage says."""

    @property
    def loop(self) -> LoopSettings:
        """Of the trainer."""

    @property
    def model(self) -> LanguageConfig:
        """The language model."""

    @property
    def text_weight(self) -> float:
        """Weight of the mean text loss beside the mean code loss."""

    @property
    def by_answer(self) -> bool:
        """Take the mean text loss over answers, not over ids: "yes" then counts as much as a long description."""


class Look(Protocol):
    """One way to look at a language model while it is trained, on held-out data."""

    def scores(self, engine: Engine) -> dict[str, float]:
        """Scores by name."""

    def samples(self, engine: Engine) -> Sequence[str]:
        """Lines for a person to read."""


class LanguageModule(nn.Module):
    """The language model with its loss."""

    def __init__(self, model: TarLanguageModel, text_weight: float = 1.0, by_answer: bool = False) -> None:
        super().__init__()
        self.model, self.text_weight, self.by_answer = model, text_weight, by_answer

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of ids and labels int64 (B, T), and its parts."""
        parts = self.model.loss_parts(batch["ids"], batch["labels"], group=LIKE_LENGTH, by_answer=self.by_answer)
        shown = {"codes": parts.codes.detach(), "text": parts.text.detach()}
        loss = torch.nan_to_num(parts.codes, nan=0.0) + self.text_weight * torch.nan_to_num(parts.text, nan=0.0)
        return loss, shown


class LanguageStage(Stage):
    """See the module docstring.

    Args:
        settings: the recipe.
        task: what is learned.
        builder: makes ids and labels of conversations.
        name: of the stage.
        start: weights of a language model to start from; None draws them.
        codebook: rows (K, C) that the code rows start from; None leaves them as they are.
        looks: what it is scored on.
    """

    def __init__(
        self,
        settings: LanguageRecipe,
        task: Task,
        builder: PromptBuilder,
        *,
        name: str,
        start: dict[str, Tensor] | None = None,
        codebook: Tensor | None = None,
        looks: Sequence[Look] = (),
    ) -> None:
        self.name, self.recipe, self.settings, self.task = name, settings, settings.loop, task
        self.builder, self.start, self.codebook, self.looks = builder, start, codebook, looks

    def module(self) -> nn.Module:
        model = TarLanguageModel(self.recipe.model)
        if self.start is not None:
            tied = {"lm_head.weight": self.start["model.embed_tokens.weight"]} if self.recipe.model.tie else {}
            strict_load(model.qwen, {**self.start, **tied}, "the stage before")
        if self.codebook is not None:
            model.start_code_rows(self.codebook)
        return LanguageModule(model, self.recipe.text_weight, self.recipe.by_answer)

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        samples = [self.builder.labelled(self.task.sample(rng)) for _ in range(size)]
        return pad_batch(samples, self.builder.padding)

    def scores(self, module: nn.Module) -> dict[str, float]:
        engine = self._engine(module)
        found = [look.scores(engine) for look in self.looks]
        return {name: value for scores in found for name, value in scores.items()}

    def samples(self, module: nn.Module, folder: Path, step: int) -> None:
        engine = self._engine(module)
        lines = [line for look in self.looks for line in look.samples(engine)]
        if lines:
            text = "".join(f"{line}\n" for line in lines)
            (folder / f"step-{step:07d}.txt").write_text(text, encoding="utf-8")

    def _engine(self, module: nn.Module) -> Engine:
        assert isinstance(module, LanguageModule)
        return Engine(TorchBackend(module.model), self.builder, batch=LOOK_BATCH)

    def finish(self, module: nn.Module, folder: Path) -> None:
        assert isinstance(module, LanguageModule)
        save_language(folder / "language", module.model, self.builder)


def pad_batch(samples: Sequence[tuple[list[int], list[int]]], padding: int) -> Batch:
    """(ids, labels) of different lengths -> int64 (B, T) tensors, filled up on the right."""
    longest = max(len(ids) for ids, _ in samples)
    ids = torch.full((len(samples), longest), padding, dtype=torch.int64)
    labels = torch.full((len(samples), longest), IGNORED, dtype=torch.int64)
    for row, (own, said) in enumerate(samples):
        ids[row, : len(own)] = torch.tensor(own)
        labels[row, : len(said)] = torch.tensor(said)
    return {"ids": ids, "labels": labels}
