"""What an import chooses where a folder says two things: by a stated rule, told, and as transformers chooses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from published_files import change_json, shard
from safetensors.torch import load_file, save_file
from transformers import Qwen2ForCausalLM

from opentar.checkpoints.convert.importing import import_tar
from opentar.checkpoints.convert.sana_folder import INDEX as SANA_INDEX
from opentar.checkpoints.convert.sana_folder import WEIGHTS as SANA_WEIGHTS
from opentar.core.errors import OpenTarError, WeightsError
from opentar.core.folder import load_part
from opentar.language.folder import load_language
from opentar.language.published import WEIGHTS, read_llm

pytest.importorskip("diffusers")
Own = Callable[[str], Path]
INDEX = f"{WEIGHTS}.index.json"
HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"
SANA = "Tar-SANA-600M-512px"


@pytest.fixture
def llm(own: Own) -> Path:
    """A folder that may be changed; its weights are tied."""
    folder = own("Tar-1.5B")
    state = {name: tensor for name, tensor in load_file(folder / WEIGHTS).items() if name != HEAD}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    change_json(folder / "config.json", tie_word_embeddings=True)
    return folder


def with_head(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    state = load_file(folder / WEIGHTS)
    save_file(state | {HEAD: change(state[TABLE].clone())}, folder / WEIGHTS, metadata={"format": "pt"})


def check_logits(llm: Path, published: Path, out: Path) -> tuple[str, ...]:
    """Import, compare with what transformers makes of the folder; returns the notes of the language part."""
    report = import_tar(out, llm=llm, ta_tok=published / "ta_tok.pth")
    model = load_language(out / "language").model
    ids = torch.arange(12)[None]
    theirs = Qwen2ForCausalLM.from_pretrained(llm, attn_implementation="sdpa").eval()
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model.hidden(ids)), theirs(ids).logits, atol=1e-4, rtol=1e-4)
    return report.parts[1].notes


def test_a_head_that_differs_is_kept_though_the_config_ties_it(llm: Path, published: Path, tmp_path: Path) -> None:
    with_head(llm, lambda table: table + 1)
    notes = check_logits(llm, published, tmp_path / "out")
    assert any("lm_head.weight holds other numbers: both are kept, as transformers does" in note for note in notes)
    assert HEAD in load_part(tmp_path / "out" / "language")[1]


@pytest.mark.parametrize("half", [False, True])
def test_an_equal_head_is_no_second_one(llm: Path, published: Path, tmp_path: Path, half: bool) -> None:
    if half:
        state = {name: tensor.bfloat16() for name, tensor in load_file(llm / WEIGHTS).items()}
        save_file({name: tensor.float() for name, tensor in state.items()}, llm / WEIGHTS, metadata={"format": "pt"})
    with_head(llm, lambda table: table.bfloat16() if half else table)
    assert not any(HEAD in note for note in check_logits(llm, published, tmp_path / "out"))
    assert HEAD not in load_part(tmp_path / "out" / "language")[1]


def test_the_index_of_a_tied_model_may_list_its_head(llm: Path, published: Path, tmp_path: Path) -> None:
    shard(llm)
    index = json.loads((llm / INDEX).read_text())
    index["weight_map"][HEAD] = index["weight_map"][TABLE]
    (llm / INDEX).write_text(json.dumps(index))
    assert check_logits(llm, published, tmp_path / "out") == ()
    change_json(llm / "config.json", tie_word_embeddings=False)
    with pytest.raises(WeightsError, match=r"lacks 'lm_head\.weight', which model\.safetensors\.index\.json says"):
        read_llm(llm)


def test_a_model_that_ties_nothing_needs_a_head(llm: Path) -> None:
    """transformers fills it with random numbers."""
    change_json(llm / "config.json", tie_word_embeddings=False)
    with pytest.raises(WeightsError, match=r"has no lm_head\.weight, and config\.json does not tie it to the table"):
        read_llm(llm)


@pytest.fixture
def both(llm: Path) -> Path:
    """A folder with a single file, and beside it an index and two files of other numbers."""
    whole = load_file(llm / WEIGHTS)
    save_file({name: tensor + 1 for name, tensor in whole.items()}, llm / WEIGHTS, metadata={"format": "pt"})
    shard(llm)
    save_file(whole, llm / WEIGHTS, metadata={"format": "pt"})
    return llm


def test_the_single_file_is_taken_where_both_stand(both: Path, published: Path, tmp_path: Path) -> None:
    notes = check_logits(both, published, tmp_path / "out")
    assert notes == (
        "model.safetensors stands beside model.safetensors.index.json and its 2 files: the single file is taken, "
        "as transformers does",
    )


@pytest.mark.parametrize("tied", [True, False])
def test_an_index_that_is_out_of_date(both: Path, published: Path, tmp_path: Path, tied: bool) -> None:
    for path in both.glob("model-*.safetensors"):
        path.unlink()
    if not tied:
        with_head(both, lambda table: table + 1)
        change_json(both / "config.json", tie_word_embeddings=False)
    (note,) = check_logits(both, published, tmp_path / "out")
    assert note.startswith("model.safetensors.index.json is out of date (it names 'model-00001-of-00002.safetensors'")


def test_a_single_file_that_is_not_whole_is_not_filled_from_the_index(both: Path) -> None:
    state = load_file(both / WEIGHTS)
    save_file({name: tensor for name, tensor in state.items() if name != "model.norm.weight"}, both / WEIGHTS)
    with pytest.raises(WeightsError, match=r"lacks the tensor model\.norm\.weight .*stands beside model\.safetensors"):
        read_llm(both)


def test_a_damaged_index_beside_the_single_file(llm: Path, published: Path, tmp_path: Path) -> None:
    (llm / INDEX).write_text('{"metadata": {}}')
    assert check_logits_note(llm, published, tmp_path) == (
        "model.safetensors.index.json is damaged and not needed: model.safetensors is taken",
    )


def check_logits_note(llm: Path, published: Path, tmp_path: Path) -> tuple[str, ...]:
    return import_tar(tmp_path / "out", llm=llm, ta_tok=published / "ta_tok.pth", dry_run=True).parts[1].notes


@pytest.mark.parametrize("stale", [False, True])
def test_sana_takes_the_index_as_diffusers_does(own: Own, published: Path, tmp_path: Path, stale: bool) -> None:
    part = own(SANA) / "transformer"
    whole = load_file(part / SANA_WEIGHTS)
    file = "diffusion_pytorch_model-00001-of-00001.safetensors"
    if not stale:
        save_file({name: tensor / 2 for name, tensor in whole.items()}, part / file, metadata={"format": "pt"})
    (part / SANA_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(whole, file)}))
    given = {"llm": published / "Tar-1.5B", "ta_tok": published / "ta_tok.pth"}
    report = import_tar(tmp_path / "out", **given, sana=[own(SANA)])
    assert ("out of date" if stale else "taken, as diffusers does") in report.parts[-1].notes[0]
    written = tmp_path / "out" / "detok_diffusion" / "transformer"
    (path,) = written.glob("*.safetensors")
    assert path.name == (SANA_WEIGHTS if stale else file)
    assert (written / SANA_INDEX).exists() is not stale
    assert all(torch.equal(tensor, whole[name] / (1 if stale else 2)) for name, tensor in load_file(path).items())


def damage(path: Path) -> None:
    """Make the last number of a file's last tensor NaN, whatever the file is."""
    state = load_file(path)
    name = sorted(state)[-1]
    state[name] = state[name].clone()
    state[name].view(-1)[-1] = float("nan")
    save_file(state, path, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", ["keep", "bf16"])
def test_every_number_is_read_once(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """By a real import and by a trial one; the checksums of pickles are taken on the same way."""
    from opentar.checkpoints.convert import planned, sana_folder
    from opentar.core import torch_files

    checked: list[tuple[str, str]] = []
    summed = 0
    real_check, real_sum = planned.check_numbers, torch_files.zlib.crc32

    def check(where: Path, name: str, tensor: torch.Tensor, kind: torch.dtype) -> None:
        checked.append((str(where), name))
        real_check(where, name, tensor, kind)

    def crc32(content: memoryview, before: int = 0) -> int:
        nonlocal summed
        summed += len(content)
        return real_sum(content, before)

    monkeypatch.setattr(planned, "check_numbers", check)
    monkeypatch.setattr(sana_folder, "check_numbers", check)
    monkeypatch.setattr(torch_files.zlib, "crc32", crc32)
    monkeypatch.setattr(shutil, "copyfile", lambda *given: pytest.fail("a file was copied without a look at it"))
    pickles = ["ta_tok.pth", "ar_dtok_lp_256px.pth", "ar_dtok_lp_512px.pth", "vq_ds16_t2i.pt"]
    files = {
        "llm": published / "Tar-1.5B",
        "ta_tok": published / pickles[0],
        "ar": [published / name for name in pickles[1:3]],
        "vqgan": published / pickles[3],
        "sana": [published / SANA],
    }
    import_tar(tmp_path / "out", **files, dtype=dtype)
    real = sorted(checked)
    assert len(real) == len(set(real))
    assert {Path(where).name for where, _ in real} >= {*pickles, WEIGHTS, SANA_WEIGHTS}
    assert 0 < summed <= sum((published / name).stat().st_size for name in pickles)
    checked.clear()
    import_tar(tmp_path / "trial", **files, dtype=dtype, dry_run=True)
    assert set(checked) == set(real)


@pytest.mark.parametrize("place", ["Tar-1.5B/model.safetensors", f"{SANA}/vae/{SANA_WEIGHTS}"])
def test_a_late_refusal_leaves_nothing(own: Own, published: Path, tmp_path: Path, place: str) -> None:
    folder = own(place.partition("/")[0])
    damage(folder / place.partition("/")[2])
    given = {"llm": published / "Tar-1.5B", "ta_tok": published / "ta_tok.pth"}
    given |= {"sana": [folder]} if place.startswith(SANA) else {"llm": folder}
    lines = []
    for dry_run in (True, False):
        with pytest.raises(OpenTarError, match="holds NaN or infinity") as caught:
            import_tar(tmp_path / "out", **given, dry_run=dry_run)
        lines.append(str(caught.value))
        assert [one.name for one in tmp_path.iterdir()] == ["own"]
    assert lines[0] == lines[1]


def test_a_copied_sana_needs_memory_for_a_tensor_only(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from opentar.checkpoints.convert.planned import plan_sana

    kept, changed = (plan_sana(published / SANA, dtype, {}) for dtype in ("keep", "bf16"))
    parts = [load_file(path) for path in (published / SANA).glob(f"*/{SANA_WEIGHTS}") if "text" not in path.parts[-2]]
    assert kept.held == max(tensor.nbytes for part in parts for tensor in part.values())
    assert kept.held < changed.held <= changed.report.bytes
