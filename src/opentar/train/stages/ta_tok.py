"""TA-Tok: a tokenizer whose codes are projected word embeddings, trained against a frozen teacher.

What learns is the recipe's choice: all parts, the feature decoder ten times faster than the rest, or the decoder alone,
which leaves every code as it is. Loss: 1 - cosine to the frozen teacher's features (as in the paper), the two
stop-gradient codebook terms, a spread of the codes' use, and a low-resolution picture painted from the decoded
features (codes that only name things cannot be drawn from). A subclass adds terms of its own, such as labels that must
stay readable. A scale is drawn for every batch.

Legend: B pictures, N cells of the scale's grid, D feature width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentar.core.folder import load_part, strict_load
from opentar.data.pictures import PictureSource, shrink, to_pictures, to_unit
from opentar.data.stream import Batch
from opentar.eval.sheet import contact_sheet
from opentar.image_to_tokens.encoder import VisionEncoder, pool_grid
from opentar.image_to_tokens.quantizer import Quantized
from opentar.image_to_tokens.ta_tok import TATok, TATokConfig, TATokOutput
from opentar.train.corpus import scales_of
from opentar.train.stage import LoopSettings, Stage
from opentar.vocab import Scale

WORDS = "words.txt"
"""Extra file of the tokenizer's folder: the word piece behind each code, a line each."""
SOFTNESS = 0.05
"""Temperature of a soft choice of codes by cosine."""
OBJECT_CELL = 4.0
"""Weight of a cell that shows an object in the codebook terms."""
CELLS = 512
"""Object cells of a batch that the spread loss looks at; four times fewer empty ones."""
PATCH = 8
"""Side in pixels of the low-resolution patch that each cell paints, at every scale."""


