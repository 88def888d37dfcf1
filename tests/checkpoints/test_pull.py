"""Published models by name: fetched once through huggingface_hub, imported once, then used without a network.

The hub of these tests is a folder; its functions are those of huggingface_hub that OpenTar calls.
"""

from __future__ import annotations

import fnmatch
import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from opentar import Tar
from opentar.checkpoints import find, model_folder
from opentar.checkpoints.hub import catalogue, fetching
from opentar.checkpoints.hub import pull as hub
from opentar.core.errors import ConfigError, ModelError, OutputError, WeightsError
from opentar.core.folder import verify

pytest.importorskip("diffusers")
MODEL = "csuhan/Tar-1.5B"
SANA_512 = "csuhan/Tar-SANA-600M-512px"


def commit_of(repository: str, revision: str) -> str:
    return hashlib.sha1(f"{repository}@{revision}".encode()).hexdigest()


class FakeHub:
    """Repositories in a folder; `snapshot_download` copies into a cache with huggingface_hub's layout."""

    def __init__(self, files: Path, cache: Path) -> None:
        shared = {"ta_tok.pth", "ar_dtok_lp_256px.pth", "ar_dtok_lp_512px.pth"}
        llm, sana = files / "Tar-1.5B", files / "Tar-SANA-600M-512px"
        self.repositories: dict[str, dict[str, Path]] = {
            MODEL: {path.name: path for path in llm.iterdir()} | {"modeling_own.py": llm / "config.json"},
            "csuhan/TA-Tok": {name: files / name for name in shared},
            "peizesun/llamagen_t2i": {"vq_ds16_t2i.pt": files / "vq_ds16_t2i.pt"},
            SANA_512: {path.relative_to(sana).as_posix(): path for path in sana.rglob("*") if path.is_file()},
        }
        self.cache = cache
        self.downloads: list[tuple[str, str]] = []
        self.error: Exception | None = None

    def snapshot_download(
        self,
        repo_id: str,
        *,
        revision: str,
        allow_patterns: list[str],
        local_files_only: bool = False,
        dry_run: bool = False,
        tqdm_class: Any = None,
    ) -> Any:
        if self.error is not None and not local_files_only:
            raise self.error
        commit = revision if len(revision) == 40 else commit_of(repo_id, revision)
        folder = self.cache / repo_id.replace("/", "--") / "snapshots" / commit
        files = self.repositories[repo_id]
        wanted = {
            name: path
            for name, path in files.items()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in allow_patterns)
        }
        if dry_run:
            return [
                SimpleNamespace(
                    filename=name, file_size=path.stat().st_size, will_download=not (folder / name).exists()
                )
                for name, path in wanted.items()
            ]
        if local_files_only and not folder.is_dir():
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")
        if not local_files_only:
            self.downloads.append((repo_id, revision))
            for name, path in wanted.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / name)
        return str(folder)

    def model_info(self, repo_id: str, *, revision: str) -> Any:
        licence = "apache-2.0" if repo_id == MODEL else None
        return SimpleNamespace(sha=revision, card_data=SimpleNamespace(license=licence))


