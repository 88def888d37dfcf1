"""Rows laid onto clusters, and what rows tell: the arithmetic of the codebook's start.

Legend: M cells, K codes, D feature width, C codebook width, E row width, L labels.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

OWN_MEAN = 2.0
"""How many cells a cluster's centre counts for where a row's meaning is averaged from the cells that find it."""
PRIOR = 2.0
"""How many cells the average of all rows counts for in such a count."""
NONE_WEIGHT = 0.25
"""Weight of cells without an object in it."""


@torch.no_grad()
def surprise(rows_M: torch.Tensor, labels_M: torch.Tensor, codes: int) -> torch.Tensor:
    """-log p(label | row), float32 (K, L + 1): the last column is label -1, "none". Rows are drawn towards the mean."""
    kinds = int(labels_M.max()) + 2
    counts_KL = torch.zeros(codes, kinds)
    weight_M = torch.where(labels_M >= 0, 1.0, NONE_WEIGHT)
    counts_KL.index_put_((rows_M, labels_M % kinds), weight_M, accumulate=True)
    prior_L = counts_KL.sum(0) / counts_KL.sum()
    return -((counts_KL + PRIOR * prior_L) / (counts_KL.sum(1, keepdim=True) + PRIOR)).log()


def mean_rows(
    rows_M: torch.Tensor, feats_MD: torch.Tensor, prior_KD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean feature (K, D) of the cells of each row, drawn towards `prior_KD` where cells are few, and their number."""
    sums_KD = torch.zeros_like(prior_KD).index_add_(0, rows_M, feats_MD)
    counts_K = torch.bincount(rows_M, minlength=len(prior_KD)).float()
    return (sums_KD + OWN_MEAN * prior_KD) / (counts_K + OWN_MEAN).unsqueeze(-1), counts_K


@torch.no_grad()
def lay_onto(projection: nn.Linear, rows_KE: torch.Tensor, centres_KC: torch.Tensor, rounds: int) -> torch.Tensor:
    """Set `projection` so that the projected rows lie close to the centres; returns the centre (K, C) of each row.

    Which row goes where is free: rows and centres are first spread alike, then matched one to one (least squared
    distance) and the projection is fitted to the match, in turns. In float64: the last bits of a solver change with
    the place of its memory, and a start must repeat.
    """
    rows_KE, centres_KC = rows_KE.double(), centres_KC.double()
    mean_E, from_rows_E, rows_EE = spectrum(rows_KE)
    mean_C, to_centres_C, centres_CC = spectrum(centres_KC)
    width = min(len(from_rows_E), len(to_centres_C))
    gains = (to_centres_C[:width] / from_rows_E[:width].clamp(min=1e-6 * float(from_rows_E[0]))).sqrt()
    weight_CE = (centres_CC[:, :width] * gains) @ rows_EE[:, :width].T
    bias_C = mean_C - weight_CE @ mean_E
    with_one = torch.cat([rows_KE, rows_KE.new_ones(len(rows_KE), 1)], dim=1)
    for _ in range(rounds):
        laid_KC = rows_KE @ weight_CE.T + bias_C
        _, match = linear_sum_assignment(torch.cdist(laid_KC, centres_KC).square().numpy())
        solution = torch.linalg.lstsq(with_one, centres_KC[torch.from_numpy(match)]).solution
        weight_CE, bias_C = solution[:-1].T, solution[-1]
    projection.weight.copy_(weight_CE)
    projection.bias.copy_(bias_C)
    return centres_KC[torch.from_numpy(match)].float()


def spectrum(rows_MD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean (D,), variances (D,) from the largest down and their directions (D, D), a column each."""
    mean_D = rows_MD.mean(0)
    values_D, vectors_DD = torch.linalg.eigh(torch.cov((rows_MD - mean_D).T))
    return mean_D, values_D.flip(0).clamp(min=0), vectors_DD.flip(1)
