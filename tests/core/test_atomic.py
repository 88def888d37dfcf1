"""A folder is written as a whole or not at all: killed anywhere, on a full disk, read meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from opentar.core import atomic
from opentar.core import folder as folders
from opentar.core.folder import load_part, save_part

STATE = {"weight": torch.ones(64, 96), "steps": torch.arange(5)}


def test_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    write = atomic._write_manifest

    def watched(unfinished: Path) -> None:
        order.append(sorted(file.name for file in unfinished.iterdir()))
        write(unfinished)
        order.append(sorted(file.name for file in unfinished.iterdir()))
        assert not (tmp_path / "part").exists()

    monkeypatch.setattr(atomic, "_write_manifest", watched)
    save_part(tmp_path / "part", {}, STATE, extra={"x.txt": b"x"})
    before, after = order
    assert before == ["config.json", "model.safetensors", "x.txt"]
    assert set(after) - set(before) == {"manifest.json"}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_anywhere_leaves_the_old_or_the_new_one(tmp_path: Path) -> None:
    """Fork one process for each point of a save and kill it there; the folder is always whole afterwards."""
    seen = set()
    for point in range(1, 40):
        part = tmp_path / str(point) / "part"
        save_part(part, {"step": 1}, {"weight": torch.full((8,), 1.0)})
        killed = _save_and_die(part, point)
        config, state = load_part(part)
        assert (state["weight"] == config["step"]).all()
        visible = [file.name for file in part.parent.iterdir() if not file.name.startswith(".")]
        # Killed between the two renames, the old one waits beside its place for the next save; it can be read there.
        assert visible == ["part"] or (visible, config["step"]) == ([], 1)
        seen.add((killed, config["step"]))
        save_part(part, {"step": 3}, {"weight": torch.full((8,), 3.0)})
        assert [file.name for file in part.parent.iterdir()] == ["part"], "leftovers are swept away by the next save"
        if not killed:
            break
    assert seen == {(True, 1), (True, 2), (False, 2)}


def test_reading_between_the_renames_leaves_the_writer_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = tmp_path / "part"
    save_part(part, {"step": 1}, {"weight": torch.full((8,), 1.0)}, extra={"words.txt": b"old"})
    seen, rename = [], Path.rename

    def watched(source: Path, target: Path) -> Path:
        done = rename(source, target)
        if not part.exists():
            folders.verify(part)
            config, state = load_part(part)
            words = (folders.standing(part) / "words.txt").read_bytes()
            seen.append((config["step"], float(state["weight"][0]), words, folders.read_config(part)["step"]))
            assert folders.folder_hash(part)
            assert not part.exists()
        return done

    monkeypatch.setattr(Path, "rename", watched)
    save_part(part, {"step": 2}, {"weight": torch.full((8,), 2.0)})
    assert seen == [(1, 1.0, b"old", 1)]
    assert load_part(part)[0] == {"step": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["part"]


def _save_and_die(part: Path, point: int) -> bool:
    """Save in a forked child that is killed at its n-th write, sync, rename or removal; True when it was."""
    child = os.fork()
    if child == 0:
        left = [point]

        def failpoint(real: Callable[..., object]) -> Callable[..., object]:
            def call(*given: object, **named: object) -> object:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*given, **named)

            return call

        atomic._sync = failpoint(atomic._sync)  # type: ignore[assignment]
        atomic.shutil.rmtree = failpoint(atomic.shutil.rmtree)  # type: ignore[assignment]
        Path.rename = failpoint(Path.rename)  # type: ignore[assignment,method-assign]
        Path.write_bytes = failpoint(Path.write_bytes)  # type: ignore[assignment,method-assign]
        save_part(part, {"step": 2}, {"weight": torch.full((8,), 2.0)})
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_full_disk_keeps_the_old_folder(tmp_path: Path) -> None:
    save_part(tmp_path / "part", {"step": 1}, STATE)
    script = (
        "import resource, sys, torch; from pathlib import Path; from opentar.core import folder\n"
        "from opentar.core.errors import OutputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: folder.save_part(Path(sys.argv[1]), {'step': 2}, {'weight': torch.zeros(4096)})\n"
        "except OutputError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", script, str(tmp_path / "part")], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("cannot write"), done.stderr
    assert load_part(tmp_path / "part")[0] == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["part"]


def test_error_inside_the_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), folders.atomic_folder(tmp_path / "model") as unfinished:
        (unfinished / "half").write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []
