"""Draft: one wide layer learns the mean picture of its codes, from many more samples than the flow could see.

A step costs a hundredth of the flow's, so batches are large, and the features of codes are decoded once, not at every
step, where they fit into memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from opentar.core.config import to_dict
from opentar.core.device import has_bf16_cpu
from opentar.core.folder import save_part
from opentar.data.pictures import PictureSource
from opentar.image_to_tokens.ta_tok import TATok
from opentar.tokens_to_image.autoencoder import Autoencoder
from opentar.tokens_to_image.draft import Draft, DraftConfig
from opentar.train.corpus import Corpus
from opentar.train.stage import BesideFrozen, LoopSettings
from opentar.train.stages.painting import PaintingStage

_LARGEST_TABLE = 2 * 10**9
"""Most bytes of features that are kept, all scales together; a scale without room is decoded at every step."""


@dataclass(frozen=True, kw_only=True)
class DraftSettings:
    """The draft's recipe."""

    loop: LoopSettings
    model: DraftConfig
    scale_shares: tuple[float, ...]
    """How often a batch comes from codes of each scale index."""
    corpus_shares: tuple[float, ...]
    """How often a sample comes from each corpus."""


class DraftModule(BesideFrozen):
    """The draft with its loss, and the corpora it learns from: a batch is rows of them."""

    def __init__(self, config: DraftConfig, corpora: Sequence[Corpus], ta_tok: TATok) -> None:
        super().__init__(ta_tok)
        self.model = Draft(config)
        assert all(corpus.latents is not None for corpus in corpora), "a corpus without latents cannot teach painting"
        self._codes = [torch.cat(codes) for codes in zip(*(corpus.codes for corpus in corpora), strict=True)]
        self._latents = [torch.cat([corpus.latents for corpus in corpora if corpus.latents is not None])]
        self._tables: dict[int, Tensor] = {}

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        features_BND = self.features(int(batch["scale"]), batch["rows"])
        loss = self.model.loss(self._latents[0][batch["rows"].cpu()].to(features_BND), features_BND)
        return loss, {"mse": loss.detach()}

    def features(self, scale: int, rows_B: Tensor) -> Tensor:
        """Features (B, N, D) of these rows' codes at a scale index."""
        codes, rows_B, device = self._codes[scale], rows_B.cpu(), rows_B.device
        if scale not in self._tables:
            kept = sum(table.numel() for table in self._tables.values())
            if (kept + codes.numel() * self.model.config.feature_size) * 2 > _LARGEST_TABLE:
                return self._decode(codes[rows_B].to(device))
            parts = [self._decode(part.to(device)).to(torch.bfloat16).cpu() for part in codes.split(256)]
            self._tables[scale] = torch.cat(parts)
        return self._tables[scale][rows_B].float().to(device)

    @torch.no_grad()
    def _decode(self, codes_BN: Tensor) -> Tensor:
        ta_tok = cast(TATok, self.frozen[0])
        with torch.autocast(codes_BN.device.type, torch.bfloat16, enabled=has_bf16_cpu()):
            return ta_tok.decode(codes_BN)


class DraftPainter:
    """A draft as pixels: what the flow is shown beside the features."""

    def __init__(self, draft: Draft, autoencoder: Autoencoder) -> None:
        self.draft, self.autoencoder = draft, autoencoder

    @torch.no_grad()
    def decode(self, features_BND: Tensor, **_settings: object) -> Tensor:
        """Features (B, N, D) to pixels float32 (B, 3, H, W) in [0, 1]; nothing is drawn at random."""
        return self.autoencoder.decode_unit(self.draft(features_BND.float()))


class DraftStage(PaintingStage):
    """See the module docstring."""

    name = "draft"
    shown_scales = (1, 2)

    def __init__(
        self,
        settings: DraftSettings,
        corpora: Sequence[Corpus],
        held_out: PictureSource,
        ta_tok: TATok,
        autoencoder: Autoencoder,
    ) -> None:
        super().__init__(settings, corpora, held_out, ta_tok)
        self.recipe, self.autoencoder = settings, autoencoder

    def module(self) -> nn.Module:
        return DraftModule(self.recipe.model, self.corpora, self.ta_tok)

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        scale, picked = self.pick(rng, size)
        starts = np.cumsum([0, *(len(corpus) for corpus in self.corpora)])
        rows = torch.tensor([int(starts[number]) + index for number, index in picked])
        return {"scale": torch.tensor(scale), "rows": rows}

    def painter(self, module: nn.Module) -> DraftPainter:
        assert isinstance(module, DraftModule)
        return DraftPainter(module.model, self.autoencoder)

    def finish(self, module: nn.Module, folder: Path) -> None:
        assert isinstance(module, DraftModule)
        save_part(folder / "draft", to_dict(self.recipe.model), module.model.state_dict(), "float32")
