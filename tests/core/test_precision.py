"""Which type runs where: a table over devices that this machine need not have."""

from __future__ import annotations

import pytest
import torch

from opentar.core.errors import ConfigError
from opentar.core.precision import PARTS, DeviceFacts, choose_types, device_facts

B, H, F, S = torch.bfloat16, torch.float16, torch.float32, "stored"
CPU, H100 = DeviceFacts("cpu"), DeviceFacts("cuda", True, "H100")
T4, V100 = DeviceFacts("cuda", False, "Tesla T4"), DeviceFacts("cuda", False, "V100")
MAC, OLD_MAC = DeviceFacts("mps", True), DeviceFacts("mps", False, "MPS before macOS 14")
HALVES = (F, H, H, F)
WHOLE, NONE = set(PARTS), set()


@pytest.mark.parametrize(
    ("facts", "stored", "asked", "types", "remark"),
    [
        *((facts, stored, S, (S,) * 4, "") for facts in (CPU, H100, MAC) for stored in (WHOLE, NONE)),
        *((facts, WHOLE, B, (B,) * 4, "") for facts in (CPU, H100, MAC)),
        *((facts, WHOLE, F, (F,) * 4, "") for facts in (CPU, H100, T4, V100, MAC, OLD_MAC)),
        *((facts, stored, H, HALVES, "") for facts in (H100, T4, V100, MAC, OLD_MAC) for stored in (WHOLE, NONE)),
        *((facts, NONE, S, (S,) * 4, "") for facts in (T4, OLD_MAC)),
        (T4, WHOLE, S, HALVES, "Tesla T4 has no bfloat16, in which the model is stored; runs ta_tok in float32, "
         "language in float16, detok_ar in float16, detok_diffusion in float32"),
        (OLD_MAC, {"language"}, S, (S, H, S, S), "MPS before macOS 14 has no bfloat16, in which the model is stored; "
         "runs language in float16"),
        (V100, WHOLE, B, (B,) * 4, "V100 has no bfloat16 and emulates it slowly; float16 is faster there"),
    ],
)  # fmt: skip
def test_the_types_that_run(
    facts: DeviceFacts, stored: set[str], asked: object, types: tuple[object, ...], remark: str
) -> None:
    choice = choose_types(facts, stored.__contains__, asked)
    assert tuple(choice.types[part] for part in PARTS) == types
    assert choice.remark == remark


@pytest.mark.parametrize(
    ("facts", "asked", "told"),
    [
        (CPU, H, "float16 is for cuda and mps: .* use float32, or bfloat16"),
        (OLD_MAC, B, "MPS before macOS 14 has no bfloat16; use float16 or float32"),
    ],
)
def test_types_that_a_device_has_not(facts: DeviceFacts, asked: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        choose_types(facts, WHOLE.__contains__, asked)


@pytest.mark.parametrize(("capability", "has"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_facts_of_graphics_cards(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], has: bool) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    assert device_facts(torch.device("cuda", 1)) == DeviceFacts("cuda", has, "a card")


@pytest.mark.parametrize("has", [True, False])
def test_facts_of_others(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version: has and version == (14, 0))
    assert device_facts(torch.device("mps")).bfloat16 == has
    assert device_facts(torch.device("cpu")) == CPU
