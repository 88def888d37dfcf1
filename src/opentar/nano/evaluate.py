"""`opentar eval nano`: the 600 GenEval-like drawings, the POPE-like questions, and every link of the chain.

Scores are nested mappings; `report.flatten` gives them dotted keys (`geneval.two_object`, `pope.random.f1`,
`judge.pope.random.f1`, `meta.seed`). `judge` holds the same numbers for ground-truth pictures.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from opentar.core.errors import OutputError
from opentar.core.progress import Count, Progress, part_of
from opentar.eval import pope
from opentar.eval.reading import ask_all
from opentar.model_folder import MAX_PICTURES, MAX_SEED, check_range, detok_part
from opentar.nano.benchmarks import geneval
from opentar.nano.benchmarks.links import LINK_SCENES, link_scores, to_judge
from opentar.nano.judge.judge import Judge, decide
from opentar.nano.judge.probe import probe_key
from opentar.nano.report import Drawing, check_folder, write_drawings, write_report
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.fixed import GENEVAL_SIZE, POPE_SIZE, GenevalPrompt, PopeQuestion, pope_questions
from opentar.nano.world.questions import presence_question
from opentar.nano.world.render import load_book, render

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
    out_dir: str | Path | None = None,
    samples: int = 1,
    links: bool = True,
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw, read and judge; the scores as a nested mapping that json can write.

    Args:
        tar: the model.
        limit: number of drawing prompts, spread evenly over the six tags; the questions and link scenes shrink alike.
        seed: of every drawing; a single drawing can be repeated with `Tar.generate(prompt, seed=seed)`.
        detok: de-tokenizer, None for the model's own choice.
        scale: index of the code grid to draw at, None for the model's own choice.
        out_dir: empty or new folder for report.md, scores.json, the sheets and all drawings. Where they cannot be
            written in the end, `meta.report_error` says why, and a ReportWarning.
        samples: drawings of each prompt, with seeds counted up.
        links: also score autoencoder, tokenizer and language on their own (`meta.links`).
        judge: the judge; None loads it, and builds its probe the first time (about two minutes on one core).
        progress: called as (stage, done, total).

    Raises:
        ConfigError: a limit below 6, samples or seed out of range, an unknown scale. ModelError: an unknown
        de-tokenizer. OutputError: `out_dir` is not empty. DataError: the judge's packages are not installed.
    """
    _check_drawing(tar, seed=seed, samples=samples, detok=detok, scale=scale)
    prompts = geneval.even_prompts(limit)
    folder = None if out_dir is None else check_folder(Path(out_dir))
    started = time.perf_counter()
    judge = judge or Judge(progress=part_of(progress, "building the judge"))
    part = len(prompts) / _ALL
    texts, shown = [prompt.prompt for prompt in prompts], _drawing_progress(progress)
    pictures = tar.generate(texts, n=samples, seed=seed, detok=detok, scale=scale, callback_on_step_end=shown)
    drawings, drawing_scores = score_drawings(judge, prompts, pictures, samples)
    scores, judged = score_reading(tar, judge, _even_questions(part), part_of(progress, "reading"))
    meta = _described(tar, judge, detok, scale) | {"seed": seed, "samples": samples, "prompts": len(prompts)}
    meta["counts"] = drawing_scores.pop("counts")
    if links:
        number, told = max(len(geneval.TAGS), round(LINK_SCENES * part)), part_of(progress, "links")
        meta["links"] = link_scores(tar, judge, number=number, seed=seed, detok=detok, scale=scale, progress=told)
    meta["seconds"] = round(time.perf_counter() - started, 1)
    result = {
        "geneval": drawing_scores["geneval"],
        "pope": scores,
        "judge": {**drawing_scores["judge"], "pope": judged},
        "meta": meta,
    }
    if folder is not None:
        _keep(folder, result, drawings, prompts)
    return result


