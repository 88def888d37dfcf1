"""What an engine asks of a language model: ids in, logits over a range of ids out. No hidden states, no weights.

Quantized, adapted and foreign models can keep this promise. A sequence lives in a numbered slot, which holds its keys
and values. Slots are independent: whatever a call names, the others stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from opentar.language.model import LanguageConfig

Pieces = Sequence[Sequence[int]]
"""Ids for several slots."""


class Backend(Protocol):
    """A language model that runs."""

    name: str
    """What it is called on the command line."""
    config: LanguageConfig
    """Its sizes and its alphabet."""

    def open(self, count: int) -> list[int]:
        """So many empty slots. Raises ModelError where there are not as many."""

    def extend(self, slots: Sequence[int], pieces: Pieces) -> None:
        """Append ids to each slot, a whole prompt or the id that was chosen last: at least one.

        Raises PromptError for an empty piece, ModelError beyond the model's positions.
        """

    def logits(self, slots: Sequence[int], ids: range) -> Tensor:
        """Float32 logits (B, len(ids)) of the next id of each slot, over these ids only.

        A slot whose last ids were put at positions (`PlacingBackend`) has a row for each of them, in their order.
        """

    def fork(self, slot: int) -> int:
        """A new slot with the same ids; what is appended to one does not change the other."""

    def close(self, slots: Sequence[int]) -> None:
        """Give slots back."""


@runtime_checkable
class PlacingBackend(Backend, Protocol):
    """A backend that also takes ids in another order than that of their positions: several codes a pass."""

    def put(self, slots: Sequence[int], pieces: Pieces, positions: Sequence[Sequence[int] | None]) -> None:
        """Put ids at positions of their slot, in one pass for all slots.

        An id sees what its slot holds at smaller positions, those of this call included; positions that hold nothing
        are passed over. What a position held before is replaced, and nobody sees it any more.

        Args:
            slots: each once.
            pieces: ids of each slot, at least one.
            positions: of the ids of each slot, ascending, from 0; None appends them as `extend` does.

        Raises PromptError for an empty piece, ModelError beyond the model's positions.
        """
