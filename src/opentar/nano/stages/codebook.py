"""The start of TA-Tok: a codebook of frozen word rows is laid onto what the teacher sees.

From a random start all features point the same way, the codebook follows them there and every picture gets one code
(seen within 40 steps). So the start is made in six moves on kept features of the teacher, quicker than pictures:

1. cluster the features, weighed by how much the teacher's heads look at each direction;
2. lay the projected word rows onto the clusters, one row to each;
3. settle: tune the bottleneck and the projection until features find the row of their cluster;
4. sharpen: go on until the row that is found tells as much as it can about concept and colour;
5. invert: a small net learns what each single row means (rows no longer say it by where they lie);
6. the feature decoder learns to read whole grids of codes.

Legend: M cells of all pictures, B pictures, N cells of a grid, D feature width, K codes, C codebook width, E row width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from opentar.core.errors import ConfigError
from opentar.core.folder import load_part, strict_load
from opentar.data.pictures import to_unit
from opentar.image_to_tokens.encoder import VisionEncoder
from opentar.image_to_tokens.quantizer import choose_rows
from opentar.image_to_tokens.ta_tok import TATok, TATokConfig
from opentar.nano.stages.cells import Cells, Kept
from opentar.nano.stages.heads import DenseHeads, concept_embeddings
from opentar.nano.stages.laying import lay_onto, mean_rows, surprise
from opentar.nano.stages.pictures import ScenePictures, label_batch
from opentar.tokens_to_image.vqgan import fit_kmeans
from opentar.train.corpus import scales_of
from opentar.train.logger import Logger
from opentar.train.stages.ta_tok import SOFTNESS, WORDS, few, normalise
from opentar.train.words import excluded_rows, word_table
from opentar.vocab import Scale

PLAIN = 0.15
"""Weight of all directions alike beside the heads': shape and style, which no head asks for, are drawn too."""
GROUND = 0.1
"""Cells without an object that are looked at beside one with: grounds are most cells and need few codes."""
ROLE_SIGN = 0.5
"""How far apart the roles start, as a share of the features' size: rows of one role must not look like another's."""
TOLD_EVERY = 150
"""Steps between counts of what each row tells."""
READ_WEIGHTS = {"concept": 0.3, "colour": 0.3, "centre": 0.15, "background": 0.1, "word": 0.0}
"""Weights of the teacher's heads beside the cosine while the decoder learns to read grids."""


@dataclass(frozen=True, kw_only=True)
class RoleSettings:
    """What the codes of one role are for (`TATokConfig.roles`)."""

    share: float = 1.0
    """Share of the codebook's rows."""
    heads: dict[str, float] = field(
        default_factory=lambda: {"concept": 1.0, "colour": 0.5, "background": 0.15, "centre": 0.1}
    )
    """How much each of the teacher's heads has to say about which directions of its features the codes start from."""
    tells: dict[str, float] = field(
        default_factory=lambda: {"concept": 1.0, "colour": 2.0, "ground": 0.2, "background": 0.0, "cluster": 0.2}
    )
    """Weights while sharpening, of what a row tells: concept and colour of object cells, "no object" in the others
    (ground), the picture's background, and its own cluster."""


@dataclass(frozen=True, kw_only=True)
class CodebookSettings:
    """The start's recipe. Steps are of 1,024 cells, in the last move of `batch_size` pictures."""

    model: TATokConfig
    roles: tuple[RoleSettings, ...] = (RoleSettings(),)
    """One for each role of the model."""
    pictures: int = 10_000
    """Pictures whose features are kept."""
    mosaic_share: float = 0.15
    """How many of them are mosaics."""
    tidy: float = 0.0
    """How many of the others stand in fixed places."""
    drawn_share: float = 0.0
    """How many pictures more, as a share, are tidy ones in `drawn_styles`: what the model will draw."""
    drawn_styles: tuple[str, ...] = ()
    scales: tuple[int, ...] = (1,)
    """Scale indices whose cells are clustered and sharpened."""
    cells: int = 60_000
    """Most object cells that are clustered."""
    lay_rounds: int = 4
    """How often rows are matched with clusters and the projection is fitted to the match."""
    settle_steps: int = 500
    settle_rate: float = 2e-3
    """Peak learning rate of settling; the other moves have their own."""
    sharpen_steps: int = 450
    sharpen_rate: float = 1e-3
    invert_steps: int = 400
    invert_rate: float = 3e-3
    read_steps: int = 600
    read_rate: float = 1.5e-3
    batch_size: int = 48
    scale_shares: tuple[float, ...] = (0.12, 0.6, 0.28)
    """How often a batch of the last move is read at each scale index."""
    score_size: int = 384
    """Held-out scenes behind a score."""
    seed: int = 23
    """Of scenes, weights and lots."""

    def __post_init__(self) -> None:
        if len(self.roles) != self.model.roles:
            raise ConfigError(f"{len(self.roles)} roles are described and the model has {self.model.roles}")


