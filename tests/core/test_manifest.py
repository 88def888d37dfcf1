"""Only files that a manifest names are read, and only from inside the folder; what others put there stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from opentar.core import folder as folders
from opentar.core import manifest
from opentar.core.errors import OutputError, WeightsError
from opentar.core.folder import load_part, save_part


def _state(value: float = 1.0) -> dict[str, Tensor]:
    return {name: torch.full((64, 64), value) for name in ("x", "y")}


@pytest.fixture
def part(tmp_path: Path) -> Path:
    save_part(tmp_path / "part", {"width": 3}, _state(), extra={"words.txt": b"a\nb\n"})
    return tmp_path / "part"


def _take_out(folder: Path, name: str) -> None:
    """Rewrite a manifest without `name`."""
    path = folder / folders.MANIFEST
    content = json.loads(path.read_bytes())
    del content["files"][name]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "extra.safetensors",
        "tokenizer.json",
        "Tokenizer.JSON",
        "model_index.json",
        "scheduler_config.json",
        "negative_prompt_embeds.pth",
    ],
)
def test_what_would_be_read_and_is_not_named_is_refused(part: Path, name: str) -> None:
    (part / name).write_bytes(b"{}")
    for check in (load_part, folders.verify):
        with pytest.raises(WeightsError, match=r"would be read, but manifest\.json does not name it; move it away"):
            check(part)
    (part / name).unlink()
    load_part(part)


def test_an_index_beside_the_one_file_changes_nothing(part: Path, tmp_path: Path) -> None:
    """The found fault: another model's weights and an index, which reading prefers to the one file."""
    save_part(tmp_path / "other", {}, _state(7.0), shard_bytes=17_000)
    for path in (tmp_path / "other").glob("*.safetensors*"):
        shutil.copy(path, part / path.name)
    with pytest.raises(WeightsError, match="does not name it"):
        load_part(part)


@pytest.mark.parametrize("name", ["words.txt", folders.CONFIG, folders.WEIGHTS])
def test_a_file_taken_out_of_the_manifest_is_not_read(part: Path, name: str) -> None:
    _take_out(part, name)
    with pytest.raises(WeightsError, match=f"{name}' would be read"):
        load_part(part)
    with pytest.raises(WeightsError, match=f"{name}' would be read"):
        folders.read_listed(part, name)


def test_files_of_others_are_let_be(part: Path) -> None:
    for name in ("README.md", "notes.txt", "cat.png", "notes.json", "backup/model.safetensors", "backup/config.json"):
        (part / name).parent.mkdir(exist_ok=True)
        (part / name).write_text("mine")
    assert load_part(part)[0] == {"width": 3}
    folders.verify(part)
    assert folders.saved_files(part) == ["config.json", "manifest.json", "model.safetensors", "words.txt"]


def test_small_files_are_read_verified(part: Path) -> None:
    assert folders.read_listed(part, "words.txt") == b"a\nb\n"
    assert folders.read_listed(part, "none.txt") is None
    (part / "words.txt").write_bytes(b"a\nc\n")
    with pytest.raises(WeightsError, match=r"words\.txt' has changed"):
        folders.read_listed(part, "words.txt")


@pytest.mark.parametrize("where", ["file", "folder"])
def test_links_that_lead_outside_are_refused(part: Path, tmp_path: Path, where: str) -> None:
    with folders.atomic_folder(tmp_path / "model") as unfinished:
        shutil.copytree(part, unfinished / "a")
    inside = tmp_path / "model" / "a"
    moved = inside / folders.WEIGHTS if where == "file" else inside
    moved.rename(tmp_path / "elsewhere")
    moved.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match="link that leads outside"):
        folders.verify(tmp_path / "model")
    check: Callable[[], object] = (
        (lambda: load_part(inside)) if where == "file" else lambda: folders.verify(tmp_path / "model", deep=False)
    )
    with pytest.raises(WeightsError, match="link that leads outside"):
        check()


def test_links_that_stay_inside_are_fine(part: Path, tmp_path: Path) -> None:
    with folders.atomic_folder(tmp_path / "model") as unfinished:
        for name in ("a", "b"):
            shutil.copytree(part, unfinished / name)
    weights = tmp_path / "model" / "b" / folders.WEIGHTS
    weights.unlink()
    weights.symlink_to(Path("../a") / folders.WEIGHTS)
    (tmp_path / "link").symlink_to(tmp_path / "model")
    for model in (tmp_path / "model", tmp_path / "link"):
        folders.verify(model)
        assert load_part(model / "b")[0] == {"width": 3}