def _keep(folder: Path, result: dict[str, Any], drawings: Sequence[Drawing], prompts: Sequence[GenevalPrompt]) -> None:
    """Write the report. Scores that took long are not lost with it: they say themselves what went wrong."""
    try:
        write_report(folder, result, drawings, result["meta"]["seed"])
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


def score_drawings(
    judge: Judge, prompts: Sequence[GenevalPrompt], pictures: Sequence[Image.Image], samples: int = 1
) -> tuple[list[Drawing], dict[str, Any]]:
    """Judge `samples` pictures of each prompt, in order, and the true pictures.

    Returns the judged drawings and {"geneval": scores, "judge": {"geneval", "counterpart"}, "counts": by tag}.
    """
    requests = geneval.requests_of(prompts)
    repeated = [request for request in requests for _ in range(samples)]
    verdicts = judge.judge([to_judge(picture) for picture in pictures], repeated)
    readings = judge.read(geneval.truth_pictures(prompts))
    drawn = geneval.count_tags(repeated, verdicts)
    true = geneval.count_tags(
        requests, [decide(*reading, request) for reading, request in zip(readings, requests, strict=True)]
    )
    drawings = [
        Drawing(id=prompt.id, tag=prompt.tag, prompt=prompt.prompt, picture=picture, verdict=verdict)
        for prompt, picture, verdict in zip(
            [prompt for prompt in prompts for _ in range(samples)], pictures, verdicts, strict=True
        )
    ]
    counts = {
        tag: {
            "drawn": drawn[tag].accepted,
            "drawn_of": drawn[tag].total,
            "drawn_top1": drawn[tag].top1,
            "drawn_background": drawn[tag].background,
            "truth": true[tag].accepted,
            "truth_of": true[tag].total,
        }
        for tag in drawn
    }
    judged = {
        "geneval": geneval.truth_scores(true),
        "counterpart": geneval.counterpart_share(readings, requests),
    }
    return drawings, {"geneval": geneval.geneval_scores(drawn, true), "judge": judged, "counts": counts}


def _even_questions(part: float) -> dict[str, tuple[PopeQuestion, ...]]:
    """The beginning of each POPE setting: an even number of questions, so that yes and no stay balanced."""
    number = max(2, 2 * round(POPE_SIZE * part / 2))
    return {setting: pope_questions(setting, number) for setting in pope.SETTINGS}


def score_reading(
    tar: Tar, judge: Judge, asked: dict[str, tuple[PopeQuestion, ...]], progress: Count | None = None
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """POPE scores of the model and of the judge for each setting, on the same rendered pictures.

    The judge says yes when the concept is the first name of any part that it found.
    """
    scenes = {one.image: one.spec for questions in asked.values() for one in questions}
    numbers = {image: number for number, image in enumerate(scenes)}
    rendered = [render(spec, load_book("train")) for spec in scenes.values()]
    pictures = [Image.fromarray(picture) for picture in rendered]
    flat = [(numbers[one.image], one.text) for questions in asked.values() for one in questions]
    answers = iter(ask_all(tar, pictures, flat, progress=progress))
    names = [{part.names[0] for part in parts if part.names} for _, parts in judge.read(rendered)]
    scores, judged = {}, {}
    for setting, questions in asked.items():
        labels = [one.label for one in questions]
        scores[setting] = asdict(pope.score([next(answers) for _ in questions], labels))
        seen = [_asked_concepts()[one.text] in names[numbers[one.image]] for one in questions]
        judged[setting] = asdict(pope.score(["yes" if there else "no" for there in seen], labels))
    return scores, judged


@lru_cache(maxsize=1)
def _asked_concepts() -> dict[str, int]:
    return {presence_question(concept, "en"): concept.index for concept in load_concepts()}


def _drawing_progress(progress: Progress | None) -> Progress | None:
    if progress is None:
        return None
    return lambda stage, step, total: progress("drawing" if stage == "codes" else "painting", step, total)
