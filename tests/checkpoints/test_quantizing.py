"""`opentar quantize`: a whole model with other weights, which says how, and is loaded, verified and refused as any."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import opentar
from opentar.checkpoints.convert.quantizing import CALIBRATED, TARGETS, experimental, quantize_model
from opentar.checkpoints.convert.qwen2 import export_qwen2
from opentar.checkpoints.model_folder import read_config
from opentar.checkpoints.parts import ModelParts
from opentar.core.errors import ConfigError, ModelError, OutputError
from opentar.core.folder import folder_hash, load_packed, load_part, verify
from opentar.language.folder import load_language
from opentar.nn.quantized import QuantizedEmbedding, QuantizedHead, QuantizedLinear

NANO = Path(opentar.__file__).parent / "models" / "nano"


@pytest.fixture(scope="module", params=["int8", "int4"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nano, quantized."""
    out = tmp_path_factory.mktemp("made") / request.param
    quantize_model(NANO, out, request.param)
    return out


def test_parts_say_what_is_quantized_and_what_is_not(made: Path) -> None:
    verify(made)
    assert read_config(made).name == f"nano-{made.name}"
    told = {
        part: json.loads((made / part / "config.json").read_text())
        for part in ("language", "ta_tok", "detok_ar/transformer")
    }
    forms = told["language"]["quantized"]
    wide = "int8" if made.name == "int8" else "int4/32"
    assert forms["model.layers.0.mlp.down_proj.weight"] == wide
    assert forms["model.embed_tokens.weight"] == forms["model.layers.0.self_attn.v_proj.weight"] == "int8"
    assert told["language"]["storage"] == made.name
    assert told["ta_tok"]["storage"] == "int8" and set(told["ta_tok"]["quantized"].values()) == {"int8"}
    assert all(name.split(".")[0] in ("encoder", "decoder") for name in told["ta_tok"]["quantized"])
    assert told["detok_ar/transformer"]["quantized"]["blocks.0.qkv.weight"] == wide
    assert not any(
        "norm" in name or "bias" in name or "position" in name for part in told.values() for name in part["quantized"]
    )


@pytest.mark.parametrize(("to", "wide"), [("openvino-int8", "int8"), ("openvino-int4", "int4z/128")])
def test_a_folder_for_openvino_says_so_and_holds_what_torch_runs(to: str, wide: str, tmp_path: Path) -> None:
    report = quantize_model(NANO, tmp_path / "made", to)
    told = json.loads((tmp_path / "made" / "language" / "config.json").read_text())
    assert told["opentar"]["engine"] == "openvino"
    assert told["quantized"]["model.layers.0.mlp.down_proj.weight"] == wide
    assert set(report.forms["ta_tok"]) == set(report.forms["detok_ar"]) == {"int8"}, "the other parts are those of int8"
    _, state, packed = load_packed(tmp_path / "made" / "language")
    for name, weight in packed.items():
        if weight.form == "int4z/128":
            step, middle = weight.scale().double().unbind(-1)
            zeros = 8 - middle / torch.where(step == 0, 1, step)
            assert torch.equal(zeros, zeros.round()) and zeros.min() >= 0 and zeros.max() <= 15, name
    assert set(state) == set(load_part(NANO / "language")[1])


def test_what_is_not_quantized_is_the_same(made: Path) -> None:
    for part in ("detok_diffusion", "detok_ar/canvas"):
        assert folder_hash(made / part) == folder_hash(NANO / part)
    for name in ("language/tokenizer.json", "ta_tok/words.txt"):
        assert (made / name).read_bytes() == (NANO / name).read_bytes()
    for part in ("language", "ta_tok", "detok_ar/transformer"):
        config, state, packed = load_packed(made / part)
        own, before = load_part(NANO / part)
        assert config == own and set(state) == set(before)
        assert all(torch.equal(state[name], before[name]) for name in state if name not in packed)
        after = load_part(made / part)[1]
        for name in packed:
            error = (after[name] - before[name]).norm() / before[name].norm()
            assert 0 <= float(error) < (0.02 if packed[name].form == "int8" else 0.12), name


