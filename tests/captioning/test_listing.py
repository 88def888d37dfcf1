"""Which pictures a job is about: folders, patterns, lists, and what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from opentar.captioning.job import count
from opentar.captioning.listing import Entry, Listing
from opentar.core.errors import ConfigError, ImageError, OpenTarError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """b.jpg, a.PNG, notes.txt, .hidden.png, in/c.webp, in/deep/d.png, .git/e.png"""
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.png", "in/c.webp", "in/deep/d.png", ".git/e.png"):
        path = tmp_path / "top" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def _paths(*sources: str, **options: object) -> list[str]:
    return [Path(entry.path).as_posix() for entry in Listing(sources=sources, **options)]


def test_folders_and_patterns(tree: Path) -> None:
    everything = ["top/a.PNG", "top/b.jpg", "top/in/c.webp", "top/in/deep/d.png"]
    assert _paths("top") == everything[:2]
    assert (
        _paths("top", recursive=True) == _paths("top/**") == _paths("top/**/*") == _paths("top/**/**/*") == everything
    )
    assert _paths("top/*") == everything[:2]
    assert _paths("top/*.jpg") == ["top/b.jpg"]
    assert _paths("top/**/*.png") == ["top/in/deep/d.png"]
    assert _paths("top/*/c.*") == _paths("top/[ij]n/*") == ["top/in/c.webp"]
    assert _paths("top/**/deep/*.png") == ["top/in/deep/d.png"]
    assert _paths("top/*.txt") == ["top/notes.txt"]
    assert _paths("top/b.jpg", "top/in") == ["top/b.jpg", "top/in/c.webp"]
    listing = Listing(sources=("top",))
    assert (count(listing), listing.passed.others, listing.passed.folders) == (2, 1, 1)


def test_a_name_with_brackets_is_a_name_where_it_is_there(tree: Path) -> None:
    (tree / "top" / "[b].jpg").touch()
    assert _paths("top/[b].jpg") == ["top/[b].jpg"]


def test_links_in_circles_end(tree: Path) -> None:
    (tree / "top" / "in" / "back").symlink_to(tree / "top")
    (tree / "top" / "self.png").symlink_to("self.png")
    (tree / "top" / "twin").symlink_to(tree / "top" / "in" / "deep")
    listing = Listing(sources=("top",), recursive=True)
    paths = [Path(entry.path).as_posix() for entry in listing]
    assert paths == ["top/a.PNG", "top/b.jpg", "top/self.png", "top/in/c.webp", "top/in/deep/d.png", "top/twin/d.png"]
    assert listing.passed.loops == 1
    with pytest.raises(ImageError):
        Entry("top/self.png", "top/self.png").open()


def test_lists(tree: Path) -> None:
    (tree / "top" / "list.txt").write_text("b.jpg\r\n\n  in/c.webp\n#1.png\n", encoding="utf-8-sig")
    (tree / "top" / "list.csv").write_text('id,image\n1,b.jpg\n2,"in/c, d.webp"\n\n3,\n4\n')
    (tree / "top" / "semi.csv").write_text("id;foto\n1;b.jpg\n")
    (tree / "top" / "list.tsv").write_text("path\tid\nb.jpg\t1\n")
    (tree / "top" / "list.jsonl").write_text('{"path": "b.jpg"}\n\n{"id": 3}\n{"path": 4}\n')
    assert _paths("top/list.txt") == ["b.jpg", "  in/c.webp", "#1.png"]
    entries = list(Listing(sources=("top/list.csv",)))
    assert [entry.path for entry in entries] == ["b.jpg", "in/c, d.webp", "top/list.csv:5", "top/list.csv:6"]
    assert entries[0].source == os.path.join("top", "b.jpg")
    assert "line 5 of 'top/list.csv' names no picture" in entries[2].reason
    assert _paths("top/list.csv", column="id")[0] == "1"
    assert _paths("top/semi.csv", column="foto") == _paths("top/list.tsv") == ["b.jpg"]
    assert _paths("top/list.jsonl") == ["b.jpg", "top/list.jsonl:3", "top/list.jsonl:4"]
    assert next(iter(Listing(sources=("top/list.txt",), root=Path("other")))).source == os.path.join("other", "b.jpg")


@pytest.mark.parametrize(
    ("name", "content", "column", "kind", "told"),
    [
        ("a.csv", b"id,foto\n1,b.jpg\n", None, ConfigError, "its columns are 'id', 'foto'"),
        ("a.csv", b"id,foto\n1,b.jpg\n", "fotos", ConfigError, "no column 'fotos'; .* Did you mean 'foto'"),
        ("a.csv", b"", None, ConfigError, "its columns are none"),
        ("a.csv", b"path\n\xff\xfe\n", None, ImageError, "not UTF-8"),
        ("a.csv", b"path\n" + b"x" * 200_000 + b"\n", None, ImageError, "no table"),
        ("a.jsonl", b'{"id": 1}\n', None, ConfigError, "its columns are 'id'"),
        ("a.jsonl", b'{"path": "a"}\n{"path\n', None, ImageError, "line 2 of 'a.jsonl' is no JSON"),
        ("a.jsonl", b"[]\n", None, ImageError, "no JSON object"),
        ("a.txt", b"\n\n", None, ImageError, "no picture in 'a.txt'"),
        ("empty", None, None, ImageError, "no picture in 'empty'"),
        ("nowhere", None, None, ImageError, "'nowhere' is not there"),
        ("top/in/deep/x*", None, None, ImageError, "no picture in"),
        ("top/.git", None, None, None, ""),
    ],
)
def test_what_cannot_be_listed(tree, name, content, column, kind, told) -> None:
    (tree / "empty").mkdir()
    if content is not None:
        (tree / name).write_bytes(content)
    listing = Listing(sources=(name,), column=column)
    if kind is None:
        assert count(listing) == 1
        return
    with pytest.raises(OpenTarError, match=told) as caught:
        count(listing)
    assert type(caught.value) is kind


def test_a_folder_without_pictures_says_how_to_find_them(tree: Path) -> None:
    (tree / "top" / "in" / "c.webp").unlink()
    (tree / "top" / "in" / "c.doc").touch()
    with pytest.raises(ImageError, match="only 1 files of other kinds; its folders are searched with --recursive"):
        count(Listing(sources=("top/in",)))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_name_that_is_no_text_fails_alone(tree: Path) -> None:
    try:
        (tree / "top" / os.fsdecode(b"\xff.png")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    entries = list(Listing(sources=("top",)))
    assert [entry.path for entry in entries] == ["top/a.PNG", "top/b.jpg", "top/\\udcff.png"]
    assert "not UTF-8" in entries[2].reason
