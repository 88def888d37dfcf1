"""Published files become a model folder that says exactly what the files say."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published_files import change_json, shard, trainer_shape
from safetensors.torch import load_file

import sequences
from opentar import Tar
from opentar.checkpoints import model_folder
from opentar.checkpoints.convert.importing import add_to_model, import_tar
from opentar.core.errors import ModelError
from opentar.core.folder import load_part, read_config, saved_files, verify
from opentar.image_to_tokens.published import read_ta_tok
from opentar.image_to_tokens.ta_tok import TATok
from opentar.language.model import TarLanguageModel
from opentar.language.published import read_llm
from opentar.tokens_to_image.ar import ARDetokenizer, ARTransformer
from opentar.tokens_to_image.published import read_ar_dtok, read_vqgan
from opentar.tokens_to_image.vqgan import VQGAN

pytest.importorskip("diffusers")


def arguments(files: Path, **changes: Any) -> dict[str, Any]:
    given = {
        "llm": files / "Tar-1.5B",
        "ta_tok": files / "ta_tok.pth",
        "ar": [files / "ar_dtok_lp_256px.pth", files / "ar_dtok_lp_512px.pth"],
        "vqgan": files / "vq_ds16_t2i.pt",
        "sana": [files / "Tar-SANA-600M-512px"],
    }
    return given | changes


@pytest.fixture(scope="module")
def folder(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The imported model; do not change it."""
    from published_files import SIZE, SIZE_NAME

    from opentar.tokens_to_image import published as readers

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(readers.SIZES, SIZE_NAME, SIZE)
        return import_tar(tmp_path_factory.mktemp("model") / "tar", **arguments(published)).folder


@pytest.fixture(scope="module")
def tar(folder: Path) -> Tar:
    return Tar.from_pretrained(folder, device="cpu")


def test_the_folder_is_a_whole_model(folder: Path) -> None:
    verify(folder)
    config = model_folder.read_config(folder)
    assert config.name == "Tar-1.5B"
    assert config.parts == ("ta_tok", "language", "detok_ar", "detok_ar_32", "detok_diffusion")
    assert config.detokenizers == ("ar", "ar_32", "diffusion")
    assert (config.defaults.draw.detok, config.defaults.draw.scale, config.defaults.read.scale) == ("ar", 0, 0)
    assert config.sources["detok_ar_32"] == ("ar_dtok_lp_512px.pth", "vq_ds16_t2i.pt")
    assert set(config.part_licences) == set(config.parts)
    assert all("not known here" in licence for licence in config.part_licences.values())


def test_there_is_neither_a_pickle_nor_code_in_it(folder: Path) -> None:
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors"}
    assert not (folder / "detok_diffusion" / "text_encoder").exists()


def test_codes_and_features_are_those_of_the_file(tar: Tar, published: Path) -> None:
    config, state = read_ta_tok(published / "ta_tok.pth")
    direct = TATok(config).eval()
    direct.load_state_dict(state)
    pixels = torch.rand(1, 3, 384, 384, generator=torch.Generator().manual_seed(1)) * 2 - 1
    scale = tar.parts.vocab.scale(2)
    codes = direct.encode(pixels, scale)
    assert torch.equal(tar.parts.ta_tok.encode(pixels, scale), codes)
    with torch.no_grad():
        assert torch.equal(tar.parts.ta_tok.decode(codes), direct.decode(codes))


def test_logits_are_those_of_the_folder(tar: Tar, published: Path) -> None:
    config, state, *_ = read_llm(published / "Tar-1.5B")
    direct = TarLanguageModel.from_state(config, state)
    builder = tar.parts.language.builder
    ids = torch.tensor([sequences.draw(builder, "a red apple", tar.parts.vocab.scale(1))])
    assert builder.vocab == config.vocab
    with torch.no_grad():
        assert torch.equal(
            tar.parts.language.model.logits(tar.parts.language.model.hidden(ids)), direct.logits(direct.hidden(ids))
        )


