"""Forms of quantized weights: errors within half a step, the better range chosen, damage told in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from opentar.core.errors import ConfigError, WeightsError
from opentar.core.folder import MANIFEST, is_quantized, load_packed, load_part, save_part
from opentar.core.quantization import dequantize, form_of, group_of, quantize

FORMS = {"a": "int8", "b": "int4/64"}


def _state() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(48, 128, generator=random),
        "b": torch.randn(32, 128, generator=random),
        "norm": torch.ones(128),
        "half": torch.randn(5, 5, generator=random).bfloat16(),
        "steps": torch.arange(3),
    }


def _save(folder: Path) -> Path:
    save_part(folder, {"width": 3}, _state(), "int4", forms=FORMS | {"half": "bfloat16"}, quantized=list(FORMS))
    return folder


@pytest.mark.parametrize("form", ["int8", "int4/32", "int4/64", "int4/128"])
def test_numbers_come_back_within_their_steps(form: str) -> None:
    numbers = torch.randn(16, 256, generator=torch.Generator().manual_seed(0))
    values, scale = quantize(numbers, form)
    back = dequantize(values, scale)
    assert back.shape == numbers.shape and back.dtype == torch.float32
    group = group_of(form)
    assert values.nbytes == numbers.numel() // (1 if group is None else 2)
    error = (back - numbers).square().mean().sqrt()
    assert float(error) < (0.01 if group is None else 0.13)
    if group is None:
        assert bool(((back - numbers).abs() <= scale.float()[:, None] / 2 + 1e-6).all())


def test_smaller_groups_and_chosen_ranges_are_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentar.core import quantization

    numbers = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))

    def error(form: str) -> float:
        return float((dequantize(*quantize(numbers, form)) - numbers).square().mean())

    found = [error(form) for form in ("int4/32", "int4/64", "int4/128")]
    assert found == sorted(found)
    monkeypatch.setattr(quantization, "_SHRUNK", (1.0,))
    assert error("int4/128") > found[2]


def test_numbers_of_four_bits_on_a_grid_come_back_exactly() -> None:
    grid = torch.arange(16).repeat(16, 8).float() * 0.5 - 3
    assert torch.equal(dequantize(*quantize(grid, "int4/128")), grid)
    same = torch.full((16, 32), 0.25)
    assert torch.equal(dequantize(*quantize(same, "int4/32")), same)


def test_rows_are_quantized_in_blocks_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentar.core import quantization

    numbers = torch.randn(33, 64, generator=torch.Generator().manual_seed(0))
    whole = [quantize(numbers, form) for form in ("int8", "int4/32")]
    monkeypatch.setattr(quantization, "_ROWS_AT_ONCE", 5 * 64)
    parts = [quantize(numbers, form) for form in ("int8", "int4/32")]
    for one, other in zip(whole, parts, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_the_form_follows_the_shape() -> None:
    assert [form_of(4, 16, columns) for columns in (256, 96, 100)] == ["int4/32", "int4/32", "int8"]
    wide = [form_of(4, 16, columns, (128, 64, 32)) for columns in (256, 192, 96)]
    assert wide == ["int4/128", "int4/64", "int4/32"]
    assert form_of(4, 20, 256) == form_of(8, 16, 256) == "int8"
    with pytest.raises(ConfigError, match="'int4/48' is no form of quantized weights; use int8, int4/32"):
        group_of("int4/48")
    with pytest.raises(ConfigError, match="has no groups of 64; quantize it to int8"):
        quantize(torch.zeros(16, 96), "int4/64")


def test_a_part_is_loaded_packed_or_as_numbers(tmp_path: Path) -> None:
    folder = _save(tmp_path / "part")
    config, state, packed = load_packed(folder)
    assert config == {"width": 3} and is_quantized(folder)
    assert {name: one.form for name, one in packed.items()} == FORMS
    assert state["a"].is_meta and state["b"].shape == (32, 128)
    assert state["half"].dtype == torch.float32 and torch.equal(state["steps"], torch.arange(3))
    plain = load_part(folder)
    assert plain[0] == config
    for name, one in packed.items():
        assert torch.equal(plain[1][name], dequantize(one.values(), one.scale()))
    assert load_packed(folder, exact=("half",))[1]["half"].dtype == torch.bfloat16
    assert load_part(folder, torch.bfloat16)[1]["b"].dtype == torch.bfloat16


def test_a_part_that_is_not_quantized(tmp_path: Path) -> None:
    save_part(tmp_path / "part", {}, {"a": torch.ones(64, 64)}, "int8")
    assert not is_quantized(tmp_path / "part")
    with pytest.raises(WeightsError, match="is not quantized; make a quantized model with opentar quantize"):
        load_packed(tmp_path / "part")


def test_int4_asks_for_forms(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="int4 is the storage of folders that opentar quantize writes"):
        save_part(tmp_path / "part", {}, {"a": torch.ones(64, 64)}, "int4")
    with pytest.raises(WeightsError, match="holds numbers too large for int4/32"):
        save_part(tmp_path / "part", {}, {"a": torch.full((16, 32), 1e9)}, "int4", forms={"a": "int4/32"})


def _change(folder: Path, change: Callable[[dict[str, Tensor], dict[str, object]], None]) -> None:
    """Change tensors and config, and let the manifest go along, as somebody who makes such files would."""
    from opentar.core.manifest import manifest_of

    tensors, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    change(tensors, config)
    save_file({name: one.contiguous().clone() for name, one in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_text(json.dumps({"format": 1, "files": manifest_of(folder)}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors, _: tensors.pop("b::scale"), "lacks b::scale, which its config names as int4/64"),
        (lambda tensors, _: tensors.pop("a"), "lacks a, which its config names as int8"),
        (lambda _, config: config["quantized"].update(b="int4/32"), r"b::scale is float16 \[32, 2, 2\].*\[32, 4, 2\]"),
        (lambda _, config: config["quantized"].update(b="int4/48"), "b: 'int4/48' is no form of quantized weights"),
        (
            lambda _, config: config["quantized"].update(b="int8"),
            r"b is uint8 \[32, 64\], and int8 is a matrix of int8",
        ),
        (lambda _, config: config["quantized"].update(b=7), "'7' is no form"),
        (lambda _, config: config.update(quantized=[1]), "does not say which tensors are quantized"),
        (
            lambda _, config: config.update(storage="int2"),
            "stored as 'int2'; this version reads .*int4: update OpenTar",
        ),
        (lambda tensors, _: tensors.update({"a::scale": torch.ones(48)}), r"a::scale is float32 \[48\]"),
    ],
)
def test_damage_is_told(
    tmp_path: Path, change: Callable[[dict[str, Tensor], dict[str, object]], None], told: str
) -> None:
    folder = _save(tmp_path / "part")
    _change(folder, change)
    for load in (load_packed, load_part):
        with pytest.raises(WeightsError, match=told):
            load(folder)
