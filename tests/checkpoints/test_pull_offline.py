"""`opentar pull` where the hub does not answer, or says no: the real huggingface_hub on a cache of the real layout.

The hub of these tests is a port of this machine that refuses every connection, or a server that refuses every request.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import shlex
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from opentar.checkpoints import find, model_folder
from opentar.checkpoints.convert.importing import import_tar
from opentar.checkpoints.hub import catalogue
from opentar.checkpoints.hub import pull as hub
from opentar.cli import main
from opentar.core.errors import ModelError, WeightsError
from opentar.core.folder import verify

pytest.importorskip("diffusers")
MODEL = "csuhan/Tar-1.5B"
SANA_512 = "csuhan/Tar-SANA-600M-512px"
FILES = {
    MODEL: ("Tar-1.5B",),
    catalogue.TOKENIZER: ("ta_tok.pth", "ar_dtok_lp_256px.pth"),
    catalogue.VQGAN: ("vq_ds16_t2i.pt",),
}


def keep(cache: Path, repository: str, files: list[Path]) -> Path:
    """Files, or what is in folders, as huggingface_hub keeps them: a snapshot of links to blobs, and a ref to it."""
    place = cache / f"models--{repository.replace('/', '--')}"
    commit = hashlib.sha1(repository.encode()).hexdigest()
    snapshot = place / "snapshots" / commit
    for given in files:
        for path in given.rglob("*") if given.is_dir() else [given]:
            if path.is_file():
                link = snapshot / (path.relative_to(given) if given.is_dir() else path.name)
                blob = place / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
                for folder in (link.parent, blob.parent):
                    folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, blob)
                if not link.exists():
                    link.symlink_to(blob)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs" / "main").write_text(commit)
    return snapshot


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of huggingface_hub, which may go online but finds nobody there."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # A space, as in many a user's name: commands that are told must hold it.
    monkeypatch.setenv("OPENTAR_CACHE", str(tmp_path / "my cache"))
    with socket.socket() as unheard:
        # Taken and never listened to: every connection is refused.
        unheard.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unheard.getsockname()[1]}")
        yield tmp_path / "hub"


@pytest.fixture
def filled(cache: Path, published: Path) -> Path:
    """The same with all files of the small model."""
    for repository, names in FILES.items():
        keep(cache, repository, [published / name for name in names])
    return cache


@pytest.fixture
def refusing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A hub that answers every request with `code` and the reason `why`."""

    class Refusing(http.server.BaseHTTPRequestHandler):
        code, why = 401, "RepoNotFound"

        def do_GET(self) -> None:
            self.send_response(self.code)
            self.send_header("X-Error-Code", self.why)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield Refusing
        server.shutdown()
        thread.join()


def by_hand(line: str) -> list[str]:
    """The command at the end of an error line, as a shell would read it, without the program's name."""
    program, *arguments = shlex.split(line.strip().rpartition("then run: ")[2])
    assert program == "opentar"
    return arguments


def test_without_a_network_the_cache_serves(filled: Path) -> None:
    notes: list[str] = []
    pulled = hub.pull(MODEL, note=notes.append)
    verify(pulled.folder)
    assert pulled.report is not None
    commit = hashlib.sha1(MODEL.encode()).hexdigest()
    assert model_folder.read_config(pulled.folder).sources["language"] == (f"{MODEL}@{commit}",)
    (told,) = notes
    assert told.startswith("the hub cannot be reached: ConnectError: ")
    assert told.endswith("; the files are taken from the cache of huggingface_hub")


