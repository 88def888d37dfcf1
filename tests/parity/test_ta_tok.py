"""TA-Tok against the values of the authors' published inference code on the same tiny weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SiglipVisionConfig, SiglipVisionModel

from opentar.image_to_tokens.decoder import resize_positions
from opentar.image_to_tokens.encoder import pool_grid
from opentar.image_to_tokens.preprocess import to_pixels
from opentar.image_to_tokens.published import read_ta_tok
from opentar.image_to_tokens.ta_tok import TATok
from opentar.vocab import Vocab

pytestmark = pytest.mark.parity
ATOL = 2e-4
TIE = 1e-4
"""a margin between the two nearest rows below which either code is right"""


@pytest.fixture(scope="module")
def values(parity_dir: Path) -> dict[str, np.ndarray]:
    return dict(np.load(parity_dir / "ta_tok.npz"))


@pytest.fixture(scope="module")
def model(checkpoint: Callable[[str], Path]) -> TATok:
    config, state = read_ta_tok(checkpoint("ta_tok.pth"))
    tokenizer = TATok(config)
    tokenizer.load_state_dict(state)
    return tokenizer.eval()


@pytest.fixture(scope="module")
def pixels(rebuild: ModuleType) -> torch.Tensor:
    return to_pixels(Image.fromarray(rebuild.picture("sq384", 384, 384, 12)), 384)[None]


def close(ours: torch.Tensor, reference: np.ndarray) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), reference, atol=ATOL, rtol=0)


@pytest.mark.parametrize("pool", [1, 3])
def test_encode(model: TATok, pixels: torch.Tensor, values: dict[str, np.ndarray], pool: int) -> None:
    scale = Vocab(text_size=1, codebook_size=1024, grid_side=27).scale(pool - 1)
    codes = model.encode(pixels, scale)
    reference, margin = values[f"sq384.aa1.p{pool}.indices"], values[f"sq384.aa1.p{pool}.margin"]
    assert codes.shape == reference.shape == (1, scale.length)
    assert codes.dtype == torch.int64
    wrong = (codes.numpy() != reference)[0] & (margin >= TIE)
    assert not wrong.any(), np.flatnonzero(wrong)
    with torch.no_grad():
        close(model.task_features(model.features(pixels, scale)), values[f"sq384.aa1.p{pool}.vq_feats"])


@pytest.mark.parametrize("pool", [1, 3])
def test_reconstructed_features(model: TATok, values: dict[str, np.ndarray], pool: int) -> None:
    codes = torch.from_numpy(values[f"sq384.aa1.p{pool}.indices"])
    close(model.decode(codes), values[f"sq384.aa1.p{pool}.rec"])


@pytest.mark.parametrize("name", ["81x2", "36"])
def test_decode_any_square(model: TATok, values: dict[str, np.ndarray], name: str) -> None:
    close(model.decode(torch.from_numpy(values[f"dec.indices{name}"])), values[f"dec.out{name}"])


def test_bottleneck(model: TATok, values: dict[str, np.ndarray]) -> None:
    pool3 = "sq384.aa1.p3."
    z_BNC = model.in_linear(torch.from_numpy(values[pool3 + "vq_feats"]))
    close(z_BNC, values[pool3 + "projected_z"])
    rows_BNC = model.quantizer.look_up(torch.from_numpy(values[pool3 + "indices"]))
    close(rows_BNC, values[pool3 + "regularized_z"])
    close(model.decoder.out_linear(rows_BNC), values[pool3 + "bottleneck_out"])


def test_codebook(model: TATok, values: dict[str, np.ndarray]) -> None:
    close(model.codebook()[:16], values["emb_first16"])


def test_pooling_and_positions(parity_dir: Path) -> None:
    reference = np.load(parity_dir / "sampling_pooling.npz")
    for pool in (2, 3):
        close(pool_grid(torch.from_numpy(reference["pool_in"]), pool), reference[f"pool_out{pool}"])
    table_PD = torch.from_numpy(reference["pe_in"]).flatten(0, 1)
    for side in (27, 13, 9, 16, 6):
        close(resize_positions(table_PD, side)[None], reference[f"pe_{side}"])


def test_encoder_equals_transformers(
    model: TATok, checkpoint: Callable[[str], Path], parity_dir: Path, pixels: torch.Tensor
) -> None:
    """Same weights through transformers' whole SiglipVisionModel: our features are its hidden_states[-2]."""
    vision = json.loads((parity_dir / "siglip-tiny-config.json").read_text())["vision_config"]
    theirs = SiglipVisionModel(SiglipVisionConfig(**vision)).eval()
    safe = torch.load(checkpoint("ta_tok.pth"), weights_only=False)["model"]["sd"]
    theirs.load_state_dict({name[8:]: tensor for name, tensor in safe.items() if name.startswith("encoder.")})
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(model.encoder(pixels), expected, atol=1e-5, rtol=0)
