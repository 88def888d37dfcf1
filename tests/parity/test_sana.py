"""The SANA de-tokenizer against the values of the authors' pipeline on a tiny folder of the published format."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from opentar.core.errors import ConfigError, WeightsError
from opentar.tokens_to_image.detokenizer import Detokenizer, load_detokenizer

pytest.importorskip("diffusers")
from opentar.tokens_to_image.sana import SanaDetokenizer

pytestmark = [pytest.mark.parity, pytest.mark.timeout(300)]
KEY = "gs1.0.steps4.256"


@pytest.fixture(scope="module")
def folder(parity_dir: Path) -> Path:
    return parity_dir / "tar_sana"


@pytest.fixture(scope="module")
def model(folder: Path) -> SanaDetokenizer:
    return SanaDetokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def features(parity_dir: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(parity_dir / "ta_tok.npz")["sq384.aa1.p1.rec"])


def test_latents_and_pixels(model: SanaDetokenizer, features: torch.Tensor, parity_dir: Path) -> None:
    values = np.load(parity_dir / "sana.npz")
    made = model.denoise(features, torch.from_numpy(values[f"{KEY}.init"]), guidance=1.0, steps=4)
    np.testing.assert_allclose(made.numpy(), values[f"{KEY}.latent_fp32tr"], atol=2e-4)
    np.testing.assert_allclose(made.numpy(), values[f"{KEY}.latent"], atol=2e-2)
    pixels = model.pixels(torch.from_numpy(values[f"{KEY}.latent"]))
    np.testing.assert_allclose(pixels.permute(0, 2, 3, 1).numpy(), values[f"{KEY}.image"], atol=2e-4)


def test_it_keeps_the_protocol(model: SanaDetokenizer) -> None:
    assert isinstance(model, Detokenizer)
    assert (model.image_size, model.feature_size) == (512, 48)


@pytest.mark.filterwarnings("ignore:the negative features")
@pytest.mark.parametrize("codes", [729, 169, 81, 16])
def test_every_grid_with_guidance_and_seeds(model: SanaDetokenizer, features: torch.Tensor, codes: int) -> None:
    given = features[:, :codes].repeat(2, 1, 1)
    settings = {"steps": 2, "height": 64, "width": 96}
    made = model.decode(given, seed=[3, 4], guidance=2.0, **settings)
    assert made.shape == (2, 3, 64, 96)
    assert torch.allclose(made[1:], model.decode(given[1:], seed=4, guidance=2.0, **settings), atol=1e-3)
    assert not torch.allclose(made, model.decode(given, seed=[3, 4], guidance=1.0, **settings), atol=1e-4)


def test_fitting_the_negative_features_is_said(model: SanaDetokenizer, features: torch.Tensor) -> None:
    with pytest.warns(UserWarning, match="729 long and the picture has 81 codes"):
        model.decode(features[:, :81], guidance=2.0, steps=1, height=32, width=32)


def test_the_callback_and_its_preview(model: SanaDetokenizer, features: torch.Tensor) -> None:
    calls = []
    made = model.decode(
        features, steps=2, height=32, width=32, callback=lambda done, total, look: calls.append((done, total, look()))
    )
    assert [call[:2] for call in calls] == [(1, 2), (2, 2)]
    assert torch.equal(calls[-1][2], made)


def test_save_and_load_without_a_text_encoder(model: SanaDetokenizer, features: torch.Tensor, tmp_path: Path) -> None:
    model.save(tmp_path / "sana")
    assert not (tmp_path / "sana" / "text_encoder").exists()
    loaded = load_detokenizer(tmp_path / "sana")
    assert isinstance(loaded, SanaDetokenizer)
    settings = {"steps": 1, "height": 32, "width": 32}
    assert torch.equal(loaded.decode(features, **settings), model.decode(features, **settings))


def test_what_is_missing_or_wrong_is_named(
    model: SanaDetokenizer, features: torch.Tensor, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="multiples of 32"):
        model.decode(features, height=100, width=96)
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "negative_prompt_embeds.pth").unlink()
    with pytest.raises(ConfigError, match="guidance must be 1"):
        SanaDetokenizer.from_folder(tmp_path / "copy").decode(features, guidance=2.0, steps=1, height=32, width=32)
    (tmp_path / "copy" / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match="vae"):
        SanaDetokenizer.from_folder(tmp_path / "copy")
    (tmp_path / "copy" / "model_index.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"model_index\.json"):
        SanaDetokenizer.from_folder(tmp_path / "copy")
