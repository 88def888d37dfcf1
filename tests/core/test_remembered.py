"""Large files are hashed once; a file that was touched, and a memory that cannot be trusted, mean hashing again."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch

from opentar.core import folder as folders
from opentar.core import manifest, remembered
from opentar.core.errors import WeightsError
from opentar.core.folder import load_part, save_part

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes of POSIX")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, in which small files count too, and files settle at once."""
    monkeypatch.setenv("OPENTAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "LEAST_BYTES", 10_000)
    monkeypatch.setattr(remembered, "SETTLED_NS", 0)
    return tmp_path / "cache" / remembered.FILE


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed, in order."""
    names: list[str] = []
    real = manifest._sha256

    def counted(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(manifest, "_sha256", counted)
    return names


@pytest.fixture
def part(tmp_path: Path) -> Path:
    save_part(tmp_path / "part", {}, {"x": torch.ones(64, 64)})
    return tmp_path / "part"


def _weights_hashed(part: Path, hashed: list[str]) -> bool:
    hashed.clear()
    load_part(part)
    assert folders.CONFIG in hashed
    return folders.WEIGHTS in hashed


def _rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes())


def test_once_is_enough(part: Path, hashed: list[str], cache: Path) -> None:
    assert [_weights_hashed(part, hashed) for _ in range(3)] == [True, False, False]
    assert cache.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]
    assert sorted(path.name for path in part.iterdir()) == sorted(folders.saved_files(part))
    folders.verify(part)
    assert hashed.count(folders.WEIGHTS) == 1, "verify hashes always"


def test_another_spelling_of_the_path_is_the_same_file(part: Path, hashed: list[str], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(part)
    assert _weights_hashed(part, hashed)
    assert not _weights_hashed(tmp_path / "link", hashed)


def test_damage_after_a_good_start_is_found(part: Path, hashed: list[str]) -> None:
    load_part(part)
    weights = part / folders.WEIGHTS
    was = weights.stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    # Even where the time of modification was put back.
    os.utime(weights, ns=(was.st_atime_ns, was.st_mtime_ns))
    with pytest.raises(WeightsError, match="has changed since it was saved"):
        load_part(part)
    weights.write_bytes(content[:-1])
    with pytest.raises(WeightsError, match="bytes instead of"):
        load_part(part)


@pytest.mark.parametrize(
    "touch", [_rewrite, os.utime, lambda path: (path.rename(path.with_name("a")), path.with_name("a").rename(path))]
)
def test_a_touched_file_is_hashed_again(part: Path, hashed: list[str], touch) -> None:
    load_part(part)
    time.sleep(0.02)
    touch(part / folders.WEIGHTS)
    assert _weights_hashed(part, hashed)
    assert not _weights_hashed(part, hashed)


def test_another_expectation_is_another_question(part: Path, hashed: list[str]) -> None:
    load_part(part)
    path = part / folders.MANIFEST
    content = json.loads(path.read_bytes())
    content["files"][folders.WEIGHTS]["sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="wrong sha256"):
        load_part(part)


def test_what_was_just_written_is_not_remembered(part: Path, hashed: list[str], monkeypatch, cache: Path) -> None:
    monkeypatch.setattr(remembered, "SETTLED_NS", 3600 * 10**9)
    assert [_weights_hashed(part, hashed) for _ in range(2)] == [True, True]
    assert not cache.exists()


def test_small_files_are_not_remembered(part: Path, hashed: list[str], monkeypatch, cache: Path) -> None:
    monkeypatch.setattr(remembered, "LEAST_BYTES", 1 << 20)
    assert [_weights_hashed(part, hashed) for _ in range(2)] == [True, True]
    assert not cache.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a": 1}'],
)
def test_a_damaged_memory_is_written_anew(part: Path, hashed: list[str], cache: Path, content: bytes) -> None:
    cache.parent.mkdir()
    cache.write_bytes(content)
    cache.chmod(0o600)
    assert [_weights_hashed(part, hashed) for _ in range(2)] == [True, False]
    assert [entry[-1] for entry in json.loads(cache.read_bytes()).values()] != []


def test_what_another_user_may_have_written_is_not_trusted(part: Path, hashed: list[str], cache: Path) -> None:
    load_part(part)
    cache.chmod(0o666)
    before = cache.read_bytes()
    assert [_weights_hashed(part, hashed) for _ in range(2)] == [True, True]
    assert cache.read_bytes() == before
    cache.chmod(0o600)
    assert not _weights_hashed(part, hashed)
    moved = cache.rename(cache.with_name("moved"))
    cache.symlink_to(moved)
    assert _weights_hashed(part, hashed)


def test_another_owner_is_not_trusted(part: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    load_part(part)
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert _weights_hashed(part, hashed)


@pytest.mark.parametrize("kind", ["file in the way", "no home"])
def test_without_a_cache_everything_works(part: Path, hashed: list[str], tmp_path: Path, monkeypatch, kind) -> None:
    if kind == "no home":

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(remembered.environment, "cache_dir", homeless)
    else:
        (tmp_path / "cache").write_bytes(b"")
    assert [_weights_hashed(part, hashed) for _ in range(2)] == [True, True]


def test_files_that_are_gone_are_forgotten_and_others_kept(tmp_path: Path, cache: Path) -> None:
    for name in "abc":
        save_part(tmp_path / name, {}, {"x": torch.ones(64, 64)})
        load_part(tmp_path / name)
    assert len(json.loads(cache.read_bytes())) == 3
    (tmp_path / "a" / folders.WEIGHTS).unlink()
    (tmp_path / "b").rename(tmp_path / "d")
    load_part(tmp_path / "d")
    places = {Path(path).parent.name for path in json.loads(cache.read_bytes())}
    assert places == {"c", "d"}
