"""The SANA de-tokenizer on a tiny folder of the published format: every grid, guidance, previews, saving, refusals."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from reference import Reference

from opentar.core.errors import ConfigError, WeightsError
from opentar.tokens_to_image.detokenizer import Detokenizer, load_detokenizer

pytest.importorskip("diffusers")
from opentar.tokens_to_image.sana import SanaDetokenizer

BF16 = torch.bfloat16
NAMES = ("latent_fp32tr", "latent", "init")
pytestmark = [pytest.mark.parity, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def folder(reference: Reference) -> Path:
    return reference.folder / "tar_sana"


@pytest.fixture
def model(folder: Path) -> SanaDetokenizer:
    return SanaDetokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def features(reference: Reference) -> torch.Tensor:
    """Features (1, N, D) of the first picture at pool 1."""
    values = reference.values("ta_tok")
    return torch.from_numpy(next(values[key] for key in values if key.endswith(".aa1.p1.rec")))


def test_it_keeps_the_protocol(model: SanaDetokenizer, features: torch.Tensor) -> None:
    assert isinstance(model, Detokenizer)
    assert model.image_size == model.transformer.config.sample_size * model.factor
    assert model.feature_size == features.shape[2]


@pytest.mark.filterwarnings("ignore:the negative features")
@pytest.mark.parametrize("codes", [729, 169, 81, 16])
def test_every_grid_with_guidance_and_seeds(model: SanaDetokenizer, features: torch.Tensor, codes: int) -> None:
    given = features[:, :codes].repeat(2, 1, 1)
    settings = {"steps": 2, "height": 64, "width": 96}
    made = model.decode(given, seed=[3, 4], guidance=2.0, **settings)
    assert made.shape == (2, 3, 64, 96)
    assert torch.allclose(made[1:], model.decode(given[1:], seed=4, guidance=2.0, **settings), atol=1e-3)
    assert not torch.allclose(made, model.decode(given, seed=[3, 4], guidance=1.0, **settings), atol=1e-4)


def test_fitting_the_negative_features_is_said_once(model: SanaDetokenizer, features: torch.Tensor) -> None:
    settings = {"guidance": 2.0, "steps": 1, "height": 32, "width": 32}
    assert len(model.negative_LD) != 81
    with pytest.warns(UserWarning, match=f"{len(model.negative_LD)} long and the picture has 81 codes"):
        model.decode(features[:, :81], **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.decode(features[:, :81], **settings)
        model.decode(features[:, :16], **(settings | {"guidance": 1.0}))


def test_negative_features_fit_any_number_of_codes(model: SanaDetokenizer) -> None:
    """Squares as grids; else cropped, or interpolated along their length. The same number is left as it is."""
    width = model.feature_size
    rows = torch.arange(12.0)[:, None].expand(12, width)
    model.negative_LD = rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert torch.equal(model._negative(9), rows[:9])
        stretched = model._negative(25)
        assert stretched.shape == (25, width)
        assert bool((stretched[1:, 0] >= stretched[:-1, 0]).all())
        assert (float(stretched[0, 0]), float(stretched[-1, 0])) == (0.0, 11.0)
        assert torch.equal(model._negative(12), rows)
        grid = torch.arange(16.0)[:, None].expand(16, width)
        model.negative_LD = grid
        assert model._negative(4)[:, 0].tolist() == pytest.approx([3.6, 5.2, 9.8, 11.4], abs=0.5)
        assert torch.allclose(model._negative(4).mean(), grid.mean(), atol=1e-4)


def test_bfloat16_is_as_near_to_float32_as_the_reference_is(reference: Reference, features: torch.Tensor) -> None:
    """Two runs in bfloat16 round apart from each other, so each is compared with the reference in float32."""
    values, rounded = reference.values("sana"), SanaDetokenizer.from_folder(reference.folder / "tar_sana", dtype=BF16)
    assert rounded.transformer.dtype == BF16
    seen = 0
    for key in values:
        if match := re.fullmatch(r"(gs([\d.]+)\.steps(\d+)\.\d+)\.latent_fp32tr", key):
            exact, theirs, init = (torch.from_numpy(values[f"{match[1]}.{name}"]) for name in NAMES)
            ours = rounded.denoise(features, init, guidance=float(match[2]), steps=int(match[3]))
            assert (ours - exact).abs().mean() < 1.5 * (theirs - exact).abs().mean()
            seen += 1
    assert seen


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


def test_a_position_table_is_computed_when_it_is_loaded(folder: Path, features: torch.Tensor, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "large")
    path = tmp_path / "large" / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"interpolation_scale": 1.0}))
    made = SanaDetokenizer.from_folder(tmp_path / "large", dtype=BF16).decode(features, steps=1, height=64, width=64)
    assert made.shape == (1, 3, 64, 64) and bool(made.isfinite().all())


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


def test_previews_show_what_is_believed_and_not_the_noise(
    model: SanaDetokenizer, features: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looks() -> list[torch.Tensor]:
        seen: list[torch.Tensor] = []
        made = model.decode(
            features, steps=8, height=64, width=64, callback=lambda done, total, look: seen.append(look())
        )
        assert torch.equal(seen[-1], made)
        return seen

    believed = looks()
    monkeypatch.setattr("opentar.tokens_to_image.sana._believed", lambda scheduler, latents: latents)
    noisy = looks()
    assert torch.equal(believed[-1], noisy[-1])
    for one, other in list(zip(believed, noisy, strict=True))[:6]:
        assert (one - believed[-1]).square().mean() < (other - believed[-1]).square().mean()


def test_an_autoencoder_in_bfloat16(folder: Path, model: SanaDetokenizer, features: torch.Tensor) -> None:
    narrow = SanaDetokenizer.from_folder(folder, autoencoder=BF16)
    assert narrow.vae.dtype == BF16 and narrow.transformer.dtype == model.transformer.dtype
    settings = {"steps": 2, "height": 64, "width": 64}
    one, other = narrow.decode(features, **settings), model.decode(features, **settings)
    assert one.dtype == torch.float32
    assert not torch.equal(one, other)
    assert float((one - other).square().mean()) < 1e-3
