"""`opentar bench`, on a tiny model: one run for real, the rest without processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from opentar.bench import run as running
from opentar.bench.facts import Facts
from opentar.bench.limits import Limits
from opentar.bench.plot import check_plot, write_plot
from opentar.bench.report import HEAD, as_dict, lines, table
from opentar.bench.rows import Measured, Need, Row, row_of
from opentar.bench.run import Options, Report
from opentar.cli import main
from opentar.core.errors import ConfigError, OutputError

ROW = {
    "work", "engine", "exact", "seconds", "baseline_seconds", "ratio", "tokens_per_s", "share_of_limit", "peak_gb",
    "meets", "target", "baseline", "baseline_peak_gb", "runs", "flops", "bytes",
}  # fmt: skip
LIMITS = Limits(bytes_per_s=2e10, flops_per_s={"float32": 1e11, "bfloat16": 2e11})


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["bench", *(str(argument) for argument in arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


class FakeChild:
    """Answers like a worker, at once: `seconds` by the name of the side, an interruption where `stop` says."""

    seconds: ClassVar[dict[str, float]] = {"torch": 0.5, "baseline": 2.0}
    stop = ""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> FakeChild:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def open(self, folder: Path, device: str | None) -> None:
        """Nothing is loaded."""

    def aim(self, passes: str | None, code_passes: str | None) -> None:
        """Every way takes as long."""

    def ask(self, order: dict) -> dict:
        """Limits, or a first picture."""
        assert order["do"] in ("limits", "first")
        return {"bytes_per_s": 1e9, "flops_per_s": {"float32": 1e9}, "peak_gb": 0.4}

    def warm(self, work) -> list[dict]:
        """One stage of a hundredth of a second."""
        if work.name == "paint ar" and self.name == "baseline":
            raise ConfigError("no such painter")
        return [] if self.name == "baseline" else [{"flops": 1e7, "bytes": 0.0, "kind": "float32", "times": 1}]

    def run(self, work) -> tuple[Measured, float]:
        """As long as the class says."""
        if work.name == self.stop:
            raise KeyboardInterrupt
        return Measured(self.seconds[self.name] * (8 if work.kind == "single" else 1), 10), 0.25


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeChild]:
    monkeypatch.setattr(running, "Child", FakeChild)
    monkeypatch.setattr(FakeChild, "stop", "")
    return FakeChild


def test_the_command_for_real(quiet, tiny_model: Path) -> None:
    pytest.importorskip("matplotlib")
    given = [tiny_model, "--works", "encode 16", "draw 16 ar", "--quick", "--plot", "roofline.png", "--json"]
    code, out, err = quiet(*given)
    assert code == 0, err
    told = json.loads(out)
    assert set(told) == {
        "model", "size", "device", "machine", "baseline", "rows", "works", "skipped", "interrupted", "plot",
    }  # fmt: skip
    assert [row["work"] for row in told["rows"]] == ["encode 16", "draw 16 ar"]
    assert told["skipped"] == [] and told["interrupted"] is False and told["device"] == "cpu"
    for row in told["rows"]:
        assert set(row) == ROW
        assert row["seconds"] > 0 and row["baseline_seconds"] > 0 and row["runs"] == 1
        assert row["ratio"] == pytest.approx(row["baseline_seconds"] / row["seconds"])
        assert row["exact"] is True and row["meets"] is None and row["engine"] == "torch"
        assert 0 < row["share_of_limit"] < 2
        assert sys.platform != "linux" or 0.05 < row["peak_gb"] < 5
    assert len(told["machine"]["measured"]) == 2
    assert all(one["bandwidth_gb_s"] > 0.1 for one in told["machine"]["measured"])
    assert Path("roofline.png").read_bytes().startswith(b"\x89PNG")
    assert "encode 16, torch:" in err


def test_rows_of_all_works(facts: Facts, fake) -> None:
    report = running.bench(facts.folder, Options(seconds=5.0))
    rows = {row.work: row for row in report.rows}
    assert set(rows) == set(report.titles)
    assert (rows["decode"].baseline_seconds, rows["decode"].seconds, rows["decode"].ratio) == (2.0, 0.5, 4.0)
    assert (rows["decode"].runs, rows["decode"].tokens_per_s, rows["decode"].peak_gb) == (2, 20.0, 0.25)
    assert rows["decode"].share_of_limit == pytest.approx(0.02)
    assert rows["batch 8"].ratio == 8.0 and "one drawing after another" in rows["batch 8"].baseline
    assert rows["next picture"].baseline_seconds is None and rows["next picture"].runs == 7
    assert rows["first picture"].peak_gb == 0.4
    # The other side could not: ours is measured all the same, and the report says why there is no ratio.
    assert rows["paint ar"].ratio is None and rows["paint ar"].seconds == 0.5
    assert report.skipped == [{"work": "paint ar", "engine": "baseline", "why": "no such painter"}]
    assert len(report.limits) == 2


def test_ours_alone(facts: Facts, fake) -> None:
    report = running.bench(facts.folder, Options(baseline=False, quick=True))
    assert all(row.ratio is None or row.work == "batch 8" for row in report.rows)
    assert report.skipped == [] and all(row.runs == 1 for row in report.rows)


def test_engines_are_chosen_by_their_names(facts: Facts, fake) -> None:
    report = running.bench(facts.folder, Options(quick=True, passes=("zipar",), engines=("torch, zipar",)))
    assert {row.engine for row in report.rows} == {"torch, zipar"}
    assert {row.work for row in report.rows} >= {"paint ar"} and "decode" not in {row.work for row in report.rows}


def test_an_interruption_leaves_the_rows_so_far(quiet, fake, tiny_model: Path, monkeypatch) -> None:
    monkeypatch.setattr(fake, "stop", "decode")
    code, out, _ = quiet(tiny_model, "--json")
    told = json.loads(out)
    assert code == 130 and told["interrupted"] is True
    assert [row["work"] for row in told["rows"]][-1] == "prefill"
    assert all(row["share_of_limit"] > 0 for row in told["rows"])
    code, out, _ = quiet(tiny_model)
    assert code == 130 and "interrupted: these are the rows so far" in out


def test_a_work_that_fails_is_told_and_the_others_go_on(quiet, fake, tiny_model: Path, monkeypatch) -> None:
    real = fake.run

    def run(self, work):
        if work.name == "decode":
            raise ConfigError("too long for this model")
        return real(self, work)

    monkeypatch.setattr(fake, "run", run)
    code, out, _ = quiet(tiny_model, "--works", "decode", "prefill")
    assert code == 0
    assert "skipped  decode, torch, baseline: too long for this model" in out
    assert quiet(tiny_model, "--works", "decode")[0] == 1


def test_the_table(facts: Facts) -> None:
    need = Need(flops=1e9, bytes=1e9, seconds=0.25)
    whole = row_of("decode", "torch", [Measured(0.5, 10)], exact=True, baseline="x", baseline_runs=[Measured(2.0)],
                   need=need, peak_gb=1.5, baseline_peak_gb=2.5)  # fmt: skip
    bare = row_of("answer", "torch", [Measured(2.0)], exact=False)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table([whole, bare])]
    assert cells[0] == list(HEAD)
    assert cells[2] == ["decode", "torch", "yes", "0.500", "2.00", "4.00", "20.0", "50%", "1.50", "2.50", "-"]
    assert cells[3] == ["answer", "torch", "no", "2.00", "-", "-", "-", "-", "-", "-", "-"]
    assert len({len(line) for line in table([whole, bare])}) == 1
    report = Report(facts, limits=[LIMITS, LIMITS], rows=[whole])
    told = lines(report, "cpu")
    assert told[0].startswith("tiny on cpu, ")
    assert "reads 20.0, 20.0 GB/s" in told[1] and "float32 100, bfloat16 200 GFLOP/s" in told[2]
    assert as_dict(report, "cpu")["machine"]["measured"][0]["bandwidth_gb_s"] == 20.0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no-such-model"], "is unknown"),
        (["tar-1.5b"], "tar-1.5b is a size, not a model; add --random"),
        (["tar-9b", "--random"], "size 'tar-9b' is unknown"),
        (["MODEL", "--works", "telepathy"], "work 'telepathy' is unknown; this model has: encode 144"),
        (["MODEL", "--engines", "torch, zipa"], "engine 'torch, zipa' is not measured here; these are: torch."),
        (["MODEL", "--seconds", "-1"], "seconds is -1.0; it must be a number from 0"),
        (["MODEL", "--device", "toaster"], "device 'toaster' is unknown"),
        (["MODEL", "--plot", "roofline.txt"], "ends in '.txt'; use .png, .svg, .pdf"),
        (["MODEL", "--plot", "nowhere/roofline.png"], "there is no folder"),
    ],
)
def test_wrong_arguments(quiet, fake, tiny_model: Path, arguments: list[str], told: str) -> None:
    if "--plot" in arguments:
        pytest.importorskip("matplotlib")
    code, out, err = quiet(*[str(tiny_model) if argument == "MODEL" else argument for argument in arguments])
    assert code == 2 and out == ""
    assert told in err and len(err.splitlines()) == 1


def test_a_plot_without_matplotlib(quiet, fake, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = quiet(tiny_model, "--plot", "roofline.png")
    assert code == 2 and "pip install 'opentar[plot]'" in err


def test_the_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    row = row_of("decode", "torch", [Measured(0.5)], exact=True, need=Need(flops=1e9, bytes=1e9, seconds=0.1))
    unknown: Row = row_of("answer", "torch", [Measured(0.5)], exact=True)
    assert write_plot(tmp_path / "roofline.svg", [row, unknown], LIMITS, "tiny on cpu") == 1
    drawn = (tmp_path / "roofline.svg").read_text(encoding="utf-8")
    assert drawn.startswith("<?xml") and "tiny on cpu" in drawn
    with pytest.raises(OutputError, match="exists; choose another name or add --overwrite"):
        check_plot(tmp_path / "roofline.svg", overwrite=False)
    check_plot(tmp_path / "roofline.svg", overwrite=True)


def test_random_weights_are_made_once_and_kept_in_the_cache(
    quiet, fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENTAR_CACHE", str(tmp_path / "cache"))
    code, out, err = quiet("tar-tiny", "--random", "--works", "decode", "--json")
    assert code == 0, err
    assert json.loads(out)["model"] == "tar-tiny-random"
    manifest = tmp_path / "cache" / "bench" / "tar-tiny-random" / "manifest.json"
    made = manifest.stat().st_mtime_ns
    assert str(manifest.parent) in err
    assert quiet("tar-tiny", "--random", "--works", "decode")[0] == 0
    assert manifest.stat().st_mtime_ns == made


def test_ctrl_c_for_real(tiny_model: Path, tmp_path: Path) -> None:
    """The worker goes with it, and what was measured is printed."""
    import os
    import signal
    import time

    if os.name != "posix":
        pytest.skip("signals of POSIX")
    command = [
        sys.executable,
        "-m",
        "opentar",
        "bench",
        str(tiny_model),
        "--seconds",
        "3600",
        "--no-baseline",
        "--json",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("encode 144"), line
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    told = json.loads(out)
    assert told["interrupted"] is True and told["rows"]
    time.sleep(0.2)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
