"""`opentar eval nano`: the 600 GenEval-like drawings, the POPE-like questions, and every link of the chain.

Beside them stand wordings that no recipe trains on and questions about what is not there. Scores are nested mappings;
`report.flatten` gives them dotted keys (`geneval.two_object`, `pope.random.f1`, `wording.held_out`,
`honest.absent.count`, `judge.pope.random.f1`, `meta.seed`). `judge` holds the same numbers for ground-truth pictures.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from opentar.checkpoints.model_folder import detok_part
from opentar.checkpoints.settings import MAX_PICTURES, MAX_SEED, check_range
from opentar.core.errors import OutputError
from opentar.core.progress import Progress, part_of
from opentar.eval.agreement import agreements
from opentar.eval.kernel_distance import kernel_distance
from opentar.eval.runner import run
from opentar.nano.benchmarks import geneval
from opentar.nano.benchmarks.drawings import Drawings
from opentar.nano.benchmarks.honest import HONEST_SIZE, Honest
from opentar.nano.benchmarks.links import LINK_SCENES, link_scores, to_judge
from opentar.nano.benchmarks.questions import Questions, even_questions
from opentar.nano.benchmarks.wording import WORDING_SIZE, Wordings, worded_things
from opentar.nano.compare import compare
from opentar.nano.judge.judge import Judge
from opentar.nano.judge.probe import probe_key
from opentar.nano.outcomes import SAME, Drawn, Outcomes, check_comparable, greedy_answers, read_outcomes
from opentar.nano.report import Drawing, check_folder, write_drawings, write_report
from opentar.nano.world.fixed import GENEVAL_SIZE, GenevalPrompt
from opentar.nano.world.render import load_book

if TYPE_CHECKING:
    from opentar.pipeline import Tar


class ReportWarning(UserWarning):
    """The scores are there, but not everything of the report could be written."""


_ALL = GENEVAL_SIZE * len(geneval.TAGS)


def evaluate(
    tar: Tar,
    *,
    limit: int | None = None,
    seed: int = 0,
    detok: str | None = None,
    scale: int | None = None,
    passes: str | None = None,
    out_dir: str | Path | None = None,
    against: str | Path | None = None,
    samples: int = 1,
    links: bool = True,
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw, read and judge; the scores as a nested mapping that json can write.

    Args:
        tar: the model.
        limit: number of drawing prompts, spread evenly over the six tags; questions and link scenes shrink alike.
        seed: of every drawing; one can be repeated with `Tar.generate(prompt, seed=seed)`.
        detok: de-tokenizer, None for the model's own choice.
        scale: index of the code grid to draw at, None for the model's own choice.
        passes: how many codes a pass of the AR de-tokenizer draws, by name (`Tar.generate`).
        out_dir: empty or new folder for the report; `meta.report_error` and a ReportWarning say why it was not written.
        against: folder of another model's report of the same kind; then `against` of the result says what is lost.
        samples: drawings of each prompt, with seeds counted up.
        links: also score autoencoder, tokenizer and language on their own (`meta.links`).
        judge: None loads it, and builds its probe the first time (about two minutes on one core).
        progress: called as (what is being done, done, total).

    Raises:
        ConfigError, ModelError: a limit below 6, or something out of range or unknown. OutputError: `out_dir` is not
        empty. DataError: the judge's packages are not installed, or `against` is no report of such an evaluation.
    """
    _check_drawing(tar, seed=seed, samples=samples, detok=detok, scale=scale)
    prompts = geneval.even_prompts(limit)
    share = len(prompts) / _ALL
    told = {"seed": seed, "samples": samples, "prompts": len(prompts)}
    before = None if against is None else _before(Path(against), told)
    folder, started = None if out_dir is None else check_folder(Path(out_dir)), time.perf_counter()
    judge = judge or Judge(progress=part_of(progress, "building the judge"))
    drawing, questions = Drawings(judge, prompts, seed=seed, samples=samples), Questions(judge, even_questions(share))
    pictures, scores = run(tar, drawing, detok=detok, scale=scale, passes=passes, progress=progress)
    answers, reading_scores = run(tar, questions, progress=progress)
    words = _words(tar, judge, share, seed=seed, detok=detok, scale=scale, progress=progress)
    meta = _described(tar, judge, detok, scale) | told | {"passes": passes, "counts": scores.pop("counts")}
    if links:
        meta["links"] = _links(tar, judge, share, progress, seed=seed, detok=detok, scale=scale)
    outcomes = _outcomes(tar, drawing, pictures, questions.marked(answers), meta, scores)
    meta["effnet_kid"] = kernel_distance(outcomes.drawn_features, outcomes.true_features)
    judged = {**scores["judge"], "pope": reading_scores["judge"]}
    result = {"geneval": scores["geneval"], "pope": reading_scores["pope"], **words, "judge": judged, "meta": meta}
    if before is not None:
        check_comparable(meta, before.meta, Path(str(against)))
        agreed = agreements(tar.engine(), before.said, progress=part_of(progress, "agreement"))
        result["against"] = compare(before, outcomes, agreed)
    meta["seconds"] = round(time.perf_counter() - started, 1)
    _keep(folder, result, drawing.judged(pictures), prompts, outcomes)
    return result