def test_the_model_computes_with_its_own_weights(made: Path) -> None:
    parts = ModelParts(made, device="cpu")
    assert parts.running["language"] == parts.running["ta_tok"] == parts.running["detok_ar"] == "packed"
    assert parts.running["detok_diffusion"] == "float32"
    model = parts.language.model
    layer = model.qwen.model.layers[0]
    assert isinstance(layer.mlp.down_proj, QuantizedLinear) and isinstance(layer.self_attn.q_proj, QuantizedLinear)
    assert isinstance(model.qwen.lm_head, QuantizedHead)
    assert isinstance(model.qwen.model.embed_tokens, QuantizedEmbedding)
    assert model.dtype == torch.float32 and model.device.type == "cpu"
    assert isinstance(parts.ta_tok.encoder.layers[0].mlp.fc1, QuantizedLinear)
    assert not isinstance(parts.ta_tok.in_linear, QuantizedLinear)
    detokenizer = parts.detokenizer("ar")
    assert isinstance(detokenizer.transformer.blocks[0].qkv, QuantizedLinear)  # type: ignore[attr-defined]
    plain = load_language(made / "language", torch.float32).model
    ids = torch.randint(0, model.config.text_size, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden, expected = model.hidden(ids), plain.hidden(ids)
        assert float((hidden - expected).norm() / expected.norm()) < 0.05
        codes = range(model.vocab.first_code, model.vocab.size)
        assert torch.equal(model.head(hidden, codes), model.logits(hidden)[..., codes.start : codes.stop])
        if made.name == "int8":
            assert torch.equal(model.hidden(ids[1:]), hidden[1:])
    pixels = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scale = parts.vocab.scale(1)
    exact = ModelParts(NANO, device="cpu").ta_tok.encode(pixels, scale)
    assert float((parts.ta_tok.encode(pixels, scale) == exact).float().mean()) > 0.9
    picture = detokenizer.decode(parts.ta_tok.decode(exact[:1]), seed=1)
    assert picture.shape == (1, 3, 128, 128) and bool(picture.isfinite().all())


def test_calibration_is_for_targets_that_take_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="int8 is not calibrated, only int4 and openvino-int4 are"):
        quantize_model(NANO, tmp_path / "out", "int8", calibration=[[1, 2]])


def test_a_type_that_is_asked_for_unpacks(made: Path, tmp_path: Path) -> None:
    parts = ModelParts(made, device="cpu", dtype="float32")
    assert parts.running["language"] == "float32"
    assert parts.language.model.qwen.lm_head.weight.dtype == torch.float32
    report = export_qwen2(made, tmp_path / "qwen")
    assert report.dtype == "fp32"


def test_nano_itself_computes_in_float32() -> None:
    parts = ModelParts(NANO, device="cpu")
    assert parts.running["language"] == "stored"
    assert parts.language.model.qwen.lm_head.weight.dtype == torch.float32


def test_progress_and_report(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    report = quantize_model(NANO, tmp_path / "out", "int8", lambda *step: steps.append(step))
    for part in ("language", "ta_tok", "detok_ar"):
        done = [(count, total) for name, count, total in steps if name == part]
        assert done[-1][0] == done[-1][1] and [count for count, _ in done] == list(range(1, len(done) + 1))
    assert report.forms["detok_diffusion"] == {} and set(report.forms["language"]) == {"int8"}
    assert report.bytes_after == sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_refusals(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"cannot quantize to 'int9'; there are: {', '.join(TARGETS)}"):
        quantize_model(NANO, tmp_path / "out", "int9")
    with pytest.raises(ModelError, match="is quantized already; quantize the model that it was made of"):
        quantize_model(made, tmp_path / "out", "int8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(OutputError, match="exists and is not an empty folder"):
        quantize_model(NANO, tmp_path / "full", "int8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_a_damaged_source_writes_nothing(tmp_path: Path) -> None:
    source = shutil.copytree(NANO, tmp_path / "source")
    weights = source / "language" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    from opentar.core.errors import WeightsError

    with pytest.raises(WeightsError, match="sha256"):
        quantize_model(source, tmp_path / "out", "int8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_what_was_not_shown_to_lose_little_is_experimental() -> None:
    told = {to: [bool(experimental(to, calibrated=calibrated)) for calibrated in (False, True)] for to in TARGETS}
    for_sure = {to: [False, False] for to in TARGETS}
    assert told == for_sure | {to: [True, False] for to in CALIBRATED} | {"gguf-q4_0": [True, True]}