@pytest.fixture
def fake(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    made = FakeHub(published, tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "model_info", made.model_info)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("OPENTAR_CACHE", str(tmp_path / "cache"))
    return made


def no_hub(*given: object, **named: object) -> None:
    raise AssertionError("the hub was asked")


def test_one_call_gives_a_model(fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub.pull(MODEL).folder
    verify(folder)
    assert folder == tmp_path / "cache" / "models" / "csuhan--Tar-1.5B"
    config = model_folder.read_config(folder)
    assert (config.name, config.detokenizers) == ("Tar-1.5B", ("ar",))
    commit = commit_of("csuhan/TA-Tok", "main")
    assert config.sources["language"] == (f"{MODEL}@{commit_of(MODEL, 'main')}",)
    assert config.sources["ta_tok"] == (f"csuhan/TA-Tok@{commit}/ta_tok.pth",)
    assert config.sources["detok_ar"][0] == f"csuhan/TA-Tok@{commit}/ar_dtok_lp_256px.pth"
    assert config.part_licences["language"] == f"apache-2.0, as https://huggingface.co/{MODEL} states"
    assert config.part_licences["ta_tok"] == "not known here: see https://huggingface.co/csuhan/TA-Tok"
    assert [repository for repository, _ in fake.downloads] == [MODEL, "csuhan/TA-Tok", "peizesun/llamagen_t2i"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_hub)
    assert hub.pull(MODEL).folder == find.find_model(MODEL) == folder
    (picture,) = Tar.from_pretrained(MODEL, device="cpu").generate("a cat", scale=2)
    assert picture.size == (16, 16)


def test_no_code_is_fetched(fake: FakeHub, tmp_path: Path) -> None:
    hub.pull(MODEL, parts=["sana_512"])
    kinds = {path.suffix for path in (tmp_path / "hub").rglob("*") if path.is_file()}
    assert kinds == {".json", ".txt", ".safetensors", ".pth", ".pt"}
    assert not list((tmp_path / "hub").rglob("text_encoder"))


def test_more_parts_come_later_and_from_the_same_commit(fake: FakeHub) -> None:
    first = hub.pull(MODEL)
    assert first.report is not None
    fake.downloads.clear()
    second = hub.pull(MODEL, parts=["ar_512", "sana_512"])
    assert second.report is not None
    assert second.folder == first.folder
    assert [part.part for part in second.report.parts] == ["detok_ar_32", "detok_diffusion"]
    assert fake.downloads == [("csuhan/TA-Tok", commit_of("csuhan/TA-Tok", "main")), (SANA_512, "main")]
    assert hub.pull(MODEL, parts=["sana_512"]).report is None


def test_revisions_stand_beside_each_other(fake: FakeHub) -> None:
    revisions = catalogue.revisions_of(MODEL, ["v2", "csuhan/TA-Tok=refs/pr/3"])
    pulled = hub.pull(MODEL, revisions=revisions)
    assert pulled.folder.name == "csuhan--Tar-1.5B@TA-Tok=refs--pr--3@Tar-1.5B=v2"
    assert (MODEL, "v2") in fake.downloads
    assert ("csuhan/TA-Tok", "refs/pr/3") in fake.downloads
    sources = model_folder.read_config(pulled.folder).sources
    assert sources["language"] == (f"{MODEL}@{commit_of(MODEL, 'v2')}",)
    assert not hub.cached(MODEL).exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["csuhan/TA-Tk=v1"], "revision 'csuhan/TA-Tk=v1': the repositories are"),
        (["../../x"], "is none; give a branch"),
        ([""], "is none"),
        (["a", "b"], "two revisions of csuhan/Tar-1.5B"),
    ],
)
def test_revisions_that_are_none(given: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        catalogue.revisions_of(MODEL, given)


def test_offline_says_what_to_do_by_hand(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as caught:
        hub.pull(MODEL)
    line = str(caught.value)
    assert "HF_HUB_OFFLINE is set" in line
    assert "get all of csuhan/Tar-1.5B as folder Tar-1.5B; ta_tok.pth, ar_dtok_lp_256px.pth of csuhan/TA-Tok" in line
    assert "vq_ds16_t2i.pt of peizesun/llamagen_t2i" in line
    command = "opentar import tar --llm Tar-1.5B --ta-tok ta_tok.pth --ar ar_dtok_lp_256px.pth --vqgan vq_ds16_t2i.pt"
    assert line.endswith(f"{command} -o {hub.cached(MODEL)}")
    assert "\n" not in line
    assert fake.downloads == []


def test_offline_says_how_to_add_by_hand(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub.pull(MODEL).folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as caught:
        hub.pull(MODEL, parts=["sana_512"])
    told = f"get all of {SANA_512} as folder Tar-SANA-600M-512px; then run: opentar import tar --add {folder}"
    assert f"{told} --sana Tar-SANA-600M-512px" in str(caught.value)
    assert model_folder.read_config(folder).detokenizers == ("ar",)


def test_offline_takes_what_the_hubs_cache_has(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub.pull(MODEL).folder
    shutil.rmtree(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fake.downloads.clear()
    assert hub.pull(MODEL).folder == folder
    assert fake.downloads == []
    assert "not known here" in model_folder.read_config(folder).part_licences["language"]


def test_a_missing_network_is_one_line(fake: FakeHub) -> None:
    fake.error = ConnectionError("Name or service not known\nsecond line")
    with pytest.raises(
        WeightsError, match=r"the hub cannot be reached: ConnectionError: Name or service not known second line"
    ):
        hub.pull(MODEL)
    assert not hub.cached(MODEL).exists()


def test_a_repository_without_the_file_is_named(fake: FakeHub) -> None:
    del fake.repositories["csuhan/TA-Tok"]["ar_dtok_lp_256px.pth"]
    with pytest.raises(WeightsError, match=r"csuhan/TA-Tok at main has no ar_dtok_lp_256px\.pth"):
        hub.pull(MODEL)


def test_a_small_disk_is_told_before_the_first_byte(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(total=9, used=8, free=1000))
    with pytest.raises(OutputError, match=r"csuhan/Tar-1.5B needs .* MB in .*, where 1 kB are free"):
        hub.pull(MODEL)
    assert fake.downloads == []


@pytest.mark.parametrize("parts", [(), ("sana_512",)])
def test_little_memory_is_told_before_the_first_byte(
    fake: FakeHub, published: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...]
) -> None:
    """As much as the largest part that is converted; a SANA folder is copied and needs none."""
    largest = max((published / "ta_tok.pth").stat().st_size, (published / "Tar-1.5B/model.safetensors").stat().st_size)
    monkeypatch.setattr("opentar.core.memory.available_bytes", lambda: largest - 1)
    with pytest.raises(ModelError, match=r"importing csuhan/Tar-1\.5B needs .* of memory and .* are available"):
        hub.pull(MODEL, parts=parts)
    assert fake.downloads == []
    monkeypatch.setattr("opentar.core.memory.available_bytes", lambda: largest)
    fake.repositories[SANA_512]["transformer/diffusion_pytorch_model.safetensors"] = published / "ta_tok.pth"
    hub._check_memory(fetching.sizes(catalogue.fetches(MODEL, catalogue.parts_of(parts))))


def test_a_damaged_file_of_the_hubs_cache_is_found(fake: FakeHub, tmp_path: Path, published: Path) -> None:
    content = (published / "ta_tok.pth").read_bytes()
    blob = tmp_path / "blobs" / hashlib.sha256(content).hexdigest()
    blob.parent.mkdir()
    blob.write_bytes(content[:-1] + b"?")
    link = tmp_path / "ta_tok.pth"
    link.symlink_to(blob)
    with pytest.raises(WeightsError, match=r"ta_tok\.pth was damaged on the way \(wrong sha256\); delete"):
        fetching._check_sha256(link)
    blob.write_bytes(content)
    fetching._check_sha256(link)


def test_names(fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"is no published model.*Did you mean 'csuhan/Tar-1.5B'"):
        hub.pull("csuhan/Tar-1.5b")
    with pytest.raises(ModelError, match=r"unknown.*Did you mean 'csuhan/Tar-1.5B'"):
        find.find_model("csuhan/Tar-1.5b")
    with pytest.raises(ModelError, match=r"has not been fetched yet; run: opentar pull csuhan/Tar-1\.5B"):
        find.find_model(MODEL)
    with pytest.raises(ConfigError, match="Did you mean 'sana_512'"):
        catalogue.parts_of(["sana512"])
    with pytest.raises(ModelError, match="is unknown"):
        find.find_model("nothing")
    assert fake.downloads == []


def test_a_folder_of_the_name_wins(tmp_path: Path, fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "csuhan" / "Tar-1.5B").mkdir(parents=True)
    (tmp_path / "csuhan" / "Tar-1.5B" / "config.json").write_text("{}")
    assert find.find_model(MODEL) == Path(MODEL)


def test_every_model_names_its_files() -> None:
    for model in find.PUBLISHED:
        plan = catalogue.fetches(model, catalogue.parts_of(["ar_512", "ar_1024", "sana_512", "sana_1024"]))
        assert [one.repository for one in plan][:3] == [model, "csuhan/TA-Tok", "peizesun/llamagen_t2i"]
        assert len(plan) == 5
        patterns = [pattern for one in plan for pattern in one.patterns]
        assert {Path(pattern).suffix for pattern in patterns} == {".json", ".txt", ".safetensors", ".pth", ".pt"}


def test_the_command(
    fake: FakeHub, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from opentar.cli import main

    assert main(["pull", MODEL, "--with", "sana_512", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert f"fetch    {SANA_512}@main: " in told
    assert fake.downloads == []
    assert main(["pull", MODEL, "--json"]) == 0
    caught = capsys.readouterr()
    assert json.loads(caught.out)["parts"][0]["part"] == "ta_tok"
    assert "fetching csuhan/TA-Tok: 2 files" in caught.err
    assert main(["pull", MODEL]) == 0
    assert "is here already" in capsys.readouterr().out
    assert main(["pull", "csuhan/Tar"]) == 2
    assert capsys.readouterr().err.startswith("error: 'csuhan/Tar' is no published model")


def test_huggingface_hubs_own_cache_serves_offline(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No stand-in here: the real function on a cache of the real layout."""
    files = FakeHub(published, tmp_path).repositories
    for repository in (MODEL, "csuhan/TA-Tok", "peizesun/llamagen_t2i"):
        place = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        snapshot = place / "snapshots" / commit_of(repository, "main")
        for name, path in files[repository].items():
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, snapshot / name)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("OPENTAR_CACHE", str(tmp_path / "cache"))
    config = model_folder.read_config(hub.pull(MODEL).folder)
    assert config.sources["language"] == (f"{MODEL}@{commit_of(MODEL, 'main')}",)
    shutil.rmtree(tmp_path / "hub")
    with pytest.raises(WeightsError, match=r"cannot fetch ByteDance-Seed/Tar-7B .*HF_HUB_OFFLINE is set"):
        hub.pull("ByteDance-Seed/Tar-7B")
