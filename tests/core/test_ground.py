"""Errors, environment and devices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import opentar
from opentar.core import device, environment, errors


def test_errors_are_one_line() -> None:
    assert str(errors.ModelError("no such\n  model\tnana")) == "no such model nana"
    kinds = ("ConfigError", "ImageError", "PromptError", "WeightsError", "OutputError", "ModelError", "DataError")
    for name in kinds:
        assert issubclass(getattr(errors, name), opentar.OpenTarError)


def test_shown_is_short_and_harmless() -> None:
    assert errors.shown("三\n\x1b[2J") == r"'三\n\x1b[2J'"
    long = errors.shown("/" + "x" * 1000 + "/model.safetensors")
    assert len(long) < 130
    assert long.endswith("x/model.safetensors'")


def test_nearest() -> None:
    assert errors.nearest("diffusoin", ["ar", "diffusion"]) == " Did you mean 'diffusion'?"
    assert errors.nearest("qqq", ["ar", "diffusion"]) == ""


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("true", True), ("0", False), ("", False), ("no", False)])
def test_yes_and_no(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool) -> None:
    monkeypatch.setenv("OPENTAR_DEBUG", value)
    assert environment.debug() is expected


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENTAR_CACHE", str(tmp_path / "mine"))
    assert environment.cache_dir() == tmp_path / "mine"
    assert not (tmp_path / "mine").exists()
    monkeypatch.delenv("OPENTAR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert environment.cache_dir() == tmp_path / "opentar"


@pytest.mark.parametrize(("value", "expected"), [("2", 2), ("0", None), ("x", None), ("", None)])
def test_threads(monkeypatch: pytest.MonkeyPatch, value: str, expected: int | None) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert environment.threads() == expected


def test_environment_of_a_child_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENTAR_DEVICE", "cpu")
    child = environment.for_child(OMP_NUM_THREADS="3")
    assert child["OPENTAR_DEVICE"] == "cpu"
    assert child["OMP_NUM_THREADS"] == "3"
    child["OPENTAR_DEVICE"] = "mps"
    assert environment.device_name() == "cpu"


def test_quiet_libraries_keeps_the_users_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "debug")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    environment.quiet_libraries()
    import os

    assert os.environ["TRANSFORMERS_VERBOSITY"] == "debug"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.resolve_device("cpu") == torch.device("cpu")
    assert device.resolve_device(" CPU ") == torch.device("cpu")
    monkeypatch.setenv("OPENTAR_DEVICE", "cpu")
    assert device.resolve_device() == device.resolve_device("auto") == torch.device("cpu")
    for name in ("gpu0", "cuda:x", "cuda:999", "cpu:7", ""):
        with pytest.raises(errors.ConfigError, match="device"):
            device.resolve_device(name)


def test_environment_device_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENTAR_DEVICE", "tpu")
    with pytest.raises(errors.ConfigError, match="'tpu' is unknown"):
        device.resolve_device()


def test_bf16_of_the_cpu_follows_its_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False}, raising=False)
    assert not device.has_bf16_cpu()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert device.has_bf16_cpu()
