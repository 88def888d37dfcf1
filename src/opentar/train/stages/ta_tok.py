"""TA-Tok: the teacher's encoder learns to speak in codes whose rows are projected word embeddings.

Loss: 1 - cosine to the frozen teacher's features (as in the paper), the two stop-gradient codebook terms, the
teacher's dense heads read from the decoded features (cosine alone throws colour away), and a low-resolution picture
painted from them (codes that only name things cannot be drawn from). A scale is drawn for every batch.

Legend: B pictures, N cells of the scale's grid, D feature width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import nn

from opentar.core.errors import ConfigError
from opentar.core.folder import load_part, strict_load
from opentar.data.sheet import contact_sheet
from opentar.eval.measures import usage
from opentar.image_to_tokens.encoder import VisionEncoder, pool_grid
from opentar.image_to_tokens.quantizer import Quantized, choose_rows
from opentar.image_to_tokens.ta_tok import TATok, TATokConfig
from opentar.tokens_to_image.vqgan import fit_kmeans
from opentar.train.stage import LoopSettings, Stage
from opentar.train.stages.heads import DenseHeads, normalise
from opentar.train.stages.pictures import ScenePictures, label_batch, to_pictures, to_unit
from opentar.train.words import concept_embeddings, excluded_rows, word_table
from opentar.vocab import Vocab

WORDS = "words.txt"
"""Extra file of the tokenizer's folder: the word piece behind each code, a line each."""
HEAD_SHARES = {"concept": 1.0, "colour": 0.5, "background": 0.15, "centre": 0.1}
"""How much each of the teacher's heads has to say about which directions of its features the codes start from."""
PLAIN = 0.15
"""The same for all directions alike: what no head asks for (shape, style) is needed for drawing."""
OBJECT_CELL = 4.0
"""Weight of a cell that shows an object in the codebook terms."""
SOFTNESS = 0.05
"""Temperature of a soft choice of codes, in the spread loss and while settling."""
SETTLE_RATE = 2e-3
"""Peak learning rate of settling."""
CLUSTERED = 60_000
"""Most object cells that the codebook is laid onto at the start."""
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
    start_pictures: int = 3072
    """Pictures whose features the codebook is laid onto before the first step."""
    settle_steps: int = 0
    """Steps of the start in which the bottleneck is tuned until features find the row of their cluster."""
    held_steps: int = 0
    """Steps in which the bottleneck's two linear layers do not learn either."""
    frozen_steps: int = 0
    """Steps in which the encoder stays the teacher's own: the codebook finds its place at a third of the price."""
    scale_shares: tuple[float, ...] = (0.12, 0.6, 0.28)
    """How often a batch is spelled at each scale index."""
    weights: dict[str, float] = field(
        default_factory=lambda: {"cosine": 1.0, "codebook": 0.2, "dense": 0.3, "paint": 2.0, "spread": 0.1}
    )
    dense: dict[str, float] = field(
        default_factory=lambda: {"concept": 1.0, "colour": 1.0, "centre": 0.5, "background": 0.3, "word": 0.0}
    )


