"""The AR de-tokenizer against the values of the authors' published inference code on the same tiny weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from opentar.nn.sampling import guide
from opentar.tokens_to_image.ar import ARTransformer, sample_codes
from opentar.tokens_to_image.published import read_ar_dtok

pytestmark = [pytest.mark.parity, pytest.mark.timeout(300)]
ATOL = 2e-4
TIE = 1e-4
"""a gap between the two best codes below which either is right"""


@pytest.fixture(scope="module")
def values(parity_dir: Path) -> dict[str, np.ndarray]:
    return dict(np.load(parity_dir / "ar_dtok_small.npz"))


@pytest.fixture(scope="module")
def model(checkpoint: Callable[[str], Path]) -> ARTransformer:
    config, state = read_ar_dtok(checkpoint("ar_dtok_small.pth"))
    transformer = ARTransformer(config)
    transformer.load_state_dict(state)
    return transformer.eval()


def prefixes(values: dict[str, np.ndarray]) -> list[str]:
    return [key.removesuffix(".cond") for key in values if key.endswith(".cond")]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["cond", "uncond"])
def test_teacher_forced_logits(model: ARTransformer, values: dict[str, np.ndarray], kind: str) -> None:
    for name in prefixes(values):
        condition = torch.from_numpy(values[f"{name}.cond"])
        dropped = torch.full((len(condition),), kind == "uncond")
        logits = model(condition, torch.from_numpy(values[f"{name}.tf_idx"]), dropped)
        np.testing.assert_allclose(logits.numpy(), values[f"{name}.tf_logits_{kind}"], atol=ATOL, err_msg=name)


@torch.no_grad()
def test_first_logits_with_guidance(model: ARTransformer, values: dict[str, np.ndarray]) -> None:
    for key in values:
        match = re.fullmatch(r"(P\d+)\.first_logits\.cfg([\d.]+)", key)
        if match:
            condition = torch.from_numpy(values[f"{match[1]}.cond"])
            nothing = torch.zeros(len(condition), 0, dtype=torch.int64)
            dropped = torch.ones(len(condition), dtype=torch.bool)
            made = guide(model(condition, nothing), model(condition, nothing, dropped), float(match[2]))[:, 0]
            np.testing.assert_allclose(made.numpy(), values[key], atol=ATOL, err_msg=key)


def test_greedy_codes_with_guidance(model: ARTransformer, values: dict[str, np.ndarray]) -> None:
    seen = 0
    for key in values:
        match = re.fullmatch(r"(P\d+)\.greedy\.cfg([\d.]+\d)", key)
        if match:
            condition = torch.from_numpy(values[f"{match[1]}.cond"])
            made = sample_codes(model, condition, temperature=0, guidance=float(match[2])).numpy()
            for row, expected, gap in zip(made, values[key], values[f"{key}.gap"], strict=True):
                ties = np.flatnonzero(gap < TIE)
                end = ties[0] if len(ties) else len(row)
                np.testing.assert_array_equal(row[:end], expected[:end], err_msg=key)
            seen += 1
    assert seen