def lay_codebook(settings: CodebookSettings, teacher: Path, folder: Path, *, quiet: bool = False) -> dict[str, float]:
    """Write the started tokenizer into `folder`/result/ta_tok; returns held-out scores at the middle scale.

    Args:
        teacher: result folder of the teacher stage.

    A start that was broken off is made again from its beginning: it is a pure function of the settings.
    """
    start = CodebookStart(settings, teacher, Logger(folder, "codebook", settings.read_steps, quiet=quiet))
    scores = start.run()
    words = {WORDS: "\n".join(start.words).encode()} if start.words else None
    start.model.save(folder / "result" / "ta_tok", extra=words)
    return scores


class CodebookStart:
    """The six moves; `run` makes them in order."""

    def __init__(self, settings: CodebookSettings, teacher: Path, logger: Logger) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.logger = settings, logger
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.scales = scales_of(settings.model)
        self.model = TATok(settings.model)
        self.heads = DenseHeads(settings.model.vision.hidden_size, concept_embeddings()).requires_grad_(False)
        encoder: VisionEncoder = self.model.encoder
        strict_load(encoder, load_part(teacher / "encoder")[1], "the teacher's encoder")
        strict_load(self.heads, load_part(teacher / "heads")[1], "the teacher's heads")
        self.words: list[str] = []
        if settings.model.quantizer.kind == "text":
            table, pieces = word_table()
            rows = choose_rows(table, settings.model.quantizer.codebook_size, excluded_rows(pieces))
            self.model.quantizer.start_from(table[rows])
            self.words = [pieces[row] for row in rows.tolist()]

    def run(self) -> dict[str, float]:
        """All moves; returns the scores of the decoder's reading."""
        settings = self.settings
        source = ScenePictures(mosaic_share=settings.mosaic_share, tidy=settings.tidy)
        kept = self.keep(source, settings.pictures)
        if settings.drawn_share:
            drawn = ScenePictures(styles=settings.drawn_styles, tidy=1.0)
            kept = kept.and_more(self.keep(drawn, round(settings.drawn_share * settings.pictures), settings.seed + 1))
        cells = Cells.of(kept, [self.scales[index] for index in settings.scales], settings.model.roles)
        shows, empty = cells.shows_M.nonzero()[:, 0], (~cells.shows_M).nonzero()[:, 0]
        some = torch.cat([shows, few(empty, int(GROUND * len(shows)))])
        self._start_bottleneck(cells.feats_MD)
        rows_M, means_KD = self._lay(cells)
        self._settle(cells, rows_M, some)
        self._sharpen(cells, rows_M, some)
        table_KC, found_M = self._found(cells)
        means_KD, counts_K = mean_rows(found_M, normalise(cells.feats_MD), means_KD)
        self._invert(table_KC, means_KD, counts_K)
        self._read_grids(kept, table_KC)
        scores: dict[str, float] = {}
        for index in settings.scales:
            scores |= self.scores(self.scales[index])
        self.logger.row(settings.read_steps, {f"score/{key}": value for key, value in scores.items()})
        self.logger.close()
        return scores

    @torch.no_grad()
    def keep(self, source: ScenePictures, count: int, seed: int | None = None) -> Kept:
        """The teacher's features of `count` scenes, and their labels at every scale."""
        rng = np.random.default_rng(self.settings.seed if seed is None else seed)
        cells: list[torch.Tensor] = []
        labels: list[list[dict[str, torch.Tensor]]] = [[] for _ in self.scales]
        for start in range(0, count, 64):
            specs = source.specs(rng, min(64, count - start))
            pixels = source.pixels(specs, self.settings.model.vision.image_size)
            with torch.autocast("cpu", torch.bfloat16):
                cells.append(self.model.encoder(to_unit(pixels)).bfloat16())
            for scale, part in zip(self.scales, labels, strict=True):
                part.append(label_batch(specs, scale.side))
        merged = tuple({name: torch.cat([one[name] for one in part]) for name in part[0]} for part in labels)
        return Kept(torch.cat(cells), merged)

    @torch.no_grad()
    def _start_bottleneck(self, feats_MD: torch.Tensor) -> None:
        """Set both linear maps so that features pass, centred and weighed by what the heads look at."""
        first, second = self.model.encode_task_layer[0], self.model.in_linear
        assert isinstance(first, nn.Linear)
        # Half a deviation keeps the features in the nearly linear part of Tanh.
        scale_D = 0.5 / feats_MD.std(0).clamp(min=1e-3)
        width = len(scale_D)
        if first.out_features < width or second.out_features < width:
            raise ConfigError(
                f"task_size is {first.out_features} and the codebook's width {second.out_features}; "
                f"training needs at least the encoder's width, {width}"
            )
        # The first units pass the features on, further ones start as random mixtures that nobody listens to yet.
        first.weight.normal_(std=2.0 * width**-0.5, generator=self.generator).mul_(scale_D)
        first.weight[:width] = torch.diag(scale_D)
        first.bias.copy_(-first.weight @ feats_MD.mean(0))
        second.weight.zero_()
        second.bias.zero_()
        codes_wide = self.settings.model.quantizer.width
        for index, role in enumerate(self.settings.roles):
            metric_DD = torch.eye(width) * PLAIN
            for head, share in role.heads.items():
                weight = getattr(self.heads, head).weight.float()
                weight = weight - weight.mean(0) if len(weight) > 1 else weight
                product_DD = weight.T @ weight
                metric_DD += share * product_DD * width / product_DD.trace()
            values_D, vectors_DD = (part.float() for part in torch.linalg.eigh(metric_DD.double()))
            first_row = index * codes_wide
            second.weight[first_row : first_row + width, :width] = (
                vectors_DD * values_D.clamp(min=0).sqrt()
            ).T / scale_D
        if len(self.settings.roles) > 1:
            z_MRC = second(self.model.encode_task_layer(feats_MD[:4096])).unflatten(-1, (-1, codes_wide))
            for index, size in enumerate(z_MRC.norm(dim=-1).mean(0).tolist()):
                # The directions that are looked at least carry the mark of the role.
                second.bias[index * codes_wide + index] = ROLE_SIGN * size

    def _z(self, feats_MD: torch.Tensor, roles_M: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.model.bottleneck(feats_MD[None], roles_M)[0], dim=-1)

    @torch.no_grad()
    def _lay(self, cells: Cells) -> tuple[torch.Tensor, torch.Tensor]:
        """Cluster each role and lay; returns the row (M,) of each cell's cluster and its mean feature (K, D)."""
        blocks = torch.arange(len(cells.roles_M)).split(8192)
        z_MC = torch.cat([self._z(*cells.some(block)) for block in blocks])
        quantizer, shares = self.model.quantizer, [role.share for role in self.settings.roles]
        table = quantizer.embedding.weight
        edges = [round(len(table) * share / sum(shares)) for share in np.cumsum([0.0, *shares])]
        centres = []
        for role, (start, end) in enumerate(pairwise(edges)):
            most = round(self.settings.cells * (end - start) / len(table))
            own_M = cells.roles_M == role
            chosen = torch.cat(
                [
                    few((own_M & cells.shows_M).nonzero()[:, 0], most, self.generator),
                    few((own_M & ~cells.shows_M).nonzero()[:, 0], int(most * GROUND), self.generator),
                ]
            )
            centres.append(fit_kmeans(z_MC[chosen], end - start, self.generator, rounds=6))
        centres_KC = F.normalize(torch.cat(centres), dim=-1)
        if isinstance(quantizer.embedding_proj, nn.Linear):
            centres_KC = lay_onto(quantizer.embedding_proj, table, centres_KC, self.settings.lay_rounds)
        else:
            table.copy_(centres_KC)
        rows_M = torch.cat([(part @ centres_KC.T).argmax(-1) for part in z_MC.split(4096)])
        empty = torch.zeros(len(table), cells.feats_MD.shape[1])
        return rows_M, mean_rows(rows_M, normalise(cells.feats_MD), empty)[0]

    def _settle(self, cells: Cells, rows_M: torch.Tensor, some: torch.Tensor) -> None:
        """Tune bottleneck and projection until cells find the rows (M,) of their clusters."""
        quantizer = self.model.quantizer

        def loss(step: int) -> torch.Tensor:
            picked = some[torch.randint(len(some), (1024,), generator=self.generator)]
            scores_MK = self._z(*cells.some(picked)) @ quantizer.codebook().T
            return F.cross_entropy(scores_MK / SOFTNESS, rows_M[picked])

        self._minimise("settle", loss, self._codes_learn(), self.settings.settle_steps, self.settings.settle_rate)

    def _sharpen(self, cells: Cells, rows_M: torch.Tensor, some: torch.Tensor) -> None:
        """Choose rows that tell what their role is to tell: the expected surprise (nats) at a cell's labels, given its
        row.

        What each row tells is counted anew every TOLD_EVERY steps. Clusters knew nothing of labels and spent codes on
        what nobody asks.
        """
        quantizer, labels, codes = self.model.quantizer, cells.labels, self.settings.model.quantizer.codebook_size
        weight_R = {
            name: torch.tensor([role.tells.get(name, 0.0) for role in self.settings.roles])
            for name in ("concept", "colour", "background", "ground", "cluster")
        }
        told: dict[str, torch.Tensor] = {}

        def loss(step: int) -> torch.Tensor:
            if step % TOLD_EVERY == 0:
                found_M = self._found(cells)[1]
                told.update({name: surprise(found_M, of_M, codes) for name, of_M in labels.items()})
            picked = some[torch.randint(len(some), (1024,), generator=self.generator)]
            roles_M, shows_M = cells.roles_M[picked], cells.shows_M[picked].float()
            scores_MK = self._z(*cells.some(picked)) @ quantizer.codebook().T / SOFTNESS
            chosen_MK = scores_MK.softmax(-1)
            missed = {name: (chosen_MK * told_KL[:, labels[name][picked]].T).sum(-1) for name, told_KL in told.items()}
            seen_M = weight_R["concept"][roles_M] * missed["concept"] + weight_R["colour"][roles_M] * missed["colour"]
            empty_M = weight_R["ground"][roles_M] * missed["concept"]
            clusters_M = F.cross_entropy(scores_MK, rows_M[picked], reduction="none")
            return (
                torch.lerp(empty_M, seen_M, shows_M)
                + weight_R["background"][roles_M] * missed["background"]
                + weight_R["cluster"][roles_M] * clusters_M
            ).mean()

        self._minimise("sharpen", loss, self._codes_learn(), self.settings.sharpen_steps, self.settings.sharpen_rate)

    def _codes_learn(self) -> list[nn.Parameter]:
        """What decides which row a feature finds: the bottleneck's layers and the codebook's own weights."""
        layers = (self.model.encode_task_layer, self.model.in_linear, self.model.quantizer)
        return [weight for layer in layers for weight in layer.parameters() if weight.requires_grad]

    @torch.no_grad()
    def _found(self, cells: Cells) -> tuple[torch.Tensor, torch.Tensor]:
        """The table (K, C) as it lies now, and the row (M,) that each cell finds."""
        table_KC = self.model.quantizer.codebook().detach().clone()
        blocks = torch.arange(len(cells.roles_M)).split(4096)
        return table_KC, torch.cat([(self._z(*cells.some(block)) @ table_KC.T).argmax(-1) for block in blocks])

    def _invert(self, table_KC: torch.Tensor, means_KD: torch.Tensor, counts_K: torch.Tensor) -> None:
        """Teach the decoder's layers before attention what each single row means, rows in use weighed up."""
        decoder, width = self.model.decoder, means_KD.shape[1]
        # The patch map may be wider or narrower than features; its meaning is pinned by a map that is dropped.
        out = nn.Linear(decoder.config.hidden_size, width)
        nn.init.orthogonal_(out.weight)
        out.requires_grad_(False)
        layers = [decoder.out_linear, decoder.patch_embedding, *([decoder.front] if decoder.front is not None else [])]
        weights = [weight for layer in layers for weight in layer.parameters()]
        weight_K = (counts_K + 4).sqrt()

        def loss(step: int) -> torch.Tensor:
            picked = torch.randint(len(table_KC), (1024,), generator=self.generator)
            said = out(decoder.rows_in(table_KC[picked]))
            distance = 1 - F.cosine_similarity(said, means_KD[picked], dim=-1)
            return (distance * weight_K[picked]).sum() / weight_K[picked].sum()

        self._minimise("invert", loss, weights, self.settings.invert_steps, self.settings.invert_rate)

    def _read_grids(self, kept: Kept, table_KC: torch.Tensor) -> None:
        """Teach the decoder whole grids: the teacher's features from the codes of the kept pictures."""
        shares = torch.tensor(self.settings.scale_shares)

        def loss(step: int) -> torch.Tensor:
            scale = self.scales[int(torch.multinomial(shares, 1, generator=self.generator))]
            picked = torch.randint(len(kept.cells), (self.settings.batch_size,), generator=self.generator)
            feats_BND, labels = kept.at(scale, picked)
            with torch.no_grad():
                rows_BNC = table_KC[self.model.quantizer.nearest(self.model.bottleneck(feats_BND))]
            with torch.autocast("cpu", torch.bfloat16):
                decoded_BND = self.model.decoder(rows_BNC).float()
            cosine = (1 - F.cosine_similarity(decoded_BND, normalise(feats_BND), dim=-1)).mean()
            dense = self.heads.losses(decoded_BND, labels)
            return cosine + sum((READ_WEIGHTS[name] * value for name, value in dense.items()), torch.zeros(()))

        weights = list(self.model.decoder.parameters())
        self._minimise("read", loss, weights, self.settings.read_steps, self.settings.read_rate)

    def _minimise(
        self, name: str, loss: Callable[[int], torch.Tensor], weights: list[nn.Parameter], steps: int, rate: float
    ) -> None:
        """AdamW with a short warm-up and a linear end."""
        optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.01, fused=True)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 50) * (1 - step / steps)
            value = loss(step)
            value.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step % 50 == 0 or step + 1 == steps:
                self.logger.row(step, {name: value.item()})

    @torch.no_grad()
    def scores(self, scale: Scale) -> dict[str, float]:
        """What the teacher's heads read on held-out scenes: from features, and from decoded codes."""
        kept = self.keep(ScenePictures(split="val"), self.settings.score_size, seed=7)
        self.model.eval()
        total: dict[str, float] = {}
        for rows in torch.arange(len(kept.cells)).split(64):
            feats_BND, labels = kept.at(scale, rows)
            codes = self.model.quantizer.nearest(self.model.bottleneck(feats_BND))
            for prefix, read in (("teacher_", feats_BND), ("", self.model.decode(codes))):
                counts = self.heads.read(read, labels)
                total = total | {prefix + k: total.get(prefix + k, 0.0) + float(v) for k, v in counts.items()}
        index = scale.index
        return {
            f"{prefix}{name}_s{index}": total[prefix + what] / total[prefix + of]
            for prefix in ("teacher_", "")
            for name, what, of in (
                ("cell", "concept", "cells"), ("colour", "colour", "cells"), ("scene", "scene", "scenes"),
            )
        }  # fmt: skip
