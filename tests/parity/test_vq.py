"""The VQGAN against the values of the published code on the same random weights, at the published size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from opentar.tokens_to_image.published import read_vqgan
from opentar.tokens_to_image.vqgan import VQGAN

# 72 M weights on 256 x 256 pixels: about a minute on one core.
pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def values(parity_dir: Path) -> dict[str, np.ndarray]:
    return dict(np.load(parity_dir / "vq.npz"))


@pytest.fixture(scope="module")
def model(checkpoint: Callable[[str], Path]) -> VQGAN:
    config, state = read_vqgan(checkpoint("vq_ds16_t2i.pt"))
    with torch.device("meta"):
        canvas = VQGAN(config)
    canvas.load_state_dict(state, assign=True)
    return canvas.eval()


@torch.no_grad()
def test_decode(model: VQGAN, values: dict[str, np.ndarray]) -> None:
    made = model.decode_raw(torch.from_numpy(values["idx256"]))
    np.testing.assert_allclose(made.numpy(), values["px256"], atol=2e-4)


def test_encode(model: VQGAN, values: dict[str, np.ndarray], rebuild: ModuleType) -> None:
    picture = torch.from_numpy(rebuild.picture("sq384", 384, 384, 12)[:256, :256].copy())
    codes = model.encode(picture.permute(2, 0, 1)[None].float() / 127.5 - 1)[0].numpy()
    sure = values["enc.margin"] >= 1e-4
    np.testing.assert_array_equal(codes[sure], values["enc.idx"][sure])
