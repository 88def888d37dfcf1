"""Sampling against the values of the authors' published inference code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from opentar.nn.sampling import probabilities, top_k_top_p

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def values(parity_dir: Path) -> dict[str, np.ndarray]:
    return dict(np.load(parity_dir / "sampling_pooling.npz"))


def check(made: np.ndarray, expected: np.ndarray, logits: torch.Tensor, key: str) -> None:
    """Equal, up to which of several tied entries stay: sorts of different processors order ties differently."""
    for row, wanted, scores in zip(made.astype(np.float64), expected.astype(np.float64), logits, strict=True):
        for score in scores.unique():
            tied = (scores == score).numpy()
            np.testing.assert_allclose(np.sort(row[tied]), np.sort(wanted[tied]), atol=1e-5, err_msg=key)


def test_what_is_kept(values: dict[str, np.ndarray]) -> None:
    logits = torch.from_numpy(values["logits"])
    seen = 0
    for key in values:
        match = re.fullmatch(r"keep\.k(\d+)\.p([\d.]+)", key)
        if match:
            kept = top_k_top_p(logits, int(match[1]), float(match[2])).isfinite().numpy()
            check(kept, values[key], logits, key)
            seen += 1
    assert seen


def test_the_probabilities(values: dict[str, np.ndarray]) -> None:
    logits = torch.from_numpy(values["logits"])
    seen = 0
    for key in values:
        match = re.fullmatch(r"probs\.t([\d.]+)\.k(\d+)\.p([\d.]+)", key)
        if match:
            made = probabilities(logits, float(match[1]), int(match[2]), float(match[3]))
            check(made.numpy(), values[key], logits, key)
            seen += 1
    assert seen
