from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from opentar.core.disk import check_room, free_bytes, human_bytes
from opentar.core.errors import OutputError


def test_room_is_asked_of_the_disk_that_a_new_folder_will_be_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda place: asked.append(place) or usage)
    assert free_bytes(tmp_path / "new" / "folder") == 5_000_000
    assert asked == [tmp_path]
    check_room(tmp_path / "new", 5_000_000)
    with pytest.raises(OutputError, match=r"needs 6\.0 MB and its disk has 5\.0 MB free"):
        check_room(tmp_path / "new", 6_000_000)


def test_a_disk_that_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(place: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("shutil.disk_usage", silent)
    with pytest.raises(OutputError, match="choose another folder"):
        free_bytes(tmp_path)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 kB"), (670_000, "670 kB"), (34_500_000, "34.5 MB"), (3e9, "3.0 GB")]
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert human_bytes(int(count)) == text
