"""Finding, reading and writing model folders."""

import json

import pytest

from opentar.checkpoints import find, model_folder, settings
from opentar.core.config import to_dict
from opentar.core.errors import ConfigError, ModelError, OutputError, WeightsError
from opentar.core.folder import verify


def test_bundled_names_are_found_and_suggested(tiny_model, monkeypatch, tmp_path):
    monkeypatch.setattr(find, "BUNDLED", tiny_model.parent)
    assert "tiny" in find.bundled_models()
    assert find.find_model("tiny") == tiny_model
    with pytest.raises(ModelError, match=r"'tinny' is unknown; give a folder or one of: tiny.*Did you mean 'tiny'"):
        find.find_model("tinny")


def test_paths_are_found(tiny_model, monkeypatch):
    assert find.find_model(tiny_model) == tiny_model
    monkeypatch.chdir(tiny_model.parent)
    assert find.find_model("./tiny").samefile(tiny_model)


def test_published_names_are_found_in_the_cache(tiny_model, monkeypatch, tmp_path):
    import shutil

    monkeypatch.setenv("OPENTAR_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"has not been fetched yet; run: opentar pull csuhan/Tar-1\.5B"):
        find.find_model("csuhan/Tar-1.5B")
    folder = shutil.copytree(tiny_model, find.cached_model("csuhan/Tar-1.5B"))
    assert find.find_model("csuhan/Tar-1.5B") == folder
    with pytest.raises(ModelError, match=r"Did you mean 'csuhan/Tar-1\.5B'"):
        find.find_model("csuhan/tar-1.5B")


def test_config_survives_json(tiny_model):
    config = model_folder.read_config(tiny_model)
    assert config.detokenizers == ("diffusion", "ar")
    assert to_dict(config) == json.loads((tiny_model / "config.json").read_text(encoding="utf-8"))


def test_the_alphabet_is_the_language_models_own(tiny_model):
    from opentar.language.folder import load_language

    assert model_folder.read_vocab(tiny_model) == load_language(tiny_model / "language").model.vocab


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"parts": ("ta_tok",)}, "lacks language"),
        ({"parts": ("ta_tok", "language", "detok_difusion")}, "Did you mean 'detok_diffusion'"),
        ({"parts": ("ta_tok", "language", "detok_ar")}, "defaults.draw.detok is 'diffusion'; this model has ar"),
        ({"parts": ("ta_tok", "language", "detok_ar", "detok_ar")}, "name every part once"),
        ({"parts": ("ta_tok", "language", "detok_ar_0512")}, "config.parts names 'detok_ar_0512'"),
        ({"parts": ("ta_tok", "language", "ta_tok_512")}, "config.parts names 'ta_tok_512'"),
        ({"sources": {"detok_ar": ("x",)}}, "config.sources names 'detok_ar'; this model has ta_tok, language"),
        ({"part_licences": {"detok_ar": "x"}}, "config.part_licences names 'detok_ar'"),
    ],
)
def test_configs_that_make_no_model(values, told):
    with pytest.raises(ModelError, match=told):
        settings.ModelConfig(**values)


def test_further_detokenizers_are_named_by_their_pixels():
    parts = ("ta_tok", "language", "detok_ar", "detok_ar_512", "detok_diffusion_1024")
    defaults = settings.Defaults(draw=settings.DrawSettings(detok="ar_512"))
    config = settings.ModelConfig(parts=parts, defaults=defaults, sources={"detok_ar_512": ("a.pth", "b.pt")})
    assert config.detokenizers == ("ar", "ar_512", "diffusion_1024")
    assert model_folder.detok_part(config, "diffusion_1024") == "detok_diffusion_1024"
    with pytest.raises(ModelError, match="Did you mean 'ar_512'"):
        model_folder.detok_part(config, "ar512")


def test_a_model_that_only_reads_says_so(tiny_model, tmp_path):
    config = settings.ModelConfig(parts=("ta_tok", "language"))
    model_folder.write_model(tmp_path / "reader", config, {part: tiny_model / part for part in config.parts})
    with pytest.raises(ModelError, match="it has: none"):
        model_folder.detok_part(model_folder.read_config(tmp_path / "reader"), "diffusion")


def test_written_models_are_whole_and_never_replace(tiny_model, tmp_path):
    config = model_folder.read_config(tiny_model)
    parts = {part: tiny_model / part for part in config.parts}
    model_folder.write_model(tmp_path / "new", config, parts)
    verify(tmp_path / "new")
    with pytest.raises(OutputError, match="not an empty folder"):
        model_folder.write_model(tmp_path / "new", config, parts)
    with pytest.raises(ModelError, match="parts given"):
        model_folder.write_model(tmp_path / "less", config, {"ta_tok": tiny_model / "ta_tok"})
    with pytest.raises(ModelError, match=r"has no config\.json"):
        model_folder.write_model(tmp_path / "less", config, parts | {"language": tmp_path})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]


def test_foreign_folders_are_refused(tiny_model, tmp_path):
    with pytest.raises(WeightsError, match="is one part of an OpenTar model"):
        model_folder.read_config(tiny_model / "ta_tok")
    (tmp_path / "language").mkdir()
    (tmp_path / "language" / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="no OpenTar language folder"):
        model_folder.read_vocab(tmp_path)


@pytest.mark.parametrize("value", [{"scale": "1"}, {"temperature": 11.0}, {"top_p": 1.5}, {"top_k": -1}])
def test_defaults_are_checked(value):
    from opentar.core.config import from_dict

    with pytest.raises(ConfigError):
        from_dict(settings.DrawSettings, value)