class TATokRecipe(Protocol):
    """What the recipe of a tokenizer says."""

    @property
    def loop(self) -> LoopSettings:
        """Of the trainer."""

    @property
    def model(self) -> TATokConfig:
        """The tokenizer."""

    @property
    def scale_shares(self) -> tuple[float, ...]:
        """How often a batch is encoded at each scale index."""

    @property
    def learns(self) -> tuple[str, ...]:
        """Name fragments of the weights that learn; the others stay as they start. "" stands in every name."""

    @property
    def fast(self) -> tuple[str, ...]:
        """Name fragments of those that learn at ten times the rate."""

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term of the loss: cosine, codebook, paint, spread and those of a subclass."""


class TATokModule(nn.Module):
    """The tokenizer, the frozen teacher, and the painter that only training needs."""

    frozen: tuple[str, ...] = ("teacher.",)
    """Beginnings of the names of weights that never learn."""

    def __init__(self, settings: TATokRecipe, teacher: dict[str, Tensor] | None, start: Path | None) -> None:
        """`teacher`: weights of an encoder like the model's; `start`: folder of a tokenizer to start from."""
        super().__init__()
        self.recipe, self.scales = settings, scales_of(settings.model)
        self.model = TATok(settings.model)
        width = settings.model.vision.hidden_size
        self.teacher = VisionEncoder(settings.model.vision)
        self.add_parts(width)
        self.painter = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, 3 * PATCH * PATCH))
        if teacher is not None:
            strict_load(self.teacher, teacher, "the teacher's encoder")
        if start is not None:
            strict_load(self.model, load_part(start)[1], "the tokenizer's start")
        for name, weight in self.named_parameters():
            learns = weight.requires_grad and any(fragment in name for fragment in settings.learns)
            weight.requires_grad_(learns and not name.startswith(self.frozen))
        # An encoder that stays the teacher's own need not be run twice.
        self.encoder_learns = any(weight.requires_grad for weight in self.model.encoder.parameters())

    def add_parts(self, width: int) -> None:
        """Parts of a subclass, made before the painter draws its first numbers; `width` is that of a feature."""

    def further_terms(self, out: TATokOutput, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Terms of a subclass by name, and what else its log shows."""
        return {}, {}

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of pixels uint8 (B, 3, S, S) at a scale; `shows` bool (B, N) marks the cells with an object."""
        scale = self.scales[int(batch["scale"])]
        pixels = to_unit(batch["pixels"])
        with torch.no_grad():
            taught = pool_grid(self.teacher(pixels), scale.pool)
            target = normalise(taught.float())
        out = self.model.forward_train(pixels, scale) if self.encoder_learns else self.model.train_from_features(taught)
        feats = normalise(out.decoded_BND.float())
        cosine = (1 - F.cosine_similarity(feats, target, dim=-1)).mean()
        own, noted = self.further_terms(out, batch)
        weight = torch.where(batch["shows"], 3.0, 1.0).unsqueeze(-1)
        painted = self.painter(feats).float()
        paint = ((painted - patches(pixels, scale.side)).abs() * weight).mean()
        parts = {
            "cosine": cosine,
            "codebook": codebook_term(out.quantized, batch["shows"], self.model.config.quantizer.commitment_weight),
            **own,
            "paint": paint,
            "spread": spread_loss(out.quantized.z_BNC, out.quantized.table_KC, batch["shows"]),
        }
        loss = sum((self.recipe.weights[name] * value for name, value in parts.items()), torch.zeros(()))
        codes_used = torch.tensor(float(out.codes_BN.unique().numel()))
        shown = {name: value.detach() for name, value in (parts | noted).items()}
        return loss, {**shown, "codes_in_batch": codes_used}


def few(rows_M: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """At most `count` of the rows, by lot."""
    return rows_M[torch.randperm(len(rows_M), generator=generator)[:count].to(rows_M.device)]


def normalise(feats_BND: Tensor) -> Tensor:
    """Layer norm without weights: targets and heads see directions, not the residual stream's growing size."""
    return F.layer_norm(feats_BND, feats_BND.shape[-1:])


def codebook_term(quantized: Quantized, seen_BN: Tensor, commitment: float) -> Tensor:
    """The two stop-gradient terms, object cells weighed up: grounds are most cells and would pull every row to them."""
    weight_BN = torch.where(seen_BN, OBJECT_CELL, 1.0)
    z_BNC, rows_BNC = quantized.z_BNC, F.embedding(quantized.codes_BN, quantized.table_KC)
    to_features = (rows_BNC - z_BNC.detach()).square().sum(-1)
    to_rows = (rows_BNC.detach() - z_BNC).square().sum(-1)
    return ((to_features + commitment * to_rows) * weight_BN).sum() / weight_BN.sum()


def spread_loss(z_BNC: Tensor, table_KC: Tensor, seen_BN: Tensor) -> Tensor:
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


def patches(pixels_B3HW: Tensor, side: int) -> Tensor:
    """The picture shrunk to side * PATCH pixels, cut into cells: (B, side * side, 3 * PATCH * PATCH) in [-1, 1]."""
    factor = pixels_B3HW.shape[-1] // (side * PATCH)
    small = F.avg_pool2d(pixels_B3HW, factor) if factor > 1 else pixels_B3HW
    return F.unfold(small, PATCH, stride=PATCH).transpose(1, 2)


def unpatch(patches_BNP: Tensor) -> Tensor:
    """The reverse of `patches`: (B, N, 3 * PATCH * PATCH) -> (B, 3, S, S)."""
    side = round(patches_BNP.shape[1] ** 0.5)
    return F.fold(patches_BNP.transpose(1, 2), side * PATCH, PATCH, stride=PATCH)


class TATokStage(Stage):
    """See the module docstring. A subclass gives batches and what else its scores need.

    Args:
        settings: the recipe.
        held_out: pictures that samples are made of.
        start: folder of the tokenizer it starts from, or None.
    """

    name = "ta_tok"

    def __init__(self, settings: TATokRecipe, held_out: PictureSource, start: Path | None) -> None:
        self.recipe, self.settings, self.held_out, self.start = settings, settings.loop, held_out, start
        self.scales = scales_of(settings.model)

    def fast_parameters(self) -> tuple[str, ...]:
        return self.recipe.fast

    def pick_scale(self, rng: np.random.Generator) -> Scale:
        """The scale of a batch, as often as the recipe says."""
        return self.scales[int(rng.choice(len(self.scales), p=self.recipe.scale_shares))]

    def samples(self, module: nn.Module, folder: Path, step: int) -> None:
        assert isinstance(module, TATokModule)
        given = self.held_out.batch(np.random.default_rng(5), 8).pixels_B3SS
        pixels = to_unit(shrink(given, self.recipe.model.vision.image_size))
        rows, titles = [to_pictures(pixels)], ["given"] * 8
        for scale in self.scales:
            feats = module.model.decode(module.model.encode(pixels, scale)).float()
            painted = unpatch(module.painter(normalise(feats)).float())
            rows.append(to_pictures(F.interpolate(painted, size=pixels.shape[-1])))
            titles += [f"{scale.length} codes"] * 8
        contact_sheet([picture for row in rows for picture in row], titles, 8).save(folder / f"step-{step:07d}.png")

    def finish(self, module: nn.Module, folder: Path) -> None:
        assert isinstance(module, TATokModule)
        words = self.start / WORDS if self.start is not None else None
        extra = {WORDS: words.read_bytes()} if words is not None and words.exists() else None
        module.model.save(folder / "ta_tok", extra=extra)