@pytest.mark.parametrize(("name", "file"), [("ar", "ar_dtok_lp_256px.pth"), ("ar_32", "ar_dtok_lp_512px.pth")])
def test_pictures_of_the_ar_detokenizers_are_those_of_the_files(
    tar: Tar, published: Path, name: str, file: str
) -> None:
    config, state = read_ar_dtok(published / file)
    vq_config, vq_state = read_vqgan(published / "vq_ds16_t2i.pt")
    transformer, canvas = ARTransformer(config), VQGAN(vq_config)
    transformer.load_state_dict(state)
    canvas.load_state_dict(vq_state)
    direct = ARDetokenizer(transformer, canvas)
    features = torch.randn(1, 81, 48, generator=torch.Generator().manual_seed(2))
    imported = tar.parts.detokenizer(name)
    assert imported.image_size == direct.image_size == {"ar": 16, "ar_32": 32}[name]
    assert torch.equal(imported.decode(features, seed=3), direct.decode(features, seed=3))


def test_pictures_of_the_diffusion_detokenizer_are_those_of_the_folder(tar: Tar, published: Path) -> None:
    from opentar.tokens_to_image.sana import SanaDetokenizer

    direct = SanaDetokenizer.from_folder(published / "Tar-SANA-600M-512px")
    imported = tar.parts.detokenizer("diffusion")
    features = torch.randn(1, 81, 48, generator=torch.Generator().manual_seed(2))
    settings = {"seed": 3, "steps": 1, "height": 64, "width": 64}
    assert imported.image_size == direct.image_size == 512
    assert torch.equal(imported.negative_LD, direct.negative_LD)
    assert torch.equal(imported.decode(features, **settings), direct.decode(features, **settings))


def test_it_draws_and_reads(tar: Tar) -> None:
    (drawn,) = tar.generate("a red apple", scale=2, detok="ar", seed=1)
    assert drawn.size == (16, 16)
    assert isinstance(tar.ask(drawn, "What is it?", max_new_tokens=2), str)


