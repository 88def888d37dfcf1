"""What an engine asks of a language model: ids in, logits over a range of ids out. No hidden states, no weights.

Quantized, adapted and foreign models can keep this promise. Rows are sequences that are continued together; each has
its place in a cache that belongs to the backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from opentar.language.model import LanguageConfig

Prompts = Sequence[Sequence[int]]
"""Ids of several sequences."""


class Rows(Protocol):
    """Sequences in the middle of being continued."""

    def logits(self, ids: range) -> Tensor:
        """Logits (B, len(ids)) of the next id of each row, over these ids only, in the backend's own type."""

    def step(self, tokens_B: Tensor) -> None:
        """Append one id, int64 (B,), to each row. Raises ModelError beyond the model's positions."""

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order: one that is left out is freed, one that is named twice is forked."""


class Backend(Protocol):
    """A language model that runs."""

    config: LanguageConfig
    """Its sizes and its alphabet."""

    def prefill(self, prompts: Prompts) -> Rows:
        """Read prompts, whose next ids can then be asked for. Raises PromptError for none or an empty one."""

    def log_probabilities(self, prompts: Prompts, answers: Prompts, allowed: Tensor) -> Tensor:
        """How likely each answer is after the prompt of the same place: natural logarithms, float32 (B,).

        `allowed` is bool (R,): which of the ids 0 .. R-1 may be said at all.
        """
