"""What an import refuses of a SANA folder, and what it leaves out of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published_files import change_json
from safetensors.torch import load_file, save_file

from opentar.checkpoints.convert.importing import import_tar

pytest.importorskip("diffusers")
Own = Callable[[str], Path]
SANA = "Tar-SANA-600M-512px"


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        ("transformer/config.json", {"caption_channels": 40}, "has shape [16, 48]; expected [16, 40]"),
        ("transformer/config.json", {"surprise": 1}, "unknown setting 'surprise'; SanaTransformer2DModel of"),
        (
            "transformer/config.json",
            {"_class_name": "FluxTransformer2DModel"},
            "model_index.json says SanaTransformer2D",
        ),
        ("transformer/config.json", {"num_layers": 3}, "lacks the tensor transformer_blocks.2."),
        ("transformer/config.json", {"num_layers": 1}, "has the unknown tensor 'transformer_blocks.1."),
        (
            "transformer/config.json",
            {"num_layers": "two"},
            "num_layers is 'two'; expected a whole number from 1 to 1000",
        ),
        ("transformer/config.json", {"num_layers": 900}, "does not fit its weights"),
        ("transformer/config.json", {"attention_head_dim": "two"}, "describes no SanaTransformer2DModel"),
        (
            "scheduler/scheduler_config.json",
            {"surprise": 1},
            "scheduler_config.json has the unknown setting 'surprise'",
        ),
        (
            "transformer/config.json",
            {"sample_size": 0},
            "config.json: sample_size is '0'; expected a whole number from",
        ),
        ("transformer/config.json", {"timestep_scale": "x"}, "config.json: timestep_scale is 'x'; expected a number"),
        ("vae/config.json", {"scaling_factor": "x"}, "vae/config.json: scaling_factor is 'x'; expected a number from"),
        ("vae/config.json", {"scaling_factor": 0}, "vae/config.json: scaling_factor is '0'; expected a number from"),
        (
            "scheduler/scheduler_config.json",
            {"num_train_timesteps": 0},
            "scheduler_config.json: num_train_timesteps is '0'; expected a whole number from 1 to 100000",
        ),
        (
            "scheduler/scheduler_config.json",
            {"prediction_type": "foo"},
            "scheduler_config.json: prediction_type is 'foo', with which DPMSolverMultistepScheduler cannot draw",
        ),
        (
            "scheduler/scheduler_config.json",
            {"flow_shift": "a"},
            "expected a value such as '1.0', its default",
        ),
        (
            "scheduler/scheduler_config.json",
            {"flow_shift": -1},
            "flow_shift is '-1', with which DPMSolverMultistepScheduler cannot draw (its steps give NaN or infinity)",
        ),
        (
            "scheduler/scheduler_config.json",
            {"flow_shift": "a", "prediction_type": "foo"},
            "scheduler_config.json: DPMSolverMultistepScheduler cannot draw with these settings (",
        ),
        (
            "model_index.json",
            {"transformer": ["own_code", "Own"]},
            "transformer; SanaTransformer2DModel of diffusers is",
        ),
        ("model_index.json", {"vae": None}, "names no vae"),
        (
            "model_index.json",
            {"scheduler": ["diffusers", "NoScheduler"]},
            "as scheduler; a scheduler of diffusers is needed",
        ),
    ],
)
def test_settings_of_sana_folders(refused, own: Own, file: str, changes: dict[str, Any], told: str) -> None:
    change_json(own(SANA) / file, **changes)
    assert told in refused(sana=[own(SANA)])


@pytest.mark.parametrize(
    "name",
    [
        *("model_index.json", "transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json"),
        *("transformer/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"),
    ],
)
def test_missing_parts_of_sana_folders_are_named(refused, own: Own, name: str) -> None:
    (own(SANA) / name).unlink()
    line = refused(sana=[own(SANA)])
    assert Path(name).name in line
    assert Path(name).parent.name in line


def test_damaged_numbers_of_sana_folders(refused, own: Own) -> None:
    path = own(SANA) / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    next(iter(state.values())).view(-1)[0] = float("inf")
    save_file(state, path, metadata={"format": "pt"})
    assert "holds NaN or infinity" in refused(sana=[own(SANA)])
    path.write_bytes(path.read_bytes()[:-10])
    assert "is missing or damaged" in refused(sana=[own(SANA)])


def test_negative_features_of_another_width(refused, own: Own) -> None:
    torch.save(torch.zeros(5, 47), own(SANA) / "negative_prompt_embeds.pth")
    assert "holds [5, 47]; expected one tensor (length, 48)" in refused(sana=[own(SANA)])


def test_a_sana_folder_without_negative_features_is_told(own: Own, published: Path, tmp_path: Path) -> None:
    (own(SANA) / "negative_prompt_embeds.pth").unlink()
    files = {"llm": published / "Tar-1.5B", "ta_tok": published / "ta_tok.pth"}
    report = import_tar(tmp_path / "out", **files, sana=[own(SANA)], dry_run=True)
    assert "only be drawn with without guidance" in " ".join(report.parts[-1].notes)


def test_code_in_a_sana_folder_is_not_run(own: Own, published: Path, tmp_path: Path) -> None:
    change_json(own(SANA) / "transformer" / "config.json", auto_map={"AutoModel": "own.Own"})
    (own(SANA) / "transformer" / "own.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    files = {"llm": published / "Tar-1.5B", "ta_tok": published / "ta_tok.pth"}
    report = import_tar(tmp_path / "out", **files, sana=[own(SANA)])
    assert "it is neither read nor run" in " ".join(report.parts[-1].notes)
    assert not (tmp_path / "canary").exists()
    assert not list((tmp_path / "out").rglob("*.py"))
    assert "auto_map" not in (tmp_path / "out" / "detok_diffusion" / "transformer" / "config.json").read_text()