def _words(
    tar: Tar, judge: Judge, part: float, *, seed: int, detok: str | None, scale: int | None, progress: Progress | None
) -> dict[str, Any]:
    """Held-out wordings and honest answers, as much of them as of the other drawings and questions."""
    wordings = Wordings(judge, worded_things(max(2, round(WORDING_SIZE * part))), seed=seed)
    honest = Honest(max(2, round(HONEST_SIZE * part)))
    drawn = run(tar, wordings, detok=detok, scale=scale, progress=progress)[1]
    return {"wording": drawn, "honest": run(tar, honest, progress=progress)[1]}


def _links(tar: Tar, judge: Judge, part: float, progress: Progress | None, **drawn: Any) -> dict[str, Any]:
    number = max(len(geneval.TAGS), round(LINK_SCENES * part))
    return link_scores(tar, judge, number=number, progress=part_of(progress, "links"), **drawn)


def _before(folder: Path, told: dict[str, Any]) -> Outcomes:
    """The other model's outcomes. Raises DataError where they cannot be compared, before anything is drawn."""
    before = read_outcomes(folder)
    check_comparable(told | {"judge": before.meta.get("judge")}, before.meta, folder)
    return before


def _outcomes(
    tar: Tar,
    drawing: Drawings,
    pictures: Sequence[Any],
    answered: tuple[Any, ...],
    meta: dict[str, Any],
    scores: dict[str, Any],
) -> Outcomes:
    """What became of each prompt and question, for a comparison with another model."""
    true = geneval.truth_pictures(drawing.prompts)
    return Outcomes(
        meta={name: meta[name] for name in ("model", "checkpoint", *SAME)},
        ceilings=scores["judge"]["geneval"],
        drawn=tuple(Drawn(id=one.id, tag=one.tag, accepted=one.verdict.accepted) for one in drawing.judged(pictures)),
        answered=answered,
        said=tuple(greedy_answers(tar, drawing.prompts, [Image.fromarray(picture) for picture in true])),
        drawn_features=drawing.judge.features(np.stack([to_judge(picture) for picture in pictures])),
        true_features=drawing.judge.features(np.stack(true)).repeat(drawing.samples, axis=0),
    )


def _keep(
    folder: Path | None,
    result: dict[str, Any],
    drawings: Sequence[Drawing],
    prompts: Sequence[GenevalPrompt],
    outcomes: Outcomes,
) -> None:
    """Write the report. Scores that took long are not lost with it: they say themselves what went wrong."""
    if folder is None:
        return
    try:
        write_report(folder, result, drawings, result["meta"]["seed"])
        outcomes.write(folder)
        write_drawings(folder / "drawings", drawings, {prompt.id: prompt.to_line() for prompt in prompts})
    except OutputError as error:
        result["meta"]["report_error"] = str(error)
        warnings.warn(f"the report is not whole: {error}", ReportWarning, stacklevel=3)


def _check_drawing(tar: Tar, *, seed: int, samples: int, detok: str | None, scale: int | None) -> None:
    """Refuse what `Tar.generate` would refuse; it is called only after the judge took minutes to build."""
    # The links count the seed up from picture to picture.
    check_range("seed", seed, 0, MAX_SEED - LINK_SCENES, whole=True)
    check_range("samples", samples, 1, MAX_PICTURES, whole=True)
    own = tar.parts.config.defaults.draw
    detok_part(tar.parts.config, own.detok if detok is None else detok)
    tar.parts.vocab.scale(own.scale if scale is None else scale)


def _described(tar: Tar, judge: Judge, detok: str | None, scale: int | None) -> dict[str, Any]:
    """What a score is worth nothing without: the model, how it drew, and who judged."""
    own = tar.parts.config.defaults.draw
    return {
        "model": tar.parts.config.name,
        "checkpoint": tar.parts.hash,
        "detokenizer": own.detok if detok is None else detok,
        "scale": own.scale if scale is None else scale,
        "parser": "official",
        "judge": f"EfficientNet-Lite0 ridge probe {probe_key(load_book('train'), judge.probe.settings)}",
    }