def test_a_dry_run_without_a_network(
    filled: Path, published: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ["pull", MODEL, "--dry-run"]
    assert main(call) == 0
    told = capsys.readouterr().out
    assert "fetch    csuhan/TA-Tok@main: 6.3 MB, in the cache of huggingface_hub" in told
    assert "note     the hub cannot be reached: ConnectError: " in told
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main([*call, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["fetch"]
    assert [(row["new_bytes"], row["from_cache"]) for row in rows] == [(0, True)] * 3
    assert rows[1]["bytes"] == sum((published / name).stat().st_size for name in FILES[catalogue.TOKENIZER])
    assert not hub.cached(MODEL).parent.exists()


def test_a_dry_run_of_what_is_here_asks_nobody(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = hub.pull(MODEL).folder
    shutil.rmtree(filled)
    assert main(["pull", MODEL, "--dry-run"]) == 0
    assert capsys.readouterr().out == f"{MODEL} is here already: {folder}\n"
    assert main(["pull", MODEL, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(folder), "fetch": []}
    assert main(["pull", MODEL, "--with", "ar_512", "--dry-run"]) == 1
    commit = hashlib.sha1(catalogue.TOKENIZER.encode()).hexdigest()
    error = capsys.readouterr().err
    assert f"By hand: get ar_dtok_lp_512px.pth of csuhan/TA-Tok at {commit}; then run: " in error
    assert by_hand(error) == ["import", "tar", "--add", str(folder), "--ar", "ar_dtok_lp_512px.pth"]


@pytest.mark.parametrize("dry_run", [["--dry-run"], []])
def test_what_is_told_to_do_by_hand_makes_the_name_work(
    dry_run: list[str],
    cache: Path,
    published: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From an empty machine to a model of that name, by nothing but the error lines."""
    monkeypatch.chdir(published)
    assert main(["pull", MODEL, *dry_run]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: cannot fetch {MODEL} (the hub cannot be reached: ConnectError: ")
    assert "and the files are not all in the cache of huggingface_hub). By hand: get all of csuhan/Tar-1.5B" in error
    assert error.count("\n") == 1
    assert main(by_hand(error)) == 0
    folder = find.find_model(MODEL)
    assert folder == hub.cached(MODEL)
    assert hub.pull(MODEL).report is None
    assert main(["pull", MODEL, "--with", "ar_512", "--with", "sana_512", *dry_run]) == 1
    assert main(by_hand(capsys.readouterr().err)) == 0
    assert model_folder.read_config(folder).detokenizers == ("ar", "ar_32", "diffusion")
    assert hub.pull(MODEL, parts=["ar_512", "sana_512"]).report is None
    assert hub.preview(MODEL, parts=["ar_512", "sana_512"]) == ()


def test_files_given_by_hand_out_of_the_hubs_cache_keep_their_names(filled: Path, published: Path) -> None:
    """They are links to files that are called by their hashes."""
    (snapshot,) = (filled / "models--csuhan--TA-Tok" / "snapshots").iterdir()
    import_tar(
        hub.cached(MODEL),
        llm=published / "Tar-1.5B",
        ta_tok=snapshot / "ta_tok.pth",
        ar=[snapshot / "ar_dtok_lp_256px.pth"],
        vqgan=published / "vq_ds16_t2i.pt",
    )
    assert model_folder.read_config(hub.cached(MODEL)).sources["ta_tok"] == ("ta_tok.pth",)
    assert hub.pull(MODEL).report is None


def test_a_renamed_file_is_known_by_the_size_of_its_pictures(
    filled: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(published / "ar_dtok_lp_256px.pth", tmp_path / "renamed.pth")
    given = {"llm": published / "Tar-1.5B", "ta_tok": published / "ta_tok.pth"}
    import_tar(hub.cached(MODEL), **given, ar=[tmp_path / "renamed.pth"], vqgan=published / "vq_ds16_t2i.pt")
    monkeypatch.setitem(catalogue.AR, "ar_16", "ar_dtok_lp_16px.pth")
    monkeypatch.setattr(catalogue, "DEFAULT_PARTS", ("ar_16",))
    assert hub.pull(MODEL).report is None


def test_a_model_without_an_ar_de_tokenizer_gets_the_vqgan_too(filled: Path, published: Path) -> None:
    given = {"llm": published / "Tar-1.5B", "ta_tok": published / "ta_tok.pth", "sana": [published / SANA_512[7:]]}
    import_tar(hub.cached(MODEL), **given)
    pulled = hub.pull(MODEL)
    assert pulled.report is not None
    assert [part.part for part in pulled.report.parts] == ["detok_ar"]
    assert model_folder.read_config(pulled.folder).detokenizers == ("diffusion", "ar")


@pytest.mark.parametrize(
    "lost", ["models--csuhan--TA-Tok/ar_dtok_lp_256px.pth", "models--csuhan--Tar-1.5B/config.json"]
)
def test_half_a_cache_is_none(lost: str, filled: Path) -> None:
    """What a broken-off fetch leaves: huggingface_hub itself takes such a snapshot for whole."""
    repository, name = lost.split("/")
    (snapshot,) = (filled / repository / "snapshots").iterdir()
    (snapshot / name).unlink()
    with pytest.raises(WeightsError, match=r"the hub cannot be reached.* not all in the cache.*By hand: get"):
        hub.pull(MODEL)


def test_a_model_that_lacks_one_of_its_files_is_not_in_the_cache(filled: Path, published: Path) -> None:
    (snapshot,) = (filled / "models--csuhan--Tar-1.5B" / "snapshots").iterdir()
    whole = snapshot / "model.safetensors"
    whole.rename(snapshot / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(WeightsError, match="not all in the cache"):
        hub.preview(MODEL)


@pytest.mark.parametrize("call", [hub.pull, hub.preview])
def test_a_missing_library_is_told_before_anything_is_asked(
    call: Callable[..., object], filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(hub, "sizes", asked.append)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(
        ModelError,
        match=r"diffusers is not installed, and sana_512 .*nothing was fetched.*pip install 'opentar\[published\]'",
    ):
        call(MODEL, parts=["sana_512"])
    assert asked == []


def test_without_the_library_the_rest_is_fetched(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert hub.pull(MODEL).report is not None
    with pytest.raises(ModelError, match="diffusers is not installed, and sana_512"):
        hub.pull(MODEL, parts=["sana_512"])


def test_a_hub_that_refuses_is_no_missing_network(refusing: Any, cache: Path, published: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        hub.pull(MODEL)
    assert f"cannot fetch {MODEL} (RepositoryNotFoundError: 401" in str(caught.value)
    assert "cannot be reached" not in str(caught.value)
    for repository, names in FILES.items():
        keep(cache, repository, [published / name for name in names])
    assert [size.cached.partition(":")[0] for size in hub.preview(MODEL)] == ["RepositoryNotFoundError"] * 3
    assert hub.pull(MODEL).report is not None


def test_a_revision_that_is_gone_does_not_come_from_the_cache(refusing: Any, filled: Path) -> None:
    refusing.code, refusing.why = 404, "RevisionNotFound"
    with pytest.raises(WeightsError, match=r"cannot fetch csuhan/Tar-1.5B \(RevisionNotFoundError: 404"):
        hub.pull(MODEL)
