"""`opentar init` and what `opentar info` says about its folder."""

import json

import pytest


def test_init_writes_a_model_that_info_describes(run, tmp_path):
    argv = ("init", "tar-tiny", "--random", "-o", "made", "--parts", "language", "ta_tok", "--dtype", "bf16")
    code, out, _ = run(*argv)
    assert code == 0
    assert "part     language: 10,000 random numbers" in out
    assert "written  made: tar-tiny-random" in out
    code, out, _ = run("info", "made")
    assert code == 0
    assert "part     language: 10,000 parameters" in out
    assert "bfloat16" in out
    assert "every file intact" in out
    assert "nothing: no de-tokenizer" in out
    told = json.loads(run("info", "made", "--json")[1])
    assert told["parts"]["language"]["dtypes"] == {"bfloat16": 10_000}
    assert told["parts"]["ta_tok"]["licence"] == told["licence"]
    assert sum(part["bytes"] for part in told["parts"].values()) < told["bytes"]


def test_init_as_json(run):
    code, out, _ = run("init", "tar-tiny", "--random", "-o", "made", "--parts", "language,ta_tok", "--json")
    assert code == 0
    told = json.loads(out)
    assert set(told["numbers"]) == {"language", "ta_tok"}
    assert told["bytes"] == 2 * sum(told["numbers"].values())


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("tar-tiny", "-o", "made"), "add --random"),
        (("tar-2b", "--random", "-o", "made"), "size 'tar-2b' is unknown; there are: tar-1.5b, tar-7b"),
        (("tar-tiny", "--random", "-o", "made", "--dtype", "fp16"), "fp16"),
        (("tar-tiny", "--random", "-o", "made", "--parts", "language"), "part ta_tok is left out"),
    ],
)
def test_what_cannot_be_made_is_refused(refused, argv, expected):
    assert expected in refused("init", *argv)


def test_info_tells_damage_unless_told_not_to_look(run, tiny_model, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    weights = next((folder / "language").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, _, err = run("info", folder)
    assert code == 1
    assert "wrong sha256" in err
    code, out, _ = run("info", folder, "--no-verify")
    assert code == 0
    assert "files not compared" in out


def test_a_dry_run_says_what_it_takes_and_writes_nothing(run, tmp_path):
    argv = ("init", "tar-tiny", "--random", "-o", "made", "--parts", "language,ta_tok")
    code, out, _ = run(*argv, "--dry-run")
    assert code == 0
    assert "part     language: 10,000 random numbers" in out
    assert "on the disk" in out and "of memory while it is made" in out
    assert "would be written made: tar-tiny-random" in out
    told = json.loads(run(*argv, "--dry-run", "--json")[1])
    assert told["written"] is False
    assert told["disk_bytes"] > told["bytes"] and told["memory_bytes"] > 0
    assert list(tmp_path.iterdir()) == []
    made = json.loads(run(*argv, "--json")[1])
    assert made == told | {"written": True}


def test_a_dry_run_refuses_what_the_real_one_refuses(refused, tmp_path, monkeypatch):
    argv = ("init", "tar-tiny", "--random", "--parts", "language,ta_tok", "-o")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for name, expected in (("full", "not an empty folder"), ("full/notes.txt", "is a file")):
        assert refused(*argv, name) == refused(*argv, name, "--dry-run")
        assert expected in refused(*argv, name, "--dry-run")
    assert "detok_x" in refused("init", "tar-tiny", "--random", "-o", "made", "--dry-run", "--parts", "detok_x")
    monkeypatch.setattr("opentar.core.disk.free_bytes", lambda _: 1000)
    assert "1 kB free" in refused(*argv, "made", "--dry-run")
    monkeypatch.setattr("opentar.core.disk.free_bytes", lambda _: 10**12)
    monkeypatch.setattr("opentar.core.memory.available_bytes", lambda: 1000)
    assert "of memory" in refused(*argv, "made", "--dry-run")
