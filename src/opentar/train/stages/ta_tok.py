"""TA-Tok: a tokenizer whose codes are projected word embeddings goes on from the start that `codebook.py` makes.

What learns is the recipe's choice: all parts, the feature decoder ten times faster than the rest, or the decoder alone,
which leaves every code as it is. Loss: 1 - cosine to the frozen teacher's features (as in the paper), the two
stop-gradient codebook terms, the teacher's dense heads read from the decoded features (cosine alone throws colour
away) and from the features before the bottleneck (the encoder still learns its trade), and a low-resolution picture
painted from the decoded features (codes that only name things cannot be drawn from). A scale is drawn for every batch.

Legend: B pictures, N cells of the scale's grid, D feature width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from opentar.core.folder import load_part, strict_load
from opentar.data.sheet import contact_sheet
from opentar.eval.measures import usage
from opentar.image_to_tokens.encoder import VisionEncoder, pool_grid
from opentar.image_to_tokens.quantizer import Quantized
from opentar.image_to_tokens.ta_tok import TATok, TATokConfig
from opentar.train.stage import LoopSettings, Stage
from opentar.train.stages.cells import vocab_of
from opentar.train.stages.codebook import SOFTNESS, WORDS
from opentar.train.stages.heads import DenseHeads, normalise
from opentar.train.stages.laying import few
from opentar.train.stages.pictures import ScenePictures, label_batch, to_pictures, to_unit
from opentar.train.words import concept_embeddings

OBJECT_CELL = 4.0
"""Weight of a cell that shows an object in the codebook terms."""
CELLS = 512
"""Object cells of a batch that the spread loss looks at; four times fewer empty ones."""
PATCH = 8
"""Side in pixels of the low-resolution patch that each cell paints, at every scale."""


@dataclass(frozen=True, kw_only=True)
class TATokSettings:
    """The tokenizer's recipe."""

    loop: LoopSettings
    model: TATokConfig
    mosaic_share: float = 0.15
    tidy: float = 0.0
    """How many of the other pictures stand in fixed places."""
    scale_shares: tuple[float, ...] = (0.12, 0.6, 0.28)
    """How often a batch is spelled at each scale index."""
    learns: tuple[str, ...] = ("",)
    """Name fragments of the weights that learn; the others stay as they start. "" stands in every name."""
    fast: tuple[str, ...] = ("model.decoder.", "painter.")
    """Name fragments of those that learn at ten times the rate."""
    weights: dict[str, float] = field(
        default_factory=lambda: dict(cosine=1.0, codebook=0.2, dense=0.3, free=0.3, paint=1.0, spread=0.1)
    )
    dense: dict[str, float] = field(
        default_factory=lambda: {"concept": 1.0, "colour": 1.0, "centre": 0.5, "background": 0.3, "word": 0.0}
    )


