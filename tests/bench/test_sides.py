"""Both sides do the same works on the same weights."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
import torch

import sequences
from opentar.bench import worker
from opentar.bench.baseline import Baseline
from opentar.bench.child import BASELINE, Child
from opentar.bench.cost import need_of
from opentar.bench.engines import ways_of
from opentar.bench.facts import Facts
from opentar.bench.limits import Limits
from opentar.bench.ours import Ours
from opentar.bench.published_ar import published_codes
from opentar.bench.work import PROMPT, QUESTION, Work, works_of
from opentar.core.errors import ModelError, PromptError, WeightsError
from opentar.core.folder import load_part
from opentar.tokens_to_image.ar_decoding import sample_codes

LIMITS = Limits(bytes_per_s=1e9, flops_per_s={"float32": 1e9, "bfloat16": 1e9})


@pytest.fixture(scope="module")
def ours(tiny_model: Path) -> Ours:
    return Ours(ways_of(tiny_model)[0], "cpu")


@pytest.fixture(scope="module")
def baseline(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    return Baseline(tiny_model, tmp_path_factory.mktemp("place"), "cpu")


def test_each_side_does_each_work(facts: Facts, ours: Ours, baseline: Baseline) -> None:
    counted = {"prefill": None, "decode": 143, "codes": 144, "batch": 128, "single": 128, "paint": None}
    for work in works_of(facts):
        if work.kind == "first":
            continue
        sides = [ours, baseline] if work.rival == "baseline" else [ours]
        runs = []
        for side in sides:
            side.warm(work)
            runs.append(side.run(work))
        assert all(run.seconds > 0 for run in runs), work.name
        assert len({run.tokens for run in runs}) == 1, work.name
        expected = counted.get(work.kind, 0)
        assert expected is None or runs[0].tokens == expected, work.name
        need = need_of(ours.cost(work), LIMITS)
        # Where an answer ends, and what a person waits for in all, has no formula.
        assert (need is None) == (work.kind in ("read", "next", "answer")), work.name
        assert need is None or need.seconds > 0


def test_work_of_a_kind_that_a_side_does_not_know(ours: Ours) -> None:
    with pytest.raises(ModelError, match="leave the work dance out"):
        ours.run(Work(name="dance", kind="first", title="", parts=(), group="all"))


@torch.no_grad()
def test_the_baseline_is_given_the_same_prompts(ours: Ours, baseline: Baseline) -> None:
    builder, scale = ours.engine().builder, ours.parts.vocab.scale(2)
    assert baseline.prompt(PROMPT, "<im_start><S2>") == sequences.draw(builder, PROMPT, scale)
    codes = baseline.some_codes(2)
    text = "".join(f"<I{code}>" for code in codes) + f"\n{QUESTION}"
    assert baseline.prompt(text, "") == sequences.read(builder, [codes], QUESTION)
    assert baseline.spell(2).shape == ours.spell(2).shape == (1, 16)


@torch.no_grad()
def test_the_baseline_sees_the_same_picture(ours: Ours, baseline: Baseline) -> None:
    picture = ours.picture()
    for scale in range(3):
        assert baseline.encode(picture, scale) == ours.encode(picture, scale)
    codes_1N = torch.tensor([ours.some_codes(2)])
    assert torch.allclose(baseline.features(codes_1N), ours.features(codes_1N), atol=1e-5)


@torch.no_grad()
def test_the_published_ar_draws_the_codes_of_ours(
    tiny_model: Path, ours: Ours, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ours.parts.detokenizer("ar").transformer
    state = load_part(tiny_model / "detok_ar" / "transformer")[1]
    features = torch.randn(2, 16, model.config.feature_size, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(torch, "multinomial", lambda chances, _: chances.argmax(-1, keepdim=True))
    expected = sample_codes(model, features, temperature=0, guidance=4.0)
    assert torch.equal(published_codes(model.config, state, features, 4.0), expected)


def test_weights_that_transformers_does_not_read_are_exported_first(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    from opentar.language.folder import load_language, save_language

    folder, place = tmp_path / "int8", tmp_path / "place"
    shutil.copytree(tiny_model, folder)
    shutil.rmtree(folder / "language")
    save_language(folder / "language", *load_language(tiny_model / "language"), storage="int8")
    place.mkdir()
    with pytest.warns(UserWarning, match="language changed"):
        baseline = Baseline(folder, place, "cpu")
    assert baseline.spell(2).shape == (1, 16)
    assert (place / "plain" / "config.json").is_file()


def test_a_worker_answers_orders_and_errors_in_lines_of_json(
    tiny_model: Path, facts: Facts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    work = vars(next(work for work in works_of(facts) if work.name == "encode 16"))
    order = {
        "side": "ours",
        "way": "torch",
        "device": "cpu",
        "place": str(tmp_path),
        "folder": str(tiny_model),
    }
    orders = [{"do": "open", **order, "folder": str(tmp_path / "none")}, {"do": "open", **order}]
    orders += [{"do": "warm", "work": work}, {"do": "run", "work": work}]
    orders += [{"do": "run", "work": {**work, "kind": "dance"}}]
    with Child("torch") as child:
        for wanted in orders:
            child.send(wanted)
        with pytest.raises(WeightsError, match="there is no folder"):
            child.answer("open")
        assert child.answer("open") == {}
        assert {stage["kind"] for stage in child.answer("warm")["stages"]} == {"float32"}
        told = child.answer("run")
        assert told["seconds"] > 0 and told["tokens"] == 0
        assert told["peak_gb"] is None or 0.01 < told["peak_gb"] < 10
        with pytest.raises(ModelError, match="dance"):
            child.answer("run")


def test_a_worker_that_dies_is_told_in_its_own_words() -> None:
    with Child(BASELINE) as child:
        child.send({"do": "run", "work": {"parts": []}})
        with pytest.raises(
            ModelError, match=r"the process of baseline ended with code 1 at 'run': AssertionError: open"
        ):
            child.answer("run")
        with pytest.raises(ModelError, match="ended with code 1"):
            child.ask({"do": "limits"})


def test_errors_keep_their_class(monkeypatch: pytest.MonkeyPatch) -> None:
    with Child("torch") as child:
        answer = {"error": "too long", "kind": "PromptError"}
        child._process.stdout = io.BytesIO(json.dumps(answer).encode() + b"\n" + b'{"error": "gone", "kind": "os"}\n')
        with pytest.raises(PromptError, match="too long"):
            child.answer("run")
        with pytest.raises(ModelError, match="gone"):
            child.answer("run")


def test_nothing_of_a_child_is_left(tmp_path: Path) -> None:
    child = Child("torch")
    place, number = Path(child._place.name), child._process.pid
    assert place.is_dir()
    child.close()
    assert not place.exists()
    assert child._process.returncode is not None
    if os.name == "posix":
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


def test_quick_limits_are_smaller() -> None:
    from opentar.bench.limits import BUFFER, SIDE

    assert worker.QUICK_BUFFER < BUFFER and worker.QUICK_SIDE < SIDE