def test_numbers_are_kept_or_converted(own: Callable[[str], Path], published: Path, tmp_path: Path) -> None:
    given = arguments(published, ar=[], vqgan=None, sana=[published / "Tar-SANA-600M-512px"])
    kept = import_tar(tmp_path / "kept", **given)
    small = import_tar(tmp_path / "small", **given, dtype="bf16")
    assert {part.storage for part in kept.parts} == {"float32"}
    assert {part.storage for part in small.parts} == {"bfloat16"}
    assert read_config(small.folder / "language")["storage"] == "bfloat16"
    whole, half = (load_part(one.folder / "ta_tok")[1] for one in (kept, small))
    assert all(torch.equal(half[name], tensor.bfloat16().float()) for name, tensor in whole.items())
    weights = load_file(small.folder / "detok_diffusion" / "vae" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    halves = read_config(small.folder / "detok_diffusion" / "transformer")
    assert halves["caption_channels"] == 48
    sizes = {part.part: part.bytes for part in kept.parts}
    files = dict(model_folder.part_files(kept.folder))
    stored = sum(size for name, size in files.items() if name.startswith("ta_tok/") and name.endswith(".safetensors"))
    assert abs(stored - sizes["ta_tok"]) < 50_000


def test_a_bfloat16_folder_stays_one(own: Callable[[str], Path], published: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    llm = own("Tar-1.5B")
    state = {name: tensor.bfloat16() for name, tensor in load_file(llm / "model.safetensors").items()}
    save_file(state, llm / "model.safetensors", metadata={"format": "pt"})
    report = import_tar(tmp_path / "out", **arguments(published, llm=llm, ar=[], vqgan=None, sana=[]))
    assert {part.part: part.storage for part in report.parts} == {"ta_tok": "float32", "language": "bfloat16"}
    loaded = load_part(report.folder / "language")[1]
    assert all(torch.equal(loaded[name].float(), tensor.float()) for name, tensor in state.items())
    report = import_tar(tmp_path / "wide", **arguments(published, llm=llm, ar=[], vqgan=None, sana=[]), dtype="fp32")
    assert report.parts[1].storage == "float32"
    assert "are stored as float32" in report.parts[1].notes[-1]


@pytest.mark.parametrize("shape", ["trainer", "shards", "auto_map", "slow tokenizer"])
def test_every_shape_of_a_language_folder(
    own: Callable[[str], Path], published: Path, folder: Path, tmp_path: Path, shape: str
) -> None:
    llm = own("Tar-1.5B")
    if shape == "trainer":
        trainer_shape(llm)
    elif shape == "shards":
        shard(llm)
    elif shape == "auto_map":
        change_json(llm / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
        (llm / "modeling_own.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    else:
        (llm / "tokenizer.json").unlink()
    report = import_tar(tmp_path / "out", **arguments(published, llm=llm, ar=[], vqgan=None, sana=[]))
    notes = " ".join(report.parts[1].notes)
    assert ("1 tensors of the vision tower are left out" in notes) == (shape == "trainer")
    assert ("auto_map): it is neither read nor run" in notes) == (shape == "auto_map")
    assert not (tmp_path / "canary").exists()
    assert not list(report.folder.rglob("*.py"))
    same, other = load_part(folder / "language"), load_part(report.folder / "language")
    assert same[0]["opentar"] == other[0]["opentar"]
    assert set(same[1]) == set(other[1])
    assert all(torch.equal(same[1][name], tensor) for name, tensor in other[1].items())
    if shape == "slow tokenizer":
        builders = [Tar.from_pretrained(one).parts.language.builder for one in (folder, report.folder)]
        texts = ("A photo of a macaw, 3 red apples!", "两个 苹果\n\n", "e\u0301")
        assert [builders[0].tokenizer.encode(text) for text in texts] == [
            builders[1].tokenizer.encode(text) for text in texts
        ]


def test_another_width_is_told_and_is_no_fault(published: Path, tmp_path: Path) -> None:
    report = import_tar(tmp_path / "out", **arguments(published, ar=[], vqgan=None, sana=[]), dry_run=True)
    assert report.notes == ()
    from opentar.checkpoints.convert import importing

    config = read_ta_tok(published / "ta_tok.pth")[0]
    wide = read_llm(published / "Tar-1.5B").config
    (note,) = importing._fit_language(config, _replaced(wide, hidden=3584))
    assert "64 wide and the language model 3584" in note
    assert "nothing is projected" in note


def _replaced(config: Any, **changes: Any) -> Any:
    import dataclasses

    return dataclasses.replace(config, **changes)


def test_a_dry_run_says_all_and_writes_nothing(published: Path, folder: Path, tmp_path: Path) -> None:
    dry = import_tar(tmp_path / "out", **arguments(published), dry_run=True)
    assert not dry.written
    assert list(tmp_path.iterdir()) == []
    assert [part.part for part in dry.parts] == list(model_folder.read_config(folder).parts)
    assert dry.needed_bytes > sum(part.bytes for part in dry.parts) > 0
    assert dry.free_bytes > 0


def test_progress_counts_tensors(published: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    import_tar(
        tmp_path / "out",
        **arguments(published, ar=[], vqgan=None, sana=[]),
        progress=lambda part, done, total: seen.append((part, done, total)),
    )
    assert {part for part, _, _ in seen} == {"ta_tok", "language"}
    last = {part: (done, total) for part, done, total in seen}
    assert all(done == total for done, total in last.values())


def test_adding_keeps_what_is_there(published: Path, folder: Path, tmp_path: Path) -> None:
    small = import_tar(tmp_path / "out", **arguments(published, ar=[], vqgan=None, sana=[])).folder
    assert model_folder.read_config(small).detokenizers == ()
    first = published / "ar_dtok_lp_256px.pth"
    add_to_model(small, ar=[first], vqgan=published / "vq_ds16_t2i.pt")
    assert model_folder.read_config(small).defaults.draw.detok == "ar"
    before = (small / "language" / "model.safetensors").read_bytes()
    for name in ("README.md", "notes.txt", "pictures/cat.png", "language/mine.txt"):
        (small / name).parent.mkdir(exist_ok=True)
        (small / name).write_text(f"somebody's {name}")
    report = add_to_model(small, ar=[published / "ar_dtok_lp_512px.pth"], sana=[published / "Tar-SANA-600M-512px"])
    assert [part.part for part in report.parts] == ["detok_ar_32", "detok_diffusion"]
    assert "the canvas is that of detok_ar" in report.parts[0].notes
    verify(small)
    assert (small / "language" / "model.safetensors").read_bytes() == before
    for name in ("README.md", "notes.txt", "pictures/cat.png", "language/mine.txt"):
        assert (small / name).read_text() == f"somebody's {name}"
        assert name not in saved_files(small)
    one, other = (Tar.from_pretrained(place, device="cpu").parts.detokenizer("ar_32") for place in (small, folder))
    features = torch.randn(1, 81, 48, generator=torch.Generator().manual_seed(2))
    assert torch.equal(one.decode(features, seed=3), other.decode(features, seed=3))
    with pytest.raises(ModelError, match="draws 16 pixels a side, and so does detok_ar"):
        add_to_model(small, ar=[first])
    with pytest.raises(ModelError, match="nothing was given to add"):
        add_to_model(small)


def test_notes_that_an_older_manifest_counted_survive_adding(published: Path, tmp_path: Path) -> None:
    """Models put together before counted what lay in their parts; the parts themselves never did."""
    model = import_tar(tmp_path / "out", **arguments(published, ar=[], vqgan=None, sana=[])).folder
    notes = model / "language" / "notes.txt"
    notes.write_text("mine")
    manifest = json.loads((model / "manifest.json").read_bytes())
    manifest["files"]["language/notes.txt"] = {"bytes": 4, "sha256": hashlib.sha256(b"mine").hexdigest()}
    (model / "manifest.json").write_text(json.dumps(manifest))
    add_to_model(model, ar=[published / "ar_dtok_lp_256px.pth"], vqgan=published / "vq_ds16_t2i.pt")
    assert notes.read_text() == "mine"
    verify(model)


def test_a_model_out_of_the_cache_of_the_hub_is_called_after_its_repository(published: Path, tmp_path: Path) -> None:
    llm = tmp_path / "hub" / "models--csuhan--Tar-1.5B" / "snapshots" / ("a" * 40)
    shutil.copytree(published / "Tar-1.5B", llm)
    report = import_tar(tmp_path / "out", **arguments(published, llm=llm, ar=[], vqgan=None, sana=[]), dry_run=True)
    assert report.name == "Tar-1.5B"


def test_the_config_is_plain_json(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert values["sources"]["language"] == ["Tar-1.5B"]


@pytest.mark.parametrize("dtype", ["keep", "bf16"])
def test_a_diffusion_detokenizer_in_several_files(
    own: Callable[[str], Path], published: Path, tmp_path: Path, dtype: str
) -> None:
    from safetensors.torch import save_file

    part = own("Tar-SANA-600M-512px") / "transformer"
    whole = part / "diffusion_pytorch_model.safetensors"
    state, places = load_file(whole), {}
    for number in (1, 2):
        file = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        half = {name: state[name] for name in sorted(state)[number - 1 :: 2]}
        save_file(half, part / file, metadata={"format": "pt"})
        places |= dict.fromkeys(half, file)
    whole.unlink()
    (part / f"{whole.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    given = arguments(published, ar=[], vqgan=None, sana=[own("Tar-SANA-600M-512px")])
    folder = import_tar(tmp_path / "out", **given, dtype=dtype).folder
    imported = Tar.from_pretrained(folder, device="cpu").parts.detokenizer("diffusion")
    loaded = imported.transformer.state_dict()
    # SANA's transformer runs on weights rounded to bfloat16, whatever they are stored as.
    assert all(torch.equal(loaded[name], tensor.bfloat16().float()) for name, tensor in state.items())
