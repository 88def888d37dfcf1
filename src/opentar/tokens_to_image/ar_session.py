"""What a drawing keeps of the AR transformer while its codes are computed, whoever computes them.

Legend: R rows (pictures, and behind them the same without their condition), P positions computed, W model width, V
codes in the codebook.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from opentar.tokens_to_image.ar_blocks import Cache, Places

if TYPE_CHECKING:
    from opentar.tokens_to_image.ar import ARTransformer


class Session(Protocol):
    """One drawing: rows of keys and values, and what computes with them. Slots are positions."""

    @property
    def filled(self) -> int:
        """Slots that `step` has filled."""
        ...

    def step(self, inputs_RPW: Tensor) -> Tensor:
        """Logits (R, V) after the last of the new inputs: the whole prefix first, then one embedded code a call.

        The prefix may have fewer rows than were asked for; `spread` follows then.
        """
        ...

    def several(self, inputs_RPW: Tensor, places: Places) -> Tensor:
        """Logits (R, P, V) after each of several embedded codes that stand at `places`; rows beyond R stay behind."""
        ...

    def spread(self, pictures: int) -> None:
        """Give every picture the row without a condition, of which the prefix had one, behind those of the pictures."""
        ...

    def first(self, rows: int) -> None:
        """Go on with the first rows alone."""
        ...


class Computes(Protocol):
    """Begins drawings."""

    def begin(self, rows: int, slots: int) -> Session:
        """Room for so many rows and slots."""
        ...


class TorchSession:
    """A drawing by the transformer itself, with a cache that is allocated once."""

    def __init__(self, model: ARTransformer, rows: int, slots: int) -> None:
        self._model = model
        self._cache = Cache(model.config, rows, slots, model.positions)

    @property
    def filled(self) -> int:
        """Slots that `step` has filled."""
        return self._cache.filled

    def step(self, inputs_RPW: Tensor) -> Tensor:
        """As the protocol says."""
        part = self._cache.first(len(inputs_RPW))
        logits_RV = self._model.step(inputs_RPW, part)
        self._cache.filled = part.filled
        return logits_RV

    def several(self, inputs_RPW: Tensor, places: Places) -> Tensor:
        """As the protocol says."""
        return self._model.several(inputs_RPW, self._cache.first(len(inputs_RPW)), places)

    def spread(self, pictures: int) -> None:
        """As the protocol says."""
        store, length = self._cache.store, self._cache.filled
        store[:, :, pictures + 1 :, :, :length] = store[:, :, pictures : pictures + 1, :, :length]

    def first(self, rows: int) -> None:
        """As the protocol says."""
        self._cache = self._cache.first(rows)


def seen_columns(places: Places, columns_RS: Tensor, columns: int) -> Tensor:
    """Which of so many columns each position sees, bool (R, P, columns), where slot s of a row lies in a column.

    `columns_RS` int64 has `columns` for a slot that lies nowhere yet.
    """
    seen_RPS = places.seen_R1PS[:, 0]
    rows, positions, slots = seen_RPS.shape
    made = torch.zeros(rows, positions, columns + 1, dtype=torch.bool)
    where_RPS = columns_RS[:, None, :slots].expand(rows, positions, slots)
    return made.scatter_(2, where_RPS, seen_RPS)[..., :columns]
