"""The benchmark of the true size: both sides do the same work, on a tiny model of the same kinds of parts."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest
import torch

import sequences
from opentar.checkpoints.random_init import init_random
from opentar.checkpoints.sizes import size_of
from opentar.tokens_to_image.ar_decoding import sample_codes

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "true_size.py"
    spec = importlib.util.spec_from_file_location("opentar_true_size", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("size") / "tiny"
    init_random(size_of("tar-tiny"), out)
    return out


def tasks(bench: ModuleType, folder: Path, **given) -> list[dict]:
    settings = {"parts": bench.PARTS, "scales": (2,), "tokens": 3, "steps": 2} | given
    return bench.tasks_of(folder, Namespace(**settings))


def test_the_tasks_are_those_that_the_model_can_do(bench: ModuleType, folder: Path, tmp_path: Path, capsys) -> None:
    found = tasks(bench, folder, scales=(2, 1))
    assert [task["part"] for task in found] == ["load", "read", "ar", "ar", "sana", "sana"]
    assert [task["scale"] for task in found[2:]] == [2, 1, 2, 1]
    init_random(size_of("tar-tiny"), tmp_path / "reader", parts=("language", "ta_tok", "detok_ar"))
    assert [task["part"] for task in tasks(bench, tmp_path / "reader")] == ["load", "read", "ar"]
    assert "sana: this model has no such de-tokenizer" in capsys.readouterr().err


def test_both_sides_go_through_the_same_stages(bench: ModuleType, folder: Path) -> None:
    for task in tasks(bench, folder):
        ours, published = (bench.run(side, folder, task) for side in bench.SIDES)
        assert list(ours) == list(published), task
        assert len(ours) == {"load": 1, "read": 2}.get(task["part"], 3)
        assert all(seconds > 0 for stages in (ours, published) for seconds in stages.values())


@torch.inference_mode()
def test_the_published_side_is_given_the_same_prompts(bench: ModuleType, folder: Path) -> None:
    ours, published = bench.Ours(folder, "float32"), bench.Published(folder, None)
    scale = ours.parts.vocab.scale(2)
    assert published.prompt(bench.PROMPT, "<im_start><S2>") == sequences.draw(ours.engine.builder, bench.PROMPT, scale)
    codes = [place % 64 for place in range(16)]
    text = "".join(f"<I{code}>" for code in codes) + f"\n{bench.QUESTION}"
    assert published.prompt(text, "") == sequences.read(ours.engine.builder, [codes], bench.QUESTION)
    assert published.spell(2).shape == ours.spell(2).shape == (1, 16)
    assert torch.equal(published.features(torch.tensor([codes])), ours.features(torch.tensor([codes])))


@torch.inference_mode()
def test_the_padded_cache_gives_the_codes_of_ours(
    bench: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bench.Published(folder, None).detokenizer("ar").transformer
    features = torch.randn(2, 16, model.config.feature_size, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(torch, "multinomial", lambda chances, _: chances.argmax(-1, keepdim=True))
    expected = sample_codes(model, features, temperature=0, guidance=4.0)
    assert torch.equal(bench.padded_ar(model, features, 4.0), expected)


def test_the_table(bench: ModuleType, folder: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """One child for real; the others in this process, which is quicker."""
    real = bench.measure("ours", folder, {"part": "load"})
    assert list(real["stages"]) == ["load"]
    assert real["peak"] > 0.01 or sys.platform == "win32"
    monkeypatch.setattr(bench, "measure", lambda *given: {"stages": bench.run(*given), "peak": 2.0})
    monkeypatch.setattr(sys, "argv", ["true_size.py", str(folder), "--parts", "load", "read", "--tokens", "2"])
    bench.main()
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if "|" in line]
    assert [row[0] for row in rows[2:]] == [
        "**load**",
        "read: picture to codes",
        "read: answer, 2 tokens",
        "**read**",
    ]
    assert rows[-1][-2:] == ["2.00", "2.00"]


def test_alone_measures_our_side_only(bench: ModuleType, folder: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    sides = []

    def measure(side: str, where: Path, task: dict) -> dict:
        sides.append(side)
        return {"stages": bench.run(side, where, task), "peak": 2.0}

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["true_size.py", str(folder), "--alone", "--parts", "ar", "--scales", "2"])
    bench.main()
    assert sides == ["ours"]
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if "|" in line][2:]
    assert [row[0].strip() for row in rows] == [
        "ar, scale 2: text to 16 codes",
        "ar, scale 2: codes to features",
        "ar, scale 2: 16 px by AR",
        "**ar, scale 2**",
    ]
    assert float(rows[-1][1]) > 0 and not any(row[2].strip() or row[3].strip() for row in rows)


def test_a_failing_child_is_told_in_its_own_words(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "Traceback ...\nModelError: no such folder\n")
    monkeypatch.setattr(bench.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SystemExit, match="published: ModelError: no such folder"):
        bench.measure("published", Path("nowhere"), {"part": "load"})
