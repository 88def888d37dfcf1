"""Dense heads: what every cell of a feature grid shows. The teacher learns them; the tokenizer must keep them readable.

Legend: B pictures, N = side * side cells, D feature width, K concepts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.palette import BACKGROUNDS, COLOURS
from opentar.train.stages.ta_tok import normalise
from opentar.train.words import sentence_embeddings

SURE = 0.5
"""A cell names an object from this probability on."""


class DenseHeads(nn.Module):
    """Concept, colour, centre, background and word direction, read linearly from normalised features.

    `text_KT` float32 (K, T): one sentence embedding per concept name, frozen.
    """

    text_KT: torch.Tensor

    def __init__(self, width: int, text_KT: torch.Tensor) -> None:
        super().__init__()
        self.concept = nn.Linear(width, len(text_KT) + 1)
        self.colour = nn.Linear(width, len(COLOURS) + 1)
        self.centre = nn.Linear(width, 1)
        self.background = nn.Linear(width, len(BACKGROUNDS))
        self.word = nn.Linear(width, text_KT.shape[1])
        self.register_buffer("text_KT", F.normalize(text_KT.float(), dim=-1))

    def losses(self, feats_BND: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Cross-entropies in fp32. `batch` has concept, colour (B, N) int64 with -1 for none, centre (B, N) float in
        [0, 1], background (B,) int64. Empty cells count a quarter: they are most of a picture and easy."""
        feats_BND = normalise(feats_BND)
        concept_BN, colour_BN = batch["concept"], batch["colour"]
        seen_BN = concept_BN >= 0
        count = seen_BN.sum().clamp(min=1)
        none = len(self.text_KT)
        target_BN = concept_BN.masked_fill(~seen_BN, none)
        logits = self.concept(feats_BND).float().flatten(0, 1)
        weight_BN = torch.where(seen_BN, 1.0, 0.25)
        concept = F.cross_entropy(logits, target_BN.flatten(), reduction="none", label_smoothing=0.02)
        seen_feats = feats_BND[seen_BN]
        words = F.normalize(self.word(seen_feats).float(), dim=-1)
        agreement = (words * self.text_KT[concept_BN[seen_BN]]).sum(-1)
        return {
            "concept": (concept * weight_BN.flatten()).sum() / weight_BN.sum(),
            "colour": mean_cross_entropy(self.colour(seen_feats), colour_BN[seen_BN]),
            "centre": F.binary_cross_entropy_with_logits(self.centre(feats_BND).float().squeeze(-1), batch["centre"]),
            "background": mean_cross_entropy(self.background(feats_BND.mean(1)), batch["background"]),
            "word": (1 - agreement).sum() / count,
        }

    @torch.no_grad()
    def read(self, feats_BND: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the heads get right on labelled pictures: per-cell counts and whole scenes.

        `batch` also has `object` (B, N) int64, the index of the object that a cell belongs to, -1 for none.
        Returns sums: cells, concept, colour, scenes, scene (every object of it named and coloured right).
        """
        feats_BND = normalise(feats_BND)
        concept_BNK, colour_BNC = self.concept(feats_BND).float(), self.colour(feats_BND).float()
        seen_BN = batch["concept"] >= 0
        right = (concept_BNK.argmax(-1) == batch["concept"]) & seen_BN
        right_colour = (colour_BNC.argmax(-1) == batch["colour"]) & seen_BN
        scene_right = torch.ones(len(feats_BND), dtype=torch.bool, device=feats_BND.device)
        for index in range(int(batch["object"].max()) + 1):
            cells_BN = batch["object"] == index
            shown = cells_BN.any(1)
            share = cells_BN.unsqueeze(-1).float()
            name = (concept_BNK * share).sum(1)[:, :-1].argmax(-1)
            hue = (colour_BNC * share).sum(1).argmax(-1)
            true_name = batch["concept"].masked_fill(~cells_BN, -1).amax(1)
            true_hue = batch["colour"].masked_fill(~cells_BN, -1).amax(1)
            scene_right &= ~shown | ((name == true_name) & (hue == true_hue))
        return {
            "cells": seen_BN.sum(),
            "concept": right.sum(),
            "colour": right_colour.sum(),
            "scenes": torch.tensor(len(feats_BND)),
            "scene": scene_right.sum(),
        }

    @torch.no_grad()
    def names(self, feats_1ND: torch.Tensor) -> set[tuple[int, int]]:
        """(concept, colour) of every cell of one picture that surely shows an object; colour 11 is its own."""
        feats_ND = normalise(feats_1ND)[0]
        sure, concepts = self.concept(feats_ND).float().softmax(-1).max(-1)
        colours = self.colour(feats_ND).argmax(-1)
        named = (sure > SURE) & (concepts < len(self.text_KT))
        return set(zip(concepts[named].tolist(), colours[named].tolist(), strict=True))


def mean_cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over the targets that are not -1; 0 where there is none (a plain mean would be NaN)."""
    return F.cross_entropy(logits.float(), target, ignore_index=-1, reduction="sum") / (target >= 0).sum().clamp(min=1)


def concept_embeddings() -> torch.Tensor:
    """float32 (concepts, 384): one unit sentence embedding per English concept name."""
    return sentence_embeddings(tuple(concept.en for concept in load_concepts())).clone()
