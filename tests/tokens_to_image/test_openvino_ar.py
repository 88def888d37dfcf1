"""The AR transformer in OpenVINO: the codes of PyTorch, one a pass and several, with guidance and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from opentar import Tar
from opentar.checkpoints.convert.quantizing import quantize_model
from opentar.checkpoints.find import find_model
from opentar.core.errors import ModelError
from opentar.nn import openvino_library
from opentar.tokens_to_image.ar import ARConfig, ARDetokenizer, ARTransformer
from opentar.tokens_to_image.ar_blocks import Places
from opentar.tokens_to_image.ar_decoding import sample_codes
from opentar.tokens_to_image.openvino_ar import OpenVINOTransformer
from opentar.tokens_to_image.passes import NAMED, PassCounts, Passes

pytestmark = pytest.mark.skipif(not openvino_library.available(), reason="pip install 'opentar[openvino]'")

MODES = {**NAMED, "lead and guesses": Passes(lead=2, guesses=2, guided=0.4, stand_in="window")}


@pytest.fixture(scope="module")
def both() -> tuple[ARTransformer, OpenVINOTransformer]:
    torch.manual_seed(0)
    model = ARTransformer(
        ARConfig(feature_size=8, codebook_size=24, hidden_size=32, heads=2, mlp_size=48, layers=3, codes=64)
    )
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.eval(), OpenVINOTransformer(model)


def features(count: int) -> torch.Tensor:
    return torch.randn(count, 9, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("name", MODES)
def test_the_codes_are_those_of_torch(
    both: tuple[ARTransformer, OpenVINOTransformer], name: str, guidance: float
) -> None:
    model, ours = both
    counts, others = PassCounts(), PassCounts()
    settings: dict[str, Any] = {"seed": [4, 2, 8], "guidance": guidance, "passes": MODES[name]}
    want = sample_codes(model, features(3), counts=counts, **settings)
    assert torch.equal(sample_codes(model, features(3), computes=ours, counts=others, **settings), want)
    assert others == counts


@torch.no_grad()
def test_what_is_written_over_is_not_seen(both: tuple[ARTransformer, OpenVINOTransformer]) -> None:
    """Entries out of order, one of them twice in the same slot: logits as with the cache of PyTorch."""
    model, ours = both
    prefix, first, again = (
        torch.randn(2, count, 32, generator=torch.Generator().manual_seed(7)) for count in (9, 3, 2)
    )
    seen = torch.zeros(2, 1, 3, 20, dtype=torch.bool)
    seen[..., :9] = True
    seen[:, :, 0, 15], seen[:, :, 1, 9], seen[:, :, 2, [9, 11]] = True, True, True
    later = torch.zeros(2, 1, 2, 20, dtype=torch.bool)
    later[..., :9] = True
    later[:, :, 0, [9, 11]], later[:, :, 1, [9, 11, 15]] = True, True
    found = []
    for begun in (model, ours):
        session = begun.begin(2, 9 + 64)
        logits = [session.step(prefix), session.filled]
        logits += [session.several(first, Places(torch.tensor([[15, 9, 11]] * 2), seen))]
        # Slot 11 is written over.
        logits += [session.several(again, Places(torch.tensor([[11, 15]] * 2), later))]
        found.append(logits)
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_drawings_do_not_meet(both: tuple[ARTransformer, OpenVINOTransformer]) -> None:
    _, ours = both
    inputs = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(3))
    alone = ours.begin(1, 20)
    want = [alone.step(inputs[:1, :3]), alone.step(inputs[:1, 3:])]
    first, second = ours.begin(1, 20), ours.begin(1, 20)
    got = first.step(inputs[:1, :3])
    second.step(inputs[1:, :3])
    assert torch.equal(got, want[0])
    assert torch.equal(first.step(inputs[:1, 3:]), want[1])


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized") / "nano"
    quantize_model(find_model("nano"), folder, "openvino-int8")
    return folder


@torch.no_grad()
def test_int8_is_as_near_to_nano_as_that_of_torch(quantized: Path) -> None:
    whole = ARDetokenizer.from_folder(find_model("nano") / "detok_ar").transformer
    packed = ARDetokenizer.from_folder(quantized / "detok_ar", "packed").transformer
    prefix = torch.randn(1, 36, whole.config.hidden_size, generator=torch.Generator().manual_seed(0))
    want = whole.begin(1, 40).step(prefix)
    off = [
        (begun.begin(1, 40).step(prefix) - want).std() / want.std() for begun in (packed, OpenVINOTransformer(packed))
    ]
    assert 0 < off[1] < 1.2 * off[0] < 0.1


def test_quantized_folders_paint_with_it(quantized: Path, tmp_path: Path) -> None:
    quantize_model(find_model("nano"), tmp_path / "int8", "int8")
    assert Tar.from_pretrained(tmp_path / "int8").parts.ar_in_openvino
    assert not Tar.from_pretrained("nano").parts.ar_in_openvino
    ours, theirs = Tar.from_pretrained(quantized), Tar.from_pretrained(quantized, engine="torch")
    assert ours.parts.ar_in_openvino
    assert not theirs.parts.ar_in_openvino
    pictures = [tar.generate("a red apple", detok="ar", scale=2, seed=5)[0] for tar in (ours, ours, theirs)]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert pictures[0].size == pictures[2].size


def test_what_openvino_cannot_run_is_told(monkeypatch: pytest.MonkeyPatch, both: Any) -> None:
    monkeypatch.setattr(openvino_library, "core", lambda openvino: _Broken())
    with pytest.raises(ModelError, match=r"OpenVINO cannot run the AR de-tokenizer in OpenVINO \(no such thing\)"):
        OpenVINOTransformer(both[0])


class _Broken:
    def compile_model(self, *given: Any) -> Any:
        raise RuntimeError("no such thing")
