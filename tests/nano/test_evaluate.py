"""The whole evaluation with a tiny model: keys, even subsets, the report's files, and the judge beside every score."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opentar.core.errors import ConfigError, DataError, ModelError, OutputError
from opentar.core.picture_formats import read_metadata
from opentar.eval.benchmark import Ask, Draw
from opentar.eval.measures import psnr, usage
from opentar.eval.runner import ask_all, outcomes
from opentar.nano.benchmarks.drawings import Drawings
from opentar.nano.benchmarks.geneval import TagCount, counterpart_share, even_prompts, geneval_scores, requests_of
from opentar.nano.benchmarks.links import normal_answer
from opentar.nano.compare import compare
from opentar.nano.evaluate import ReportWarning, evaluate
from opentar.nano.judge.judge import Judge, PartVerdict
from opentar.nano.judge.parts import Seen
from opentar.nano.outcomes import read_outcomes
from opentar.nano.report import flatten
from opentar.nano.stages.pictures import box_masks
from opentar.nano.world.fixed import GENEVAL_TAGS, geneval_prompts
from opentar.nano.world.render import load_book, render
from opentar.nano.world.scenes import SceneGenerator
from opentar.pipeline import Tar

# The tiny model learned a handful of words and says so at every prompt.
pytestmark = pytest.mark.filterwarnings("ignore::opentar.pipeline.UnknownWordsWarning")

TAGS = tuple(GENEVAL_TAGS)
POPE_KEYS = ("accuracy", "precision", "recall", "f1", "yes_ratio")


@pytest.fixture(scope="module")
def scored(tar: Tar, judge: Judge, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """Scores of the tiny model and the folder of its report."""
    folder = tmp_path_factory.mktemp("eval") / "report"
    stages: list[str] = []
    scores = evaluate(
        tar, limit=7, seed=3, out_dir=folder, judge=judge, progress=lambda name, done, total: stages.append(name)
    )
    assert {"drawing", "painting", "reading", "links"} <= set(stages)
    return scores, folder


def test_keys_are_those_that_the_documentation_names(scored: tuple[dict, Path]) -> None:
    flat = flatten(scored[0])
    wanted = {f"geneval.{tag}" for tag in (*TAGS, "overall")}
    wanted |= {f"pope.{setting}.{key}" for setting in ("random", "popular", "adversarial") for key in POPE_KEYS}
    assert {key for key in flat if key.startswith(("geneval.", "pope."))} == wanted
    assert {f"judge.{key}" for key in wanted} | {"judge.counterpart"} == {k for k in flat if k.startswith("judge.")}
    assert {"meta.checkpoint", "meta.seed", "meta.detokenizer", "meta.scale", "meta.seconds"} <= set(flat)
    assert {key.split(".")[0] for key in flat} == {"geneval", "pope", "wording", "honest", "judge", "meta"}
    assert {"wording.plain", "wording.held_out", "wording.held_out_zh", "wording.ratio"} <= set(flat)
    assert {"honest.absent.count", "honest.present.count", "honest.stranger", "honest.overall"} <= set(flat)
    assert (flat["meta.seed"], flat["meta.prompts"]) == (3, 7)


def test_report_holds_scores_pictures_and_verdicts(scored: tuple[dict, Path], tar: Tar) -> None:
    scores, folder = scored
    assert json.loads((folder / "scores.json").read_text()) == scores
    text = (folder / "report.md").read_text()
    assert all(tag in text for tag in TAGS)
    assert tar.parts.hash in text
    assert Image.open(folder / "sheet.png").width > 128 * 6
    assert len(json.loads((folder / "blind_key.json").read_text())) == 2
    places = sorted((folder / "drawings").iterdir())
    assert [place.name for place in places] == [f"{number:05d}" for number in range(7)]
    line = json.loads((places[0] / "metadata.jsonl").read_text())
    assert read_metadata(places[0] / "samples" / "0000.png")["prompt"] == line["prompt"]


def test_a_drawing_of_the_report_can_be_repeated_alone(scored: tuple[dict, Path], tar: Tar) -> None:
    place = scored[1] / "drawings" / "00004"
    line = json.loads((place / "metadata.jsonl").read_text())
    again = np.asarray(tar.generate(line["prompt"], seed=3)[0]).astype(int)
    assert np.abs(again - np.asarray(Image.open(place / "samples" / "0000.png"))).max() <= 1


def test_a_model_beside_its_own_report_loses_nothing(
    scored: tuple[dict, Path], tar: Tar, judge: Judge, tmp_path: Path
) -> None:
    again = evaluate(tar, limit=7, seed=3, judge=judge, against=scored[1], links=False, out_dir=tmp_path / "report")
    beside = again["against"]
    assert beside["checkpoint"] == tar.parts.hash
    for part, names in {"geneval": {*TAGS, "overall"}, "ids": {"codes", "text"}}.items():
        assert set(beside[part]) == names
        assert all(one["lost"] == one["high"] == one["differ"] == 0 for one in beside[part].values())
    assert beside["pope"]["overall"]["high"] == beside["effnet_kid"]["lost"] == 0
    assert again["meta"]["effnet_kid"] == pytest.approx(scored[0]["meta"]["effnet_kid"])
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| drawing, overall | 0.0 | 0.0 to 0.0 | 0 |" in text


def test_what_a_report_keeps_decides_what_is_lost(scored: tuple[dict, Path]) -> None:
    kept = read_outcomes(scored[1])
    right = [dataclasses.replace(one, right=True) for one in kept.answered]
    wrong = [*right[:-1], dataclasses.replace(right[-1], right=False)]
    accepted = tuple(dataclasses.replace(one, accepted=True) for one in kept.drawn)
    before = dataclasses.replace(kept, answered=tuple(right), drawn=accepted, ceilings=dict.fromkeys(TAGS, 0.5))
    refused = (dataclasses.replace(accepted[0], accepted=False), *accepted[1:])
    after = dataclasses.replace(before, answered=tuple(wrong), drawn=refused)
    found = compare(before, after, [1.0] * len(kept.said))
    assert found["pope"]["overall"]["lost"] == pytest.approx(1 / len(right))
    # The first of two drawings of its kind, of which the judge accepts every other true one.
    assert found["geneval"][accepted[0].tag]["lost"] == pytest.approx(1 / 2 / 0.5)
    assert found["geneval"]["overall"]["lost"] == pytest.approx(1 / 6)
    assert found["geneval"]["overall"]["differ"] == 1


def test_reports_of_other_examples_are_refused(scored: tuple[dict, Path], tar: Tar, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="was made with prompts '7', and this evaluation has '6'"):
        evaluate(tar, limit=6, seed=3, against=scored[1])
    with pytest.raises(DataError, match="was made with seed '3', and this evaluation has '0'"):
        evaluate(tar, limit=7, against=scored[1])
    with pytest.raises(DataError, match="is no report to compare with"):
        evaluate(tar, limit=6, against=tmp_path)


def test_a_folder_with_something_in_it_is_kept(scored: tuple[dict, Path], tar: Tar, judge: Judge) -> None:
    with pytest.raises(OutputError, match="not an empty folder"):
        evaluate(tar, limit=6, out_dir=scored[1], judge=judge)


def test_a_report_that_cannot_be_written_costs_no_scores(tar: Tar, judge: Judge, tmp_path: Path) -> None:
    """Something lies in the folder when the measuring is done; the scores come back all the same."""

    def fill(stage: str, done: int, total: int) -> None:
        (tmp_path / "report" / "notes.txt").write_text("mine")

    with pytest.warns(ReportWarning, match="the report is not whole: .* is not an empty folder"):
        scores = evaluate(tar, limit=6, out_dir=tmp_path / "report", judge=judge, progress=fill, links=False)
    assert scores["geneval"].keys() == {*TAGS, "overall"}
    assert "is not an empty folder" in scores["meta"]["report_error"]
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["notes.txt"]


def test_limits_and_samples_are_checked(tar: Tar, judge: Judge) -> None:
    with pytest.raises(ConfigError, match="limit is 5; give 6"):
        evaluate(tar, limit=5, judge=judge)
    with pytest.raises(ConfigError, match="samples is 0"):
        evaluate(tar, limit=6, samples=0, judge=judge)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"seed": -1}, ConfigError),
        ({"seed": 2**62}, ConfigError),
        ({"scale": 7}, ConfigError),
        ({"detok": "x"}, ModelError),
        ({"limit": 5}, ConfigError),
        ({"samples": 1001}, ConfigError),
        ({"out_dir": Path(__file__).parent}, OutputError),
        ({"out_dir": Path(__file__) / "below"}, OutputError),
    ],
)
def test_settings_are_refused_before_the_judge_is_built(
    tar: Tar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict, error: type[Exception]
) -> None:
    """The judge takes minutes to build."""

    def built(**named: object) -> Judge:
        raise AssertionError("the judge was built")

    monkeypatch.setattr("opentar.nano.evaluate.Judge", built)
    with pytest.raises(error):
        evaluate(tar, **{"limit": 6, "out_dir": tmp_path / "report", **wrong})
    assert not (tmp_path / "report").exists()


def test_limit_takes_the_beginning_of_every_tag() -> None:
    few = even_prompts(14)
    assert [sum(one.tag == tag for one in few) for tag in TAGS] == [3, 3, 2, 2, 2, 2]
    assert [one.id for one in few if one.tag == "position"] == ["geneval-position-000", "geneval-position-001"]
    whole = geneval_prompts(3)
    assert all(one in whole for one in few)


def test_score_is_relative_to_the_judge() -> None:
    def count(accepted: int) -> TagCount:
        return TagCount(accepted=accepted, total=10, top1=0, background=0)

    scores = geneval_scores({tag: count(4) for tag in TAGS}, {tag: count(8) for tag in TAGS})
    assert scores == pytest.approx(dict.fromkeys((*TAGS, "overall"), 0.5))
    nothing = geneval_scores({tag: count(4) for tag in TAGS}, {tag: count(0) for tag in TAGS})
    assert nothing["overall"] == 0


def test_true_pictures_as_drawings_score_one(judge: Judge) -> None:
    prompts = even_prompts(12)
    book = load_book("train")
    pictures = [Image.fromarray(render(prompt.spec, book)) for prompt in prompts]
    scores = Drawings(judge, prompts).score(pictures)
    for tag in TAGS:
        assert scores["counts"][tag]["drawn"] == scores["counts"][tag]["truth"]
    assert scores["counts"]["single_object"]["drawn_background"] == 2


def test_counterpart_is_never_the_same_request() -> None:
    prompts = even_prompts(12)
    requests = requests_of(prompts)
    # A reading that fulfils exactly its own single-object request.
    readings = []
    for request in requests:
        part = PartVerdict(box=(0, 0, 9, 9), names=(request.wanted[0].concept,), colour="red")
        readings.append((Seen(parts=(), background_rgb=(0, 0, 0)), (part,)))
    assert counterpart_share(readings[:2], requests[:2]) == 0.0
    assert counterpart_share(readings[:2], [requests[0], requests[0]]) == 0.0


def test_asking_many_equals_asking_one(tar: Tar) -> None:
    generator, book = SceneGenerator("test"), load_book("train")
    specs = [generator.sample(np.random.default_rng(n), "single") for n in range(2)]
    pictures = [Image.fromarray(render(spec, book)) for spec in specs]
    asked = [(1, "Is there a dog in the picture?"), (0, "What is this?"), (1, "How many?")]
    given = [Ask(pictures=(pictures[number],), question=question) for number, question in asked]
    assert ask_all(tar, given) == [tar.ask(pictures[number], question) for number, question in asked]
    assert ask_all(tar, []) == []


def test_outcomes_stand_in_the_order_of_the_examples(tar: Tar) -> None:
    picture, told = Image.new("RGB", (16, 16), "red"), []
    examples = [
        Draw(prompt="three red apples", seed=4), Ask(pictures=(picture,), question="How many?"),
        Draw(prompt="a dog", seed=3), Draw(prompt="a dog", seed=4),
    ]  # fmt: skip
    found = outcomes(tar, examples, progress=lambda what, done, total: told.append(what))
    assert found[1] == tar.ask(picture, "How many?")
    for place in (0, 2, 3):
        alone = tar.generate(examples[place].prompt, seed=examples[place].seed)[0]
        assert found[place].tobytes() == alone.tobytes()
    assert set(told) == {"drawing", "painting", "reading"}


def test_psnr_over_boxes_and_usage_of_codes() -> None:
    import torch

    spec = SceneGenerator("test").sample(np.random.default_rng(0), "two")
    first = np.zeros((128, 128, 3), np.uint8)
    second = first + 10
    assert psnr(first, second) == pytest.approx(20 * np.log10(25.5))
    assert psnr(first, first) == 99
    masks = box_masks([spec, spec])
    assert (masks.dtype, masks.shape) == (torch.float32, (2, 128, 128))
    for item in spec.objects:
        x0, y0, x1, y1 = item.box
        assert masks[1, y0:y1, x0:x1].all()
    assert 0 < masks.mean() < 1
    inside = masks[0].bool().numpy()
    second[~inside] = 0
    assert psnr(first, second, inside) == pytest.approx(20 * np.log10(25.5))
    with pytest.raises(DataError, match="equal shapes"):
        psnr(first, second[:64])
    found = usage([torch.tensor([1, 1, 1, 1, 0, 0, 0, 0]), torch.tensor([0, 9]), torch.tensor([0, 0])])
    assert found == {
        "used_0": 0.5, "perplexity_0": pytest.approx(4.0), "used_1": 0.5, "perplexity_1": pytest.approx(1.0),
        "used_2": 0.0, "perplexity_2": pytest.approx(1.0),
    }  # fmt: skip


def test_answers_are_compared_without_case_and_stop() -> None:
    assert normal_answer(" Three red apples. ") == normal_answer("three red apples")
    assert normal_answer("三个苹果。") == "三个苹果"
