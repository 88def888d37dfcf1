"""`opentar quantize` on the command line."""

import json


def test_quantize_writes_a_model_that_info_describes(run):
    code, out, _ = run("quantize", "nano", "--to", "int4", "-o", "small", "--calibrate", "none")
    assert code == 0
    assert "part     detok_diffusion: as it was" in out
    assert "numbers as int4/32" in out
    assert "written  small: " in out
    told = json.loads(run("info", "small", "--json")[1])
    before = json.loads(run("info", "nano", "--json")[1])
    assert told["name"] == "nano-int4"
    assert set(told["parts"]["language"]["dtypes"]) == {"int4", "int8", "float32"}
    for part, facts in told["parts"].items():
        assert facts["parameters"] == before["parts"][part]["parameters"]
    assert run("verify", "small")[0] == 0


def test_quantize_as_json(run):
    code, out, _ = run("quantize", "--to", "int8", "-o", "small", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["to"] == "int8"
    assert told["parts"]["language"]["int8"] > 5_000_000
    assert 0 < told["bytes"] < 1.01 * told["bytes_before"]


def test_what_cannot_be_quantized_is_refused(refused, tmp_path):
    assert "cannot quantize to 'int9'; there are: int8, int4" in refused(
        "quantize", "nano", "--to", "int9", "-o", "out"
    )
    assert "'nanoo'" in refused("quantize", "nanoo", "--to", "int8", "-o", "out")
    (tmp_path / "file").write_text("x")
    assert "is a file" in refused("quantize", "nano", "--to", "int8", "-o", "file")


def test_calibration_is_for_4_bits_and_by_a_text(run, refused, tmp_path):
    assert "int8 is not calibrated, only int4 and openvino-int4 are; leave --calibrate out" in refused(
        "quantize", "nano", "--to", "int8", "-o", "out", "--calibrate", "none"
    )
    code, _, told = run("quantize", "nano", "--to", "int4", "-o", "out", "--calibrate", "missing.txt")
    assert code == 1 and "'missing.txt' cannot be read as text" in told
    text = tmp_path / "text.txt"
    text.write_text("A cat sits on a mat.\n" * 100)
    assert run("quantize", "nano", "--to", "int4", "-o", "small", "--calibrate", str(text))[0] == 0
    assert run("verify", "small")[0] == 0
    code, out, _ = run("quantize", "nano", "--to", "int4", "-o", "rough", "--calibrate", "none")
    assert code == 0 and "note     int4 is experimental: 4 bits" in out
    assert "note     experimental: 4 bits" in run("info", "rough")[1]
    assert "experimental" not in run("info", "small")[1]