class TATokModule(nn.Module):
    """The tokenizer, the frozen teacher with its heads, and the painter that only training needs."""

    def __init__(self, settings: TATokSettings, teacher: Path | None, start: Path | None) -> None:
        super().__init__()
        self.recipe, self.scales = settings, vocab_of(settings.model).scales
        self.model = TATok(settings.model)
        width = settings.model.vision.hidden_size
        self.teacher = VisionEncoder(settings.model.vision)
        self.heads = DenseHeads(width, concept_embeddings())
        self.painter = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, 3 * PATCH * PATCH))
        if teacher is not None:
            strict_load(self.teacher, load_part(teacher / "encoder")[1], "the teacher's encoder")
            strict_load(self.heads, load_part(teacher / "heads")[1], "the teacher's heads")
        if start is not None:
            strict_load(self.model, load_part(start)[1], "the tokenizer's start")
        for name, weight in self.named_parameters():
            learns = weight.requires_grad and any(fragment in name for fragment in settings.learns)
            weight.requires_grad_(learns and not name.startswith(("teacher.", "heads.")))
        # An encoder that stays the teacher's own need not be run twice.
        self.encoder_learns = any(weight.requires_grad for weight in self.model.encoder.parameters())

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        scale = self.scales[int(batch["scale"])]
        pixels = to_unit(batch["pixels"])
        with torch.no_grad():
            taught = pool_grid(self.teacher(pixels), scale.pool)
            target = normalise(taught.float())
        out = self.model.forward_train(pixels, scale) if self.encoder_learns else self.model.train_from_features(taught)
        feats = normalise(out.decoded_BND.float())
        cosine = (1 - F.cosine_similarity(feats, target, dim=-1)).mean()
        dense = self.heads.losses(out.decoded_BND, batch)
        free = self.heads.losses(out.pooled_BND, batch)
        weight = torch.where(batch["concept"] >= 0, 3.0, 1.0).unsqueeze(-1)
        painted = self.painter(feats).float()
        paint = ((painted - patches(pixels, scale.side)).abs() * weight).mean()
        parts = {
            "cosine": cosine,
            "codebook": codebook_term(
                out.quantized, batch["concept"] >= 0, self.model.config.quantizer.commitment_weight
            ),
            "dense": self._weighed(dense),
            "free": self._weighed(free),
            "paint": paint,
            "spread": spread_loss(out.quantized.z_BNC, out.quantized.table_KC, batch["concept"] >= 0),
        }
        loss = sum((self.recipe.weights[name] * value for name, value in parts.items()), torch.zeros(()))
        codes_used = torch.tensor(float(out.codes_BN.unique().numel()))
        shown = {name: value.detach() for name, value in (parts | {"concept": dense["concept"]}).items()}
        return loss, {**shown, "free_concept": free["concept"].detach(), "codes_in_batch": codes_used}

    def _weighed(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        return sum((self.recipe.dense[name] * value for name, value in losses.items()), torch.zeros(()))


def codebook_term(quantized: Quantized, seen_BN: torch.Tensor, commitment: float) -> torch.Tensor:
    """The two stop-gradient terms, object cells weighed up: grounds are most cells and would pull every row to them."""
    weight_BN = torch.where(seen_BN, OBJECT_CELL, 1.0)
    z_BNC, rows_BNC = quantized.z_BNC, F.embedding(quantized.codes_BN, quantized.table_KC)
    to_features = (rows_BNC - z_BNC.detach()).square().sum(-1)
    to_rows = (rows_BNC.detach() - z_BNC).square().sum(-1)
    return ((to_features + commitment * to_rows) * weight_BN).sum() / weight_BN.sum()


def spread_loss(z_BNC: torch.Tensor, table_KC: torch.Tensor, seen_BN: torch.Tensor) -> torch.Tensor:
    """Minus the entropy (nats) of the codes' average use, plus the average entropy of each choice: use all, be sure.

    Softmax of cosine / SOFTNESS stands for the choice. Four object cells stand beside one
    empty one: grounds are few and need few codes. Source: the entropy penalty of MAGVIT-v2 (arXiv 2310.05737).
    """
    with torch.autocast(z_BNC.device.type, enabled=False):
        some = torch.cat([few(z_BNC[seen_BN], CELLS), few(z_BNC[~seen_BN], CELLS // 4)])
        chosen_MK = (some @ table_KC.T / SOFTNESS).softmax(-1)
        average_K = chosen_MK.mean(0)
        spread = -(average_K * (average_K + 1e-9).log()).sum()
        doubt = -(chosen_MK * (chosen_MK + 1e-9).log()).sum(-1).mean()
        return doubt - spread


def patches(pixels_B3HW: torch.Tensor, side: int) -> torch.Tensor:
    """The picture shrunk to side * PATCH pixels, cut into cells: (B, side * side, 3 * PATCH * PATCH) in [-1, 1]."""
    factor = pixels_B3HW.shape[-1] // (side * PATCH)
    small = F.avg_pool2d(pixels_B3HW, factor) if factor > 1 else pixels_B3HW
    return F.unfold(small, PATCH, stride=PATCH).transpose(1, 2)


def unpatch(patches_BNP: torch.Tensor) -> torch.Tensor:
    """The reverse of `patches`: (B, N, 3 * PATCH * PATCH) -> (B, 3, S, S)."""
    side = round(patches_BNP.shape[1] ** 0.5)
    return F.fold(patches_BNP.transpose(1, 2), side * PATCH, PATCH, stride=PATCH)


class TATokStage(Stage):
    """See the module docstring. `teacher` is the result folder of the teacher stage, `start` a tokenizer's folder."""

    name = "ta_tok"

    def __init__(self, settings: TATokSettings, teacher: Path | None, start: Path | None) -> None:
        self.recipe, self.settings, self.teacher, self.start = settings, settings.loop, teacher, start
        self.source = ScenePictures(mosaic_share=settings.mosaic_share, tidy=settings.tidy)
        self.vocab = vocab_of(settings.model)

    def module(self) -> nn.Module:
        return TATokModule(self.recipe, self.teacher, self.start)

    def fast_parameters(self) -> tuple[str, ...]:
        return self.recipe.fast

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        scale = self.vocab.scale(int(rng.choice(3, p=self.recipe.scale_shares)))
        specs = self.source.specs(rng, size)
        pixels = self.source.pixels(specs, self.recipe.model.vision.image_size)
        return {"pixels": pixels, "scale": torch.tensor(scale.index), **label_batch(specs, scale.side)}

    def scores(self, module: nn.Module) -> dict[str, float]:
        assert isinstance(module, TATokModule)
        scores: dict[str, float] = {}
        source = ScenePictures(split="val")
        specs = source.specs(np.random.default_rng(7), self.settings.score_size)
        for scale in self.vocab.scales:
            total: dict[str, float] = {}
            histogram = torch.zeros(self.vocab.codebook_size, dtype=torch.int64)
            for start in range(0, len(specs), 64):
                part = specs[start : start + 64]
                codes = module.model.encode(to_unit(source.pixels(part, self.recipe.model.vision.image_size)), scale)
                histogram += torch.bincount(codes.flatten(), minlength=len(histogram))
                counts = module.heads.read(module.model.decode(codes), label_batch(part, scale.side))
                total = {key: total.get(key, 0.0) + float(value) for key, value in counts.items()}
            scores[f"cell_s{scale.index}"] = total["concept"] / total["cells"]
            scores[f"colour_s{scale.index}"] = total["colour"] / total["cells"]
            scores[f"scene_s{scale.index}"] = total["scene"] / total["scenes"]
            scores |= {f"{key[:-1]}{scale.index}": value for key, value in usage([histogram]).items()}
        return scores

    def samples(self, module: nn.Module, folder: Path, step: int) -> None:
        assert isinstance(module, TATokModule)
        source = ScenePictures(split="val")
        pixels = to_unit(source.pixels(source.specs(np.random.default_rng(5), 8), self.recipe.model.vision.image_size))
        rows = [to_pictures(pixels)]
        for scale in self.vocab.scales:
            feats = module.model.decode(module.model.encode(pixels, scale)).float()
            painted = unpatch(module.painter(normalise(feats)).float())
            rows.append(to_pictures(F.interpolate(painted, size=pixels.shape[-1])))
        titles = [title for title in ("given", "144 codes", "36 codes", "16 codes") for _ in range(8)]
        contact_sheet([picture for row in rows for picture in row], titles, 8).save(folder / f"step-{step:07d}.png")

    def finish(self, module: nn.Module, folder: Path) -> None:
        assert isinstance(module, TATokModule)
        words = self.start / WORDS if self.start is not None else None
        extra = {WORDS: words.read_bytes()} if words is not None and words.exists() else None
        module.model.save(folder / "ta_tok", extra=extra)
