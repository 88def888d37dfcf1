"""Features -> codes, with a codebook that is a projection of frozen word rows (SimVQ): C = E W + b.

E is a choice of rows of a language model's own embedding table and never changes; only the projection is trained. So
all codes move together, none can die, and a code is a direction among words. Three other kinds exist for the ablation.

Shape suffixes: B batch, N codes of a picture, K codebook entries, E width of the frozen rows, C width of the codebook.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from opentar.core.bounds import SIZE, within
from opentar.core.errors import ConfigError, shown
from opentar.image_to_tokens import nearest as fast_search

KINDS = ("text", "random", "learned", "learned_restart")
_CHUNK_SCORES = 1 << 24
"""similarities held at once while looking for the nearest rows (64 MB)"""


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """Sizes and kind of a TextAlignedQuantizer."""

    codebook_size: int
    """number of codes K"""
    width: int
    """width C of the codebook and of the features that are quantized"""
    row_width: int
    """width E of the frozen rows; equal to `width` in the published one and in the kinds without projection"""
    kind: str = "text"
    """"text" (frozen word rows x linear), "random" (frozen random rows x linear), "learned", "learned_restart" """
    l2_normalized: bool = True
    """compare directions only"""
    stochastic: bool = False
    """in training, draw codes from softmax(similarity / temperature) instead of the nearest"""
    temperature: float = 0.03
    """of the stochastic choice; 0 or less = a learnable one"""
    codebook_weight: float = 1.0
    """weight of |stopgrad(z) - c|^2"""
    commitment_weight: float = 0.25
    """weight of |z - stopgrad(c)|^2"""
    restart_after: int = 100
    """"learned_restart": training steps without use before a row is put onto a feature of the batch"""

    def __post_init__(self) -> None:
        within(self, SIZE, "codebook_size", "width", "row_width", "restart_after")
        if self.kind not in KINDS:
            raise ConfigError(f"kind of codebook is {shown(self.kind)}; choose one of {', '.join(KINDS)}")
        if not self.projected and self.row_width != self.width:
            raise ConfigError(f"a {self.kind} codebook has no projection; set row_width to width ({self.width})")
        if self.codebook_weight < 0 or self.commitment_weight < 0:
            raise ConfigError("codebook_weight and commitment_weight must not be negative")

    @property
    def projected(self) -> bool:
        """Whether the rows are frozen and pass a trained projection."""
        return self.kind in ("text", "random")


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """Result of a training step of the quantizer."""

    quantized_BNC: torch.Tensor
    """codebook rows with the gradient of the features (straight-through), float32"""
    codes_BN: torch.Tensor
    """int64"""
    codebook_loss: torch.Tensor
    """scalar, unweighted: squared distance of row and feature, summed over the width, mean over codes"""
    commitment_loss: torch.Tensor
    """scalar, the same with the other gradient"""
    loss: torch.Tensor
    """their weighted sum"""
    z_BNC: torch.Tensor
    """the features that were quantized, of length 1 where `l2_normalized`, float32, with gradients"""
    table_KC: torch.Tensor
    """the codebook they were compared with, with gradients"""


class TextAlignedQuantizer(nn.Module):
    """Nearest-row look-up in a (projected) codebook. Source: SimVQ form of TA-Tok, arXiv 2506.18898 section 3.1."""

    idle_K: torch.Tensor
    """training steps since each row was last used; in the "learned_restart" kind only"""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.codebook_size, config.row_width)
        self.embedding.weight.requires_grad_(not config.projected)
        self.embedding_proj: nn.Module = nn.Identity()
        if config.projected:
            self.embedding_proj = nn.Linear(config.row_width, config.width)
            nn.init.orthogonal_(self.embedding_proj.weight)
            nn.init.zeros_(self.embedding_proj.bias)
        if config.temperature <= 0:
            self.stochastic_temperature_inv = nn.Parameter(torch.tensor(1.0 / 0.03))
        if config.kind == "learned_restart":
            # persistent: a resumed training must restart the same rows as one that was never stopped
            self.register_buffer("idle_K", torch.zeros(config.codebook_size, dtype=torch.int64))
        self._table: tuple[tuple[object, ...], torch.Tensor] | None = None
        self._search: tuple[torch.Tensor, fast_search.NearestRows] | None = None

    def start_from(self, rows_KE: torch.Tensor) -> None:
        """Set the frozen rows; the projection's bias then centres the table (word rows share a large mean vector).

        Args:
            rows_KE: (codebook_size, row_width) float, finite.

        Raises:
            ConfigError: another shape or values that are not finite.
        """
        if rows_KE.shape != self.embedding.weight.shape:
            given, own = tuple(rows_KE.shape), tuple(self.embedding.weight.shape)
            raise ConfigError(f"got codebook rows of shape {given}; this quantizer takes {own}")
        if not torch.isfinite(rows_KE).all():
            raise ConfigError("the codebook rows hold NaN or infinity; choose other rows")
        with torch.no_grad():
            self.embedding.weight.copy_(rows_KE)
            if isinstance(self.embedding_proj, nn.Linear):
                mean_E = self.embedding.weight.mean(dim=0)
                self.embedding_proj.bias.copy_(-(self.embedding_proj.weight @ mean_E))
        self._table = self._search = None

    def train(self, mode: bool = True) -> TextAlignedQuantizer:
        """Switch training mode; the kept table is dropped."""
        self._table = self._search = None
        return super().train(mode)

    def codebook(self) -> torch.Tensor:
        """(K, C) float32 projected table, rows of length 1 where `l2_normalized`.

        With gradients and fresh in training mode; in eval mode computed once, kept and without gradients, until a
        weight changes (the 65,536 published rows cost 0.4 to 1.5 s on a CPU).
        """
        if self.training:
            return self._project()
        state = self._weights_state()
        if self._table is None or self._table[0] != state:
            # a table made inside inference_mode could not be used in a later training
            with torch.inference_mode(False), torch.no_grad():
                self._table = (state, self._project())
        return self._table[1]

    def nearest(self, z_BNC: torch.Tensor) -> torch.Tensor:
        """Index of the nearest row for every feature, always deterministic, in float32 or (nearest.py) exactly.

        Args:
            z_BNC: (..., C) float of any dtype.

        Returns:
            (...) int64; the lowest index among equals.
        """
        with torch.no_grad():
            table_KC = self.codebook()
            flat_MC = z_BNC.detach().reshape(-1, self.config.width)
            if not self.training and self.config.l2_normalized and fast_search.pays(table_KC):
                if self._search is None or self._search[0] is not table_KC:
                    self._search = table_KC, fast_search.NearestRows(table_KC)
                return self._search[1].find(self._unit(flat_MC.float())).reshape(z_BNC.shape[:-1])
            chunk = max(1, _CHUNK_SCORES // self.config.codebook_size)
            parts = [self._scores(part, table_KC).argmax(dim=-1) for part in flat_MC.split(chunk)]
        return torch.cat(parts).reshape(z_BNC.shape[:-1])

    def look_up(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (...) int64 -> their rows (..., C) of `codebook()`, float32.

        Of a large table only these rows are projected, in float64, so that a row is the same whatever else is asked
        for: painting needs a few hundred of the 65,536 published rows, and all of them take 2 to 3 s.

        Raises:
            ConfigError: a code outside the codebook.
        """
        wrong_codes = codes[(codes < 0) | (codes >= self.config.codebook_size)]
        if wrong_codes.numel():
            wrong = int(wrong_codes.flatten()[0])
            raise ConfigError(f"code {wrong} is not in the codebook; codes are 0 to {self.config.codebook_size - 1}")
        weight = self.embedding.weight
        # Decided by the size alone: what else was asked for before must not change a bit of a row.
        if self.training or weight.device.type != "cpu" or weight.numel() < fast_search.LEAST_NUMBERS:
            return F.embedding(codes, self.codebook())
        with torch.no_grad():
            ids, places = codes.unique(return_inverse=True)
            return F.embedding(places, self._project(ids, torch.float64).float())

    def forward(self, z_BNC: torch.Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Training step: choose rows, pass the gradient straight through, and give the two stop-gradient losses.

        Args:
            z_BNC: (B, N, C) float features before normalisation.
            generator: for the stochastic choice and the restarts; None = torch's global one.
        """
        with torch.autocast(z_BNC.device.type, enabled=False):
            z_BNC = self._unit(z_BNC.float())
            if self.training and self.config.kind == "learned_restart":
                self._restart_idle(z_BNC.detach().reshape(-1, self.config.width), generator)
            table_KC = self.codebook()
            codes_BN = self._choose(z_BNC.detach(), table_KC.detach(), generator)
            rows_BNC = F.embedding(codes_BN, table_KC)
            if self.training and self.config.kind == "learned_restart":
                self.idle_K += 1
                self.idle_K[codes_BN.reshape(-1)] = 0
            codebook_loss = (rows_BNC - z_BNC.detach()).square().sum(-1).mean()
            commitment_loss = (rows_BNC.detach() - z_BNC).square().sum(-1).mean()
            loss = self.config.codebook_weight * codebook_loss + self.config.commitment_weight * commitment_loss
            return Quantized(
                quantized_BNC=z_BNC + (rows_BNC - z_BNC).detach(),
                codes_BN=codes_BN,
                codebook_loss=codebook_loss,
                commitment_loss=commitment_loss,
                loss=loss,
                z_BNC=z_BNC,
                table_KC=table_KC,
            )

    def _project(self, ids: torch.Tensor | None = None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Projected rows, all of them or those of `ids`. Never bf16: a rounded table would move codes."""
        with torch.autocast(self.embedding.weight.device.type, enabled=False):
            rows_KE = (self.embedding.weight if ids is None else self.embedding.weight[ids]).to(dtype)
            if isinstance(self.embedding_proj, nn.Linear):
                rows_KE = F.linear(rows_KE, self.embedding_proj.weight.to(dtype), self.embedding_proj.bias.to(dtype))
            return self._unit(rows_KE)

    def _unit(self, x_C: torch.Tensor) -> torch.Tensor:
        return F.normalize(x_C, dim=-1) if self.config.l2_normalized else x_C

    def _scores(self, z_MC: torch.Tensor, table_KC: torch.Tensor) -> torch.Tensor:
        """Larger is nearer: cosine, or minus half the squared distance up to a constant of the feature."""
        with torch.autocast(z_MC.device.type, enabled=False):
            scores_MK = self._unit(z_MC.float()) @ table_KC.T
            if not self.config.l2_normalized:
                scores_MK -= 0.5 * table_KC.square().sum(-1)
            return scores_MK

    def _choose(self, z_BNC: torch.Tensor, table_KC: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        flat_MC = z_BNC.reshape(-1, self.config.width)
        chunk = max(1, _CHUNK_SCORES // self.config.codebook_size)
        parts = []
        for part in flat_MC.split(chunk):
            scores_MK = self._scores(part, table_KC)
            if self.training and self.config.stochastic:
                noise = torch.empty_like(scores_MK).exponential_(generator=generator).log_().neg_()  # Gumbel
                scores_MK = scores_MK * self._inverse_temperature() + noise
            parts.append(scores_MK.argmax(dim=-1))
        return torch.cat(parts).reshape(z_BNC.shape[:-1])

    def _inverse_temperature(self) -> torch.Tensor | float:
        if self.config.temperature > 0:
            return 1.0 / self.config.temperature
        return self.stochastic_temperature_inv.detach()

    def _restart_idle(self, z_MC: torch.Tensor, generator: torch.Generator | None) -> None:
        """Put rows unused for `restart_after` steps onto random features of this batch, before the look-up."""
        idle = torch.nonzero(self.idle_K >= self.config.restart_after).flatten()
        if not len(idle):
            return
        picks = torch.randperm(len(z_MC), generator=generator)[: len(idle)].to(z_MC.device)
        with torch.no_grad():
            self.embedding.weight[idle[: len(picks)]] = z_MC[picks].to(self.embedding.weight.dtype)
            self.idle_K[idle[: len(picks)]] = 0

    def _weights_state(self) -> tuple[object, ...]:
        """Changes whenever a weight is written in place, loaded, moved or replaced."""
        weights = [self.embedding.weight, *self.embedding_proj.parameters()]
        return tuple((w.data_ptr(), w.dtype, w.device, 0 if w.is_inference() else w._version) for w in weights)


def choose_rows(
    table_VE: torch.Tensor, count: int, excluded: torch.Tensor | list[int] | tuple[int, ...] = ()
) -> torch.Tensor:
    """Rows of an embedding table for a text-aligned codebook: those with the largest mean distance to the others.

    The metric is cosine distance. Since the mean of cosines is one dot product with the sum of the unit rows, all rows
    cost one pass, not V^2. "Others" are the rows that may be chosen; rows of zeros have no direction and never are.

    Args:
        table_VE: (V, E) float embedding table.
        count: how many rows to take.
        excluded: ids that must not be taken (special, control and untrained rows).

    Returns:
        (count,) int64 row ids, ascending, so that code order is the tokenizer's order; of equals the lower id wins.

    Raises:
        ConfigError: fewer rows are left than asked for, or an excluded id is outside the table.
    """
    excluded_ids = torch.as_tensor(excluded, dtype=torch.int64)
    rows = len(table_VE)
    outside = excluded_ids[(excluded_ids < 0) | (excluded_ids >= rows)]
    if outside.numel():
        raise ConfigError(f"excluded row {int(outside[0])} is not in the table; its rows are 0 to {rows - 1}")
    norms_V = table_VE.double().norm(dim=1)
    allowed_V = torch.isfinite(norms_V) & (norms_V > 0)
    allowed_V[excluded_ids] = False
    ids = torch.nonzero(allowed_V).flatten()
    if not 0 < count <= len(ids):
        raise ConfigError(f"asked for {count} codebook rows, but {len(ids)} of {rows} may be chosen; ask for fewer")
    unit_RE = F.normalize(table_VE[ids].double(), dim=1)
    mean_cosine_R = (unit_RE @ unit_RE.sum(dim=0) - 1.0) / max(len(ids) - 1, 1)
    order = torch.sort(mean_cosine_R, stable=True).indices[:count]
    return ids[order].sort().values
