"""What an import refuses, each in one line that says what was given and what was expected; nothing is left behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from published_files import ar_blob, change_json, vq_blob

from opentar.checkpoints.convert.importing import add_to_model, import_tar
from opentar.core.errors import ConfigError, ModelError, OutputError, WeightsError
from opentar.language.published import read_llm

pytest.importorskip("diffusers")
Own = Callable[[str], Path]
SANA = "Tar-SANA-600M-512px"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hidden_size": "many"}, "hidden_size is 'many'; expected a positive whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads is '0'; expected a positive whole number"),
        ({"num_key_value_heads": 3}, "kv_heads is 3; it must divide heads = 4"),
        ({"rope_theta": float("inf")}, "rope_theta is 'inf'; expected a positive number"),
        ({"rope_parameters": [1]}, "rope_parameters is '[1]'; a mapping is expected"),
        ({"intermediate_size": 161}, "gate_proj.weight has shape [160, 64]; expected [161, 64]"),
        ({"num_hidden_layers": 4}, "lacks the tensor model.layers.3."),
        ({"num_hidden_layers": 2}, "has the unknown tensor 'model.layers.2."),
        ({"model_type": "own", "auto_map": {"AutoModel": "own.Own"}}, "model_type is 'own'; known are qwen2 and"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}},
            "config.json: rope_parameters = ",
        ),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings = 'false' is not supported"),
    ],
)
def test_configs_of_language_models(refused, own: Own, changes: dict[str, Any], told: str) -> None:
    change_json(own("Tar-1.5B") / "config.json", **changes)
    assert told in refused(llm=own("Tar-1.5B"))


def test_rope_theta_beside_other_rope_parameters(own: Own) -> None:
    change_json(own("Tar-1.5B") / "config.json", rope_theta=5e5, rope_parameters={"rope_type": "default"})
    assert read_llm(own("Tar-1.5B")).config.rope_theta == 5e5


SIMVQ = "args.bottleneck.args.regularizer.args"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("codebook_loss_weight", None, f"{SIMVQ}.codebook_loss_weight is 'None'; expected a value of type float"),
        ("codebook_loss_weight", "x", f"{SIMVQ}.codebook_loss_weight is 'x'; expected a value of type float"),
        ("commitment_loss_weight", float("nan"), f"{SIMVQ}.commitment_loss_weight is 'nan'; expected a number from"),
        ("codebook_size", 10**30, f"{SIMVQ}.codebook_size is '1000000000000000000000000000000'; expected a number"),
        ("stochastic_temperature", None, f"{SIMVQ}.stochastic_temperature is 'None'; expected a value of type float"),
    ],
)
def test_arguments_of_image_tokenizers(refused, own: Own, name: str, value: object, told: str) -> None:
    blob: Any = torch.load(own("ta_tok.pth"), weights_only=False)
    blob["model"]["args"]["bottleneck"]["args"]["regularizer"]["args"][name] = value
    assert told in refused(ta_tok=saved(blob, own("ta_tok.pth")))


def test_one_temperature_at_most(refused, own: Own) -> None:
    blob: Any = torch.load(own("ta_tok.pth"), weights_only=False)
    simvq = blob["model"]["args"]["bottleneck"]["args"]["regularizer"]["args"]
    key = "bottleneck.regularizer.stochastic_temperature_inv"
    blob["model"]["sd"][key], simvq["stochastic_temperature"] = torch.tensor([3.0, 2.0]), -1.0
    line = refused(ta_tok=saved(blob, own("ta_tok.pth")))
    assert "stochastic_temperature_inv has shape [2]; expected a single number" in line
    blob["model"]["sd"][key], simvq["stochastic_temperature"] = torch.tensor([3.0]), None
    assert "stochastic_temperature is 'None'" in refused(ta_tok=saved(blob, own("ta_tok.pth")))
    blob["model"]["args"]["pool_scale"] = torch.tensor([1, 1])
    assert "args.pool_scale is 'tensor([1, 1])'; expected '1'" in refused(ta_tok=saved(blob, own("ta_tok.pth")))


def test_a_pickled_language_model_is_not_read(refused, own: Own) -> None:
    llm = own("Tar-1.5B")
    (llm / "model.safetensors").rename(llm / "pytorch_model.bin")
    assert "only weights in safetensors are read" in refused(llm=llm)


@pytest.mark.parametrize("content", ['{"added_tokens": 3}', '{"added_tokens": [{"id": "7"}]}', "[1]", "{"])
def test_damaged_tokenizers(refused, own: Own, content: str) -> None:
    (own("Tar-1.5B") / "tokenizer.json").write_text(content)
    assert "tokenizer.json" in refused(llm=own("Tar-1.5B"))


def saved(blob: dict[str, Any], path: Path) -> Path:
    torch.save(blob, path)
    return path


@pytest.mark.parametrize(
    ("blob", "told"),
    [
        (ar_blob(16, cond_dim=40), "takes features of width 40, the image tokenizer gives 48"),
        (ar_blob(16, vocab_size=64), "spells 64 picture codes, the VQGAN of"),
        (ar_blob(16, prefix=36), "takes at most 36 features a picture, the image tokenizer gives 729, 169, 81"),
        (ar_blob(16, surprise=1), "unknown argument 'surprise'"),
        (ar_blob(16, ffn_dim_multiplier=float("nan")), "model.args.ffn_dim_multiplier is 'nan'; a number above 0"),
        (ar_blob(16, ffn_dim_multiplier=float("inf")), "model.args.ffn_dim_multiplier is 'inf'; a number above 0"),
        (ar_blob(16, multiple_of=10**30), "multiple_of is '1000000000000000000000000000000'; give a whole number"),
        (ar_blob(16) | {"model": ar_blob(16)["model"] | {"name": ["x"]}}, "model.name is \"['x']\"; known are"),
        (
            ar_blob(16) | {"model": ar_blob(16)["model"] | {"args": {"cls_token_num": 10**30, "cond_dim": 48}}},
            "model.args.cls_token_num is '1000000000000000000000000000000'; a whole number from 1 to",
        ),
    ],
)
def test_ar_detokenizers_that_do_not_fit(refused, published, tmp_path, blob: dict[str, Any], told: str) -> None:
    path = saved(blob, tmp_path / "ar.pth")
    assert told in refused(ar=[path], vqgan=published / "vq_ds16_t2i.pt")


def test_a_short_prefix_is_told_and_sets_the_scale(published: Path, tmp_path: Path) -> None:
    path = saved(ar_blob(16, prefix=169), tmp_path / "ar.pth")
    files = {"llm": published / "Tar-1.5B", "ta_tok": published / "ta_tok.pth", "vqgan": published / "vq_ds16_t2i.pt"}
    report = import_tar(tmp_path / "out", **files, ar=[path])
    assert report.notes == ("ar.pth takes at most 169 features: it draws at scale 1, 2",)
    from opentar.checkpoints.model_folder import read_config

    assert read_config(tmp_path / "out").defaults.draw.scale == 1


def test_a_vqgan_of_another_codebook(refused, published: Path, tmp_path: Path) -> None:
    path = saved(vq_blob(entries=64), tmp_path / "vq.pt")
    line = refused(ar=[published / "ar_dtok_lp_256px.pth"], vqgan=path)
    assert "spells 32 picture codes" in line
    assert "has 64; take files that were trained together" in line


def test_a_language_model_of_another_codebook(refused, own: Own) -> None:
    import json

    path = own("Tar-1.5B") / "tokenizer.json"
    data = json.loads(path.read_text())
    data["added_tokens"] = [entry for entry in data["added_tokens"] if entry["content"] != "<I1023>"]
    path.write_text(json.dumps(data))
    assert "the image tokenizer has 1024 codes, the language model 1023" in refused(llm=own("Tar-1.5B"))


def test_a_small_disk(refused, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(total=9, used=8, free=4000))
    line = refused(OutputError)
    assert "MB" in line
    assert "4 kB free" in line


def test_little_memory(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opentar.core.memory.available_bytes", lambda: 4000)
    assert "importing needs" in (line := refused(ModelError))
    assert "4 kB are available" in line


def test_arguments(refused, published: Path, tmp_path: Path) -> None:
    ar = published / "ar_dtok_lp_256px.pth"
    assert "needs the VQGAN" in refused(ModelError, ar=[ar])
    assert "draws 16 pixels a side, and so does detok_ar" in refused(
        ModelError, ar=[ar, ar], vqgan=published / "vq_ds16_t2i.pt"
    )
    assert "dtype is 'fp16'; choose keep, bf16, fp32" in refused(ConfigError, dtype="fp16")
    assert "there is no file" in refused(ta_tok=tmp_path / "none.pth")
    assert "config.json is missing" in refused(llm=tmp_path / "none")


@pytest.mark.parametrize("name", ["a\nb\x1b[31m", "a\u202eb", "a" * 101, "  ", "\udcff", 7])
def test_names_that_stand_on_no_line(refused, name: Any) -> None:
    line = refused(ConfigError, name=name)
    assert "give one of 1 to 100 printable characters" in line
    assert line.isprintable()


def test_the_name_of_a_folder_is_no_better(refused, own: Own) -> None:
    folder = own("Tar-1.5B").rename(own("Tar-1.5B").parent / "a\x1b[31m")
    assert "the model's name is 'a\\x1b[31m'" in refused(ConfigError, llm=folder)


def test_names_of_every_script_are_taken(published: Path, tmp_path: Path) -> None:
    given = {"llm": published / "Tar-1.5B", "ta_tok": published / "ta_tok.pth", "dry_run": True}
    assert import_tar(tmp_path / "out", **given, name="模型 Größe 1").name == "模型 Größe 1"


def test_an_output_that_exists_is_kept(published: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("x")
    with pytest.raises(OutputError, match="exists and is not an empty folder"):
        import_tar(tmp_path / "out", llm=published / "Tar-1.5B", ta_tok=published / "ta_tok.pth")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious.txt"]


def test_damage_is_not_carried_into_a_new_manifest(published: Path, tmp_path: Path) -> None:
    folder = import_tar(tmp_path / "out", llm=published / "Tar-1.5B", ta_tok=published / "ta_tok.pth").folder
    weights = next((folder / "ta_tok").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-3] ^= 64
    weights.write_bytes(content)
    with pytest.raises(WeightsError, match="has changed since it was saved"):
        add_to_model(folder, sana=[published / SANA])
    with pytest.raises(WeightsError):
        add_to_model(published / "Tar-1.5B", sana=[published / SANA])


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["tar"], "give either --out for a new model, or --add"),
        (["tar", "--out", "new", "--add", "old"], "give either --out"),
        (["tar", "--out", "new"], "a new model needs --llm (a folder) and --ta-tok (a file)"),
        (["tar", "--add", "old", "--llm", "x", "--sana", "y"], "leave them out with --add"),
        (["tra", "--out", "new"], "'tra' cannot be imported; there is: tar. Did you mean 'tar'?"),
        (["tar", "--out", "new", "--llm", "x", "--ta-tok", "y", "--dtype", "fp16"], "fp16"),
    ],
)
def test_the_command_refuses(
    argv: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch
) -> None:
    from opentar.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["import", *argv]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_imports(published: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import json

    from opentar.cli import main

    files = ["--llm", published / "Tar-1.5B", "--ta-tok", published / "ta_tok.pth"]
    argv = [str(word) for word in ["import", "tar", *files, "--out", tmp_path / "out", "--name", "Mine"]]
    assert main([*argv, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "part     language: " in told
    assert f"would be written {tmp_path / 'out'}: Mine, " in told
    assert main(argv) == 0
    assert f"written  {tmp_path / 'out'}: Mine, " in capsys.readouterr().out
    painters = ["--ar", published / "ar_dtok_lp_256px.pth", "--vqgan", published / "vq_ds16_t2i.pt"]
    added = [str(word) for word in ["import", "tar", "--add", tmp_path / "out", *painters, "--json"]]
    assert main(added) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["written"] is True
    assert [part["part"] for part in values["parts"]] == ["detok_ar"]
