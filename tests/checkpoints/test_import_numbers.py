"""Numbers and types that no model can be made of: refused by file and tensor, by a dry run and before any write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from opentar.checkpoints.convert.importing import add_to_model, import_tar
from opentar.core.errors import WeightsError

pytest.importorskip("diffusers")
Own = Callable[[str], Path]
Change = Callable[[torch.Tensor], torch.Tensor]
SANA = "Tar-SANA-600M-512px"
TA_TOK, AR, VQGAN = "ta_tok.pth", "ar_dtok_lp_256px.pth", "vq_ds16_t2i.pt"
LLM_FILE, SANA_FILE = "Tar-1.5B/model.safetensors", f"{SANA}/vae/diffusion_pytorch_model.safetensors"
NEGATIVE = f"{SANA}/negative_prompt_embeds.pth"
WITHIN = {
    TA_TOK: "bottleneck.in_linear.weight",
    AR: "norm.weight",
    VQGAN: "quantize.embedding.weight",
    LLM_FILE: "model.norm.weight",
    SANA_FILE: "decoder.conv_in.weight",
}
"""published file -> one of its tensors"""
NAMES = {**WITHIN, TA_TOK: "in_linear.weight", VQGAN: "codebook", NEGATIVE: "negative_prompt_embeds"}
"""published file -> how that tensor is called in an error about its numbers"""


def damage(own: Own, name: str, change: Change) -> Path:
    """Change one tensor of a copy of a published file; returns the copy."""
    folder, _, file = name.partition("/")
    path = own(folder) / file if file else own(folder)
    if path.suffix == ".safetensors":
        state = load_file(path)
        state[WITHIN[name]] = change(state[WITHIN[name]])
        save_file(state, path, metadata={"format": "pt"})
        return path
    blob: Any = torch.load(path, weights_only=False)
    if name == NEGATIVE:
        blob = change(blob)
    else:
        state = blob["model"].get("sd", blob["model"])
        state[WITHIN[name]] = change(state[WITHIN[name]])
    torch.save(blob, path)
    return path


def arguments(own: Own, name: str) -> dict[str, Any]:
    """Arguments of an import that reads the copy of that file, and no more than it needs."""
    given: dict[str, Any] = {"llm": own("Tar-1.5B"), "ta_tok": own(TA_TOK)}
    if name in (AR, VQGAN):
        given |= {"ar": [own(AR)], "vqgan": own(VQGAN)}
    elif name.startswith(SANA):
        given |= {"sana": [own(SANA)]}
    return given


@pytest.fixture
def refused(own: Own, tmp_path: Path) -> Callable[..., str]:
    """Import with one tensor of a file changed: a dry run and a real one say the same line and write nothing."""

    def call(name: str, change: Change, dtype: str = "keep") -> str:
        path = damage(own, name, change)
        lines = []
        for dry_run in (True, False):
            with pytest.raises(WeightsError) as caught:
                import_tar(tmp_path / "out", **arguments(own, name), dtype=dtype, dry_run=dry_run)
            lines.append(str(caught.value))
            assert [one.name for one in tmp_path.iterdir()] == ["own"]
        assert lines[0] == lines[1]
        assert len(lines[0]) < 500
        assert path.name in lines[0] or path.parent.name in lines[0]
        return lines[0]

    return call


def _nan(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[-1] = float("nan")
    return changed


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_named_by_file_and_tensor(refused, own: Own, name: str) -> None:
    path = own(name.partition("/")[0]).parent / name
    assert refused(name, _nan) == f"{path}: {NAMES[name]} holds NaN or infinity; download it again"


@pytest.mark.parametrize("dtype", ["keep", "fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_numbers_that_their_type_will_not_hold(refused, own: Own, name: str, dtype: str) -> None:
    """They are finite in the file and would be infinite in the model."""
    path = own(name.partition("/")[0]).parent / name
    line = refused(name, lambda tensor: torch.ones_like(tensor).double() * 1e300, dtype)
    kind = "bfloat16 can hold numbers up to 3.39e+38" if dtype == "bf16" else "can hold numbers up to 3."
    assert line.startswith(f"{path}: {NAMES[name]} holds 1e+300, and ")
    assert kind in line


def test_the_limit_is_that_of_the_stored_type(own: Own, refused, tmp_path: Path) -> None:
    """3.4e38 is a float32, and rounds to infinity in bfloat16."""
    damage(own, LLM_FILE, lambda tensor: torch.full_like(tensor, 3.4e38))
    assert not import_tar(tmp_path / "out", **arguments(own, LLM_FILE), dry_run=True).written
    assert "bfloat16 can hold" in refused(LLM_FILE, lambda tensor: torch.full_like(tensor, -3.4e38), "bf16")


def test_wide_numbers_that_fit_are_taken(own: Own, tmp_path: Path) -> None:
    for name in NAMES:
        damage(own, name, lambda tensor: tensor.double())
    given = arguments(own, AR) | arguments(own, SANA)
    assert import_tar(tmp_path / "out", **given, dtype="fp32").written


@pytest.mark.parametrize("name", [*(name for name in WITHIN if name != LLM_FILE), NEGATIVE])
def test_small_floats_are_refused_by_name(refused, name: str) -> None:
    line = refused(name, lambda tensor: tensor.to(torch.float8_e4m3fn))
    assert f"{WITHIN.get(name, NAMES[name])} is of type torch.float8_e4m3fn; expected floating-point numbers" in line


@pytest.mark.parametrize("name", [TA_TOK, AR, VQGAN, NEGATIVE])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensor: tensor.to("meta"), "has no numbers in the file (meta)"),
        (lambda tensor: tensor.to_sparse(), "is sparse (torch.sparse_coo); expected a plain tensor"),
        (lambda tensor: torch.nested.nested_tensor([tensor]), "is nested; expected a plain tensor"),
    ],
)
def test_tensors_that_are_not_plain(refused, name: str, change: Change, told: str) -> None:
    assert f"{WITHIN.get(name, NAMES[name])} {told}" in refused(name, change)


def test_the_pixel_scaling_is_a_plain_tensor_too(own: Own, published: Path, tmp_path: Path) -> None:
    blob: Any = torch.load(own(TA_TOK), weights_only=False)
    blob["model"]["sd"]["scale_layer.scale"] = torch.tensor([0.5]).to("meta")
    torch.save(blob, own(TA_TOK))
    with pytest.raises(WeightsError, match=r"scale_layer\.scale has no numbers in the file"):
        import_tar(tmp_path / "out", llm=published / "Tar-1.5B", ta_tok=own(TA_TOK))


def test_what_takes_no_part_may_hold_anything(own: Own, published: Path, tmp_path: Path) -> None:
    """The vision tower beside the language model is not read."""
    path = own("Tar-1.5B") / "model.safetensors"
    state = load_file(path)
    state["model.vision_tower.weight"] = torch.full((3, 3), float("nan"))
    save_file(state, path, metadata={"format": "pt"})
    assert import_tar(tmp_path / "out", llm=own("Tar-1.5B"), ta_tok=published / TA_TOK).written


@pytest.mark.parametrize("name", [AR, VQGAN, SANA_FILE])
def test_adding_refuses_the_same(own: Own, published: Path, tmp_path: Path, name: str) -> None:
    model = import_tar(tmp_path / "out", llm=published / "Tar-1.5B", ta_tok=published / TA_TOK).folder
    damage(own, name, _nan)
    given = {key: value for key, value in arguments(own, name).items() if key not in ("llm", "ta_tok")}
    for dry_run in (True, False):
        with pytest.raises(WeightsError, match=f"{NAMES[name]} holds NaN"):
            add_to_model(model, **given, dry_run=dry_run)
    assert not list(model.glob("detok_*"))
