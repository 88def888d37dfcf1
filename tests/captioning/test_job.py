"""A job into a file: killed and gone on with, added to, refused; its formats read back; a disk that fills up."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opentar import Tar
from opentar.captioning.captions import Settings, settings_of
from opentar.captioning.job import Place, Summary, caption_files, count
from opentar.captioning.journal import Journal
from opentar.captioning.listing import Listing
from opentar.captioning.tables import COLUMNS, read_table
from opentar.core.errors import OutputError, UnsavedError


def _run(tiny: Tar, out: str, *sources: str, settings: Settings | None = None, **options: object) -> Summary:
    listing = Listing(sources=sources or ("photos",))
    place = Place(out=Path(out), overwrite=bool(options.pop("overwrite", False)))
    settings = settings or settings_of(tiny)
    return caption_files(tiny, listing, place, settings, batch_size=4, total=count(listing), **options)


def _files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}


def test_every_format_reads_back(tiny: Tar, photos: Path) -> None:
    for ending in ("jsonl", "csv", "parquet"):
        summary = _run(tiny, f"out.{ending}")
        assert summary == Summary(listed=40, there=0, captioned=39, rows=39, failed=1)
    rows = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["path"] for row in rows] == [os.path.join("photos", f"{n:02}.png") for n in range(40) if n != 7]
    first = {"model": "tiny", "model_hash": tiny.parts.hash, "scale": 1, "fit": "squash", "width": 12, "height": 8}
    assert list(rows[0]) == list(COLUMNS)
    assert rows[0].items() >= first.items()
    assert all(list(read_table(Path(f"out.{ending}"))) == rows for ending in ("jsonl", "csv", "parquet"))
    with open("out.csv", encoding="utf-8", newline="") as file:
        assert [row["caption"] for row in csv.DictReader(file)] == [row["caption"] for row in rows]
    import pyarrow.parquet

    assert pyarrow.parquet.read_table("out.parquet").to_pylist() == rows
    (failed,) = (json.loads(line) for line in Path("out.csv.failed.jsonl").read_text().splitlines())
    assert failed["path"] == os.path.join("photos", "07.png") and "not a picture" in failed["reason"]
    names = {f"out.{ending}" for ending in ("jsonl", "csv", "parquet")}
    assert set(_files()) == names | {f"{name}.failed.jsonl" for name in names}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_in_the_middle_nothing_is_lost_or_doubled(tiny: Tar, tiny_model: Path, photos: Path) -> None:
    """A process is killed; the same call goes on and ends with the bytes of a job that nobody touched."""
    content = (photos / "01.png").read_bytes()
    for number in range(40, 400):
        (photos / f"{number}.png").write_bytes(content)
    _run(tiny, "whole.csv")
    command = [sys.executable, "-m", "opentar", "caption", "photos", "-o", "out.csv", "--model", str(tiny_model)]
    partial = Path("out.csv.partial")
    with subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as one:
        while one.poll() is None and not (partial.exists() and partial.read_bytes().count(b"\n") > 30):
            time.sleep(0.002)
        one.kill()
    assert one.returncode == -signal.SIGKILL
    left = partial.read_bytes()
    done = left.count(b"\n") - 1
    assert 30 <= done < 400
    assert not Path("out.csv").exists()
    summary = _run(tiny, "out.csv")
    assert (summary.there, summary.listed, summary.rows, summary.failed) == (done, 400, 399, 1)
    files = _files()
    assert not partial.exists()
    assert files["out.csv"] == files["whole.csv"]
    assert files["out.csv.failed.jsonl"] == files["whole.csv.failed.jsonl"]
    # Whatever is left of the last lines, zeros of a power cut included: the rest comes again.
    lines = left.splitlines(keepends=True)
    for kept in (
        b"",
        lines[0][:9],
        lines[0],
        left[:-1],
        left[: -len(lines[-1]) // 2],
        b"".join(lines[:5]) + b"\0" * 99,
    ):
        partial.write_bytes(kept)
        Path("out.csv").unlink()
        assert _run(tiny, "out.csv").rows == 399
        assert _files() == files


def test_what_is_new_is_added_and_what_failed_is_tried_again(tiny: Tar, photos: Path) -> None:
    _run(tiny, "out.parquet")
    content = (photos / "01.png").read_bytes()
    before = list(read_table(Path("out.parquet")))
    (photos / "07.png").write_bytes(content)
    (photos / "00.png").unlink()
    (photos / "99.png").write_bytes(content)
    summary = _run(tiny, "out.parquet")
    assert summary == Summary(listed=40, there=38, captioned=2, rows=41, failed=0)
    after = list(read_table(Path("out.parquet")))
    assert after[:39] == before
    assert [row["path"][-6:] for row in after[39:]] == ["07.png", "99.png"]
    assert list(_files()) == ["out.parquet"]
    written = Path("out.parquet").stat().st_mtime_ns
    assert _run(tiny, "out.parquet") == Summary(listed=40, there=40, captioned=0, rows=41, failed=0)
    assert Path("out.parquet").stat().st_mtime_ns == written


def test_a_picture_listed_twice_is_captioned_once(tiny: Tar, photos: Path) -> None:
    Path("list.txt").write_text("photos/01.png\nphotos/02.png\nphotos/01.png\nphotos/gone.png\n")
    summary = _run(tiny, "out.jsonl", "list.txt", "photos/02.png")
    assert summary == Summary(listed=3, there=0, captioned=2, rows=2, failed=1)
    assert "there is no picture" in Path("out.jsonl.failed.jsonl").read_text()


def test_captions_of_another_model_or_question_are_refused(tiny: Tar, photos: Path) -> None:
    _run(tiny, "out.jsonl")
    before = _files()
    asked = settings_of(tiny, "a red dog?")
    for other, told in (
        (asked, "made with question 'What is in the picture\\?', and now it is 'a red dog\\?'; use another name"),
        (settings_of(tiny, scale=2), "made with scale '1', and now it is '2'"),
        (settings_of(tiny, fit="letterbox"), "made with fit 'squash'"),
    ):
        with pytest.raises(OutputError, match=told):
            _run(tiny, "out.jsonl", settings=other)
    Path("out.jsonl").write_bytes(before["out.jsonl"].replace(tiny.parts.hash.encode(), b"0123"))
    with pytest.raises(OutputError, match="made with model_hash '0123'"):
        _run(tiny, "out.jsonl")
    assert _files() == before | {"out.jsonl": before["out.jsonl"].replace(tiny.parts.hash.encode(), b"0123")}
    _run(tiny, "out.jsonl", settings=asked, overwrite=True)
    assert all(row["question"] == "a red dog?" for row in read_table(Path("out.jsonl")))


def test_a_journal_of_another_job_is_refused(tiny: Tar, photos: Path) -> None:
    Journal(Path("out.jsonl.partial"), {"format": 1, "model_hash": "0123"}).close()
    with pytest.raises(OutputError, match=r"holds no captions|made with"):
        _run(tiny, "out.jsonl")
    _run(tiny, "out.jsonl", overwrite=True)
    assert not Path("out.jsonl.partial").exists()


def test_files_of_others_are_kept(tiny: Tar, photos: Path) -> None:
    for name, content in {
        "a.jsonl": b'{"path": "x"}\n',
        "b.csv": b"id\n1\n",
        "c.parquet": b"PAR1",
        "d.jsonl": b"\xff",
    }.items():
        Path(name).write_bytes(content)
        with pytest.raises(OutputError, match="use another name, or --overwrite"):
            _run(tiny, name)
        assert Path(name).read_bytes() == content
    Path("e.csv.failed.jsonl").touch()
    with pytest.raises(OutputError, match="without its captions"):
        _run(tiny, "e.csv")


def test_damage_inside_is_told_and_two_do_not_write_one(tmp_path: Path) -> None:
    path = tmp_path / "a.partial"
    journal = Journal(path, {"format": 1})
    journal.row({"path": "a"})
    with pytest.raises(OutputError, match="another process writes"):
        Journal(path, {"format": 1})
    journal.close()
    good = path.read_bytes()
    path.write_bytes(good + b'{"pa\n{"path": "b"}\n')
    with pytest.raises(OutputError, match=r"line 3 of .* is damaged"):
        Journal(path, {"format": 1})


def test_a_disk_that_fills_up_costs_nothing_that_was_said(tiny: Tar, photos: Path) -> None:
    resource = pytest.importorskip("resource")
    _run(tiny, "whole.jsonl")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # The kernel refuses writes beyond it as a full disk does, after a part of the line.
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
        with pytest.raises(UnsavedError, match=r"File too large; [1-9][0-9]* captions are kept"):
            _run(tiny, "out.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Path("out.jsonl.partial").read_bytes().endswith(b"}\n")
    assert _run(tiny, "out.jsonl").there > 3
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_places_that_cannot_be_written(tiny: Tar, photos: Path) -> None:
    Path("folder.csv").mkdir()
    for name, told in {
        "out.txt": "does not end in .jsonl, .csv, .parquet",
        "folder.csv": "is a folder",
        "no/where.csv": "is not there",
        "a\0.csv": "not a file name",
        "x" * 300 + ".csv": "cannot",
    }.items():
        with pytest.raises(OutputError, match=told):
            _run(tiny, name)
    if Path("/proc").is_dir():
        with pytest.raises(OutputError, match="cannot write into"):
            _run(tiny, "/proc/out.csv")