class TATokModule(nn.Module):
    """The tokenizer, the frozen teacher with its heads, and the painter that only training needs."""

    def __init__(self, settings: TATokSettings, teacher: Path | None) -> None:
        super().__init__()
        self.recipe, self.scales = settings, vocab_of(settings.model).scales
        self.model = TATok(settings.model)
        width = settings.model.vision.hidden_size
        self.teacher = VisionEncoder(settings.model.vision)
        self.heads = DenseHeads(width, concept_embeddings())
        self.painter = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, 3 * PATCH * PATCH))
        if teacher is not None:
            for module in (self.model.encoder, self.teacher):
                strict_load(module, load_part(teacher / "encoder")[1], "the teacher's encoder")
            strict_load(self.heads, load_part(teacher / "heads")[1], "the teacher's heads")
        self.teacher.requires_grad_(False)
        self.heads.requires_grad_(False)
        self.encoder_frozen = False

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        scale = self.scales[int(batch["scale"])]
        pixels = to_unit(batch["pixels"])
        with torch.no_grad():
            taught = pool_grid(self.teacher(pixels), scale.pool)
            target = normalise(taught.float())
        out = self.model.train_from_features(taught) if self.encoder_frozen else self.model.forward_train(pixels, scale)
        feats = normalise(out.decoded_BND.float())
        cosine = (1 - F.cosine_similarity(feats, target, dim=-1)).mean()
        dense = self.heads.losses(out.decoded_BND, batch)
        weight = torch.where(batch["concept"] >= 0, 3.0, 1.0).unsqueeze(-1)
        painted = self.painter(feats).float()
        paint = ((painted - patches(pixels, scale.side)).abs() * weight).mean()
        parts = {
            "cosine": cosine,
            "codebook": codebook_term(
                out.quantized, batch["concept"] >= 0, self.model.config.quantizer.commitment_weight
            ),
            "dense": sum((self.recipe.dense[name] * value for name, value in dense.items()), torch.zeros(())),
            "paint": paint,
            "spread": spread_loss(out.quantized.z_BNC, out.quantized.table_KC, batch["concept"] >= 0),
        }
        loss = sum((self.recipe.weights[name] * value for name, value in parts.items()), torch.zeros(()))
        codes_used = torch.tensor(float(out.codes_BN.unique().numel()))
        shown = {name: value.detach() for name, value in (parts | {"concept": dense["concept"]}).items()}
        return loss, {**shown, "codes_in_batch": codes_used}


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
        few = torch.cat([some(z_BNC[seen_BN], CELLS), some(z_BNC[~seen_BN], CELLS // 4)])
        chosen_MK = (few @ table_KC.T / SOFTNESS).softmax(-1)
        average_K = chosen_MK.mean(0)
        spread = -(average_K * (average_K + 1e-9).log()).sum()
        doubt = -(chosen_MK * (chosen_MK + 1e-9).log()).sum(-1).mean()
        return doubt - spread


def some(rows_MC: torch.Tensor, count: int) -> torch.Tensor:
    """At most `count` of the rows, by lot."""
    return rows_MC[torch.randperm(len(rows_MC))[:count].to(rows_MC.device)]


def patches(pixels_B3HW: torch.Tensor, side: int) -> torch.Tensor:
    """The picture shrunk to side * PATCH pixels, cut into cells: (B, side * side, 3 * PATCH * PATCH) in [-1, 1]."""
    factor = pixels_B3HW.shape[-1] // (side * PATCH)
    small = F.avg_pool2d(pixels_B3HW, factor) if factor > 1 else pixels_B3HW
    return F.unfold(small, PATCH, stride=PATCH).transpose(1, 2)


def unpatch(patches_BNP: torch.Tensor) -> torch.Tensor:
    """The reverse of `patches`: (B, N, 3 * PATCH * PATCH) -> (B, 3, S, S)."""
    side = round(patches_BNP.shape[1] ** 0.5)
    return F.fold(patches_BNP.transpose(1, 2), side * PATCH, PATCH, stride=PATCH)


@torch.no_grad()
def start_bottleneck(model: TATok, heads: DenseHeads, feats_MD: torch.Tensor, settle_steps: int) -> None:
    """Start the bottleneck so that codes say what matters from the first step.

    From a random start all features point the same way; the codebook follows them there and every picture gets one code
    (seen within 40 steps). So both maps are set from the teacher's features (M, D) once: features are centred and
    weighed by how much the teacher's heads look at each direction, the codebook is laid onto their clusters, and (with
    `settle_steps`) the features are tuned to find the row of their cluster.
    """
    first = model.encode_task_layer[0]
    assert isinstance(first, nn.Linear)
    # Half a deviation keeps the features in the nearly linear part of Tanh.
    scale_D = 0.5 / feats_MD.std(0).clamp(min=1e-3)
    width = len(scale_D)
    if first.out_features < width:
        raise ConfigError(f"task_size is {first.out_features}; training needs at least the encoder's width, {width}")
    # The first units pass the features on, further ones start as random mixtures that nobody listens to yet.
    nn.init.normal_(first.weight, std=2.0 * width**-0.5)
    first.weight.mul_(scale_D)
    first.weight[:width] = torch.diag(scale_D)
    first.bias.copy_(-first.weight @ feats_MD.mean(0))
    metric_DD = torch.eye(feats_MD.shape[1]) * PLAIN
    for head, share in HEAD_SHARES.items():
        weight = getattr(heads, head).weight.float()
        weight = weight - weight.mean(0) if len(weight) > 1 else weight
        product_DD = weight.T @ weight
        metric_DD += share * product_DD * len(product_DD) / product_DD.trace()
    values_D, vectors_DD = torch.linalg.eigh(metric_DD)
    model.in_linear.weight.zero_()
    model.in_linear.weight[:, :width] = (vectors_DD * values_D.clamp(min=0).sqrt()).T / scale_D
    model.in_linear.bias.zero_()
    z_MC = F.normalize(model.in_linear(model.encode_task_layer(feats_MD)), dim=-1)
    shows = heads.concept(normalise(feats_MD)).argmax(-1) < len(heads.text_KT)
    # Grounds are few: a tenth of the rows is enough to say them.
    chosen = torch.cat([some(shows.nonzero()[:, 0], CLUSTERED), some((~shows).nonzero()[:, 0], CLUSTERED // 10)])
    table = model.quantizer.embedding.weight
    centres_KC = fit_kmeans(z_MC[chosen], len(table), torch.Generator().manual_seed(0), rounds=6)
    if isinstance(model.quantizer.embedding_proj, nn.Linear):
        centres_KC = lay_onto(model.quantizer.embedding_proj, table, F.normalize(centres_KC, dim=-1))
    else:
        table.copy_(centres_KC)
    nearest = [(z @ centres_KC.T - 0.5 * centres_KC.square().sum(-1)).argmax(-1) for z in z_MC[chosen].split(4096)]
    settle(model, feats_MD[chosen], torch.cat(nearest), settle_steps)


def settle(model: TATok, feats_MD: torch.Tensor, codes_M: torch.Tensor, steps: int) -> None:
    """Tune the bottleneck's layers until features (M, D) find their codes (M,); the codebook stays where it lies.

    Rows that move too find more of the features, but no longer say what they mean by where they lie, and a decoder has
    to learn every one by heart (docs/lab.md).
    """
    layers = [model.encode_task_layer, model.in_linear]
    weights = [weight for layer in layers for weight in layer.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=SETTLE_RATE, weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(1)
    table_KC = model.quantizer.codebook().detach()
    with torch.enable_grad():
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = SETTLE_RATE * min(1.0, (step + 1) / 50) * (1 - step / steps)
            picked = torch.randint(len(feats_MD), (1024,), generator=generator)
            z_MC = F.normalize(model.in_linear(model.encode_task_layer(feats_MD[picked])), dim=-1)
            loss = F.cross_entropy(z_MC @ table_KC.T / SOFTNESS, codes_M[picked])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def lay_onto(projection: nn.Linear, rows_KE: torch.Tensor, centres_KC: torch.Tensor, rounds: int = 4) -> torch.Tensor:
    """Set `projection` so that the projected rows lie close to the centres; returns the centre (K, C) of each row.

    Which row goes where is free: rows and centres are first spread alike, then matched one to one (least squared
    distance) and the projection is fitted to the match, in turns.
    """
    mean_E, from_rows_E, rows_EE = spectrum(rows_KE)
    mean_C, to_centres_C, centres_CC = spectrum(centres_KC)
    width = min(len(from_rows_E), len(to_centres_C))
    gains = (to_centres_C[:width] / from_rows_E[:width].clamp(min=1e-6 * float(from_rows_E[0]))).sqrt()
    weight_CE = (centres_CC[:, :width] * gains) @ rows_EE[:, :width].T
    bias_C = mean_C - weight_CE @ mean_E
    with_one = torch.cat([rows_KE, torch.ones(len(rows_KE), 1)], dim=1)
    for _ in range(rounds):
        laid_KC = rows_KE @ weight_CE.T + bias_C
        _, match = linear_sum_assignment(torch.cdist(laid_KC, centres_KC).square().numpy())
        solution = torch.linalg.lstsq(with_one, centres_KC[torch.from_numpy(match)]).solution
        weight_CE, bias_C = solution[:-1].T, solution[-1]
    projection.weight.copy_(weight_CE)
    projection.bias.copy_(bias_C)
    return centres_KC[torch.from_numpy(match)]


def spectrum(rows_MD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean (D,), variances (D,) from the largest down and their directions (D, D), a column each."""
    mean_D = rows_MD.mean(0)
    values_D, vectors_DD = torch.linalg.eigh(torch.cov((rows_MD - mean_D).T))
    return mean_D, values_D.flip(0).clamp(min=0), vectors_DD.flip(1)


def vocab_of(config: TATokConfig) -> Vocab:
    """The scales of a tokenizer on its own; the number of words plays no part."""
    return Vocab(text_size=1, codebook_size=config.quantizer.codebook_size, grid_side=config.vision.grid_side)


class TATokStage(Stage):
    """See the module docstring. `teacher` is the result folder of the teacher stage."""

    name = "ta_tok"

    def __init__(self, settings: TATokSettings, teacher: Path | None, name: str = "ta_tok") -> None:
        self.name, self.recipe, self.settings, self.teacher = name, settings, settings.loop, teacher
        self.source = ScenePictures(mosaic_share=settings.mosaic_share)
        self.words: list[str] = []
        self.vocab = vocab_of(settings.model)

    def module(self) -> nn.Module:
        module = TATokModule(self.recipe, self.teacher)
        if self.recipe.model.quantizer.kind == "text":
            table, pieces = word_table()
            rows = choose_rows(table, self.vocab.codebook_size, excluded_rows(pieces))
            module.model.quantizer.start_from(table[rows])
            self.words = [pieces[row] for row in rows.tolist()]
        start_bottleneck(module.model, module.heads, self._taught(module), self.recipe.settle_steps)
        return module

    @torch.no_grad()
    def _taught(self, module: TATokModule) -> torch.Tensor:
        """The teacher's features (M, D) of training scenes at the middle scale, a row for each cell."""
        rng, size = np.random.default_rng(23), self.recipe.model.vision.image_size
        parts = [self.source.pixels(self.source.specs(rng, 32), size) for _ in range(self.recipe.start_pictures // 32)]
        return torch.cat([pool_grid(module.teacher(to_unit(pixels)), 2).flatten(0, 1) for pixels in parts]).float()

    def before_step(self, module: nn.Module, step: int) -> None:
        assert isinstance(module, TATokModule)
        module.encoder_frozen = step < self.recipe.frozen_steps
        # Rows come to features that hold still; let loose at once, both run to a few points.
        for part in (module.model.encode_task_layer, module.model.in_linear):
            part.requires_grad_(step >= self.recipe.held_steps)

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
        module.model.save(folder / "ta_tok", extra={WORDS: "\n".join(self.words).encode()} if self.words else None)