def test_a_folder_in_the_cache_of_the_hub_loads(part: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--me--tar"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(part.iterdir())):
        shutil.copy(path, repository / "blobs" / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    assert load_part(snapshot)[0] == {"width": 3}
    (snapshot / folders.WEIGHTS).unlink()
    (snapshot / folders.WEIGHTS).symlink_to(part / folders.WEIGHTS)
    with pytest.raises(WeightsError, match="link that leads outside"):
        load_part(snapshot)


def test_a_part_saved_again_gives_the_whole_another_hash(tmp_path: Path) -> None:
    model = tmp_path / "model"
    with folders.atomic_folder(model) as unfinished:
        save_part(unfinished / "a", {}, _state())
        with folders.atomic_folder(unfinished / "b") as inner:
            save_part(inner / "c", {}, _state())
    before = folders.folder_hash(model)
    content = (model / folders.MANIFEST).read_bytes()
    assert folders.changed_parts(model) == ()
    save_part(model / "b" / "c", {}, _state(2.0))
    folders.verify(model, parts=False)
    assert folders.changed_parts(model) == ("b/c",)
    assert folders.folder_hash(model) != before
    assert (model / folders.MANIFEST).read_bytes() == content
    with pytest.raises(WeightsError, match=r"c/manifest\.json' has changed since it was saved"):
        folders.verify(model)
    save_part(model / "b" / "c", {}, _state())
    assert folders.folder_hash(model) == before


def test_headers_are_compared_with_files(part: Path) -> None:
    from opentar.core.headers import check_header

    weights = part / folders.WEIGHTS
    check_header(weights)
    whole = weights.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header["x"]["data_offsets"] = [0, len(whole)]
    text = json.dumps(header).encode()
    beyond = len(text).to_bytes(8, "little") + text + whole[8 + length :]
    for content in (
        whole[:-1],
        whole + b"x",
        whole[:7],
        len(beyond).to_bytes(8, "little") + beyond + whole[8 + length :],
    ):
        weights.write_bytes(content)
        with pytest.raises(WeightsError, match="no readable safetensors file"):
            check_header(weights)


def test_the_names_that_loaders_open_are_known() -> None:
    """`manifest.is_read` lists them below the layers that have them."""
    from opentar.checkpoints.model_folder import _WORDS
    from opentar.language.tokenizer import FILE
    from opentar.tokens_to_image import sana_parts

    names = [FILE, _WORDS, folders.CONFIG, folders.WEIGHTS, folders.MANIFEST, "model_index.json"]
    names += [*sana_parts.CONFIGS.values(), sana_parts.NEGATIVE, sana_parts.NEGATIVE_PICKLE]
    names += [f"{sana_parts.STEM}.safetensors", f"{sana_parts.STEM}.safetensors.index.json"]
    assert [name for name in names if not manifest.is_read(name)] == []


DAMAGE = [b"{", b"", b'{"files": {"a": 1}}']


@pytest.mark.parametrize("content", DAMAGE)
def test_a_damaged_manifest_costs_nobody_a_file(tmp_path: Path, content: bytes) -> None:
    model = tmp_path / "model"
    with folders.atomic_folder(model) as unfinished:
        save_part(unfinished / "a", {}, _state(), shard_bytes=17_000)
    mine = ("notes.txt", "pictures/cat.png", "a/mine.md")
    for name in mine:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(name)
    (model / folders.MANIFEST).write_bytes(content)
    with folders.atomic_folder(model) as unfinished:
        save_part(unfinished / "a", {}, _state(2.0))
    assert [(model / name).read_text() for name in mine] == list(mine)
    # Old shards and their index are gone, so what is read is new.
    assert load_part(model / "a")[1]["x"].unique().tolist() == [2.0]
    folders.verify(model)
    # The same of a part by itself.
    (model / "a" / folders.MANIFEST).write_bytes(content)
    save_part(model / "a", {}, _state(3.0))
    assert (model / "a" / "mine.md").read_text() == "a/mine.md"
    assert load_part(model / "a")[1]["x"].unique().tolist() == [3.0]


def test_a_linked_folder_is_written_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "part"
    # Leads to nothing yet; and relative, as people write them.
    link.symlink_to(Path("disk") / "real")
    for step in (1, 2):
        save_part(link, {"step": step}, _state(step))
        (link / "notes.txt").write_text("mine")
        assert link.is_symlink()
        assert load_part(tmp_path / "disk" / "real")[0] == load_part(link)[0] == {"step": step}
    assert (link / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "part"]
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real"]
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OutputError, match="circle"):
        save_part(tmp_path / "circle", {}, _state())


def test_reading_through_a_link_between_the_renames(tmp_path: Path) -> None:
    save_part(tmp_path / "real", {"step": 1}, _state())
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real").rename(tmp_path / ".real.previous")
    assert load_part(tmp_path / "link")[0] == {"step": 1}
