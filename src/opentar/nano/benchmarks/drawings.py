"""The GenEval-like benchmark: prompts of held-out combinations drawn, and judged beside the true pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from opentar.eval.benchmark import Draw
from opentar.nano.benchmarks import geneval
from opentar.nano.benchmarks.links import to_judge
from opentar.nano.judge.judge import Judge, Verdict, decide
from opentar.nano.report import Drawing
from opentar.nano.world.fixed import GenevalPrompt


class Drawings:
    """`samples` drawings of each prompt, with seeds counted up."""

    name = "geneval"

    def __init__(self, judge: Judge, prompts: Sequence[GenevalPrompt], *, seed: int = 0, samples: int = 1) -> None:
        self.judge, self.prompts, self.seed, self.samples = judge, prompts, seed, samples
        self._verdicts: dict[tuple[int, ...], list[Verdict]] = {}

    def examples(self) -> list[Draw]:
        """The drawings of each prompt side by side."""
        return [
            Draw(prompt=prompt.prompt, seed=self.seed + sample)
            for prompt in self.prompts
            for sample in range(self.samples)
        ]

    def verdicts(self, outcomes: Sequence[Image.Image]) -> list[Verdict]:
        """What the judge says of each picture; it is asked once about the same pictures."""
        key = tuple(id(picture) for picture in outcomes)
        if key not in self._verdicts:
            requests = [request for request in geneval.requests_of(self.prompts) for _ in range(self.samples)]
            self._verdicts = {key: self.judge.judge([to_judge(picture) for picture in outcomes], requests)}
        return self._verdicts[key]

    def score(self, outcomes: Sequence[Image.Image]) -> dict[str, Any]:
        """{"geneval": scores, "judge": {"geneval", "counterpart"}, "counts": by tag}."""
        requests = geneval.requests_of(self.prompts)
        repeated = [request for request in requests for _ in range(self.samples)]
        readings = self.judge.read(geneval.truth_pictures(self.prompts))
        drawn = geneval.count_tags(repeated, self.verdicts(outcomes))
        true = geneval.count_tags(
            requests, [decide(*reading, request) for reading, request in zip(readings, requests, strict=True)]
        )
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
        return {"geneval": geneval.geneval_scores(drawn, true), "judge": judged, "counts": counts}

    def judged(self, outcomes: Sequence[Image.Image]) -> list[Drawing]:
        """The drawings with their verdicts, for a report."""
        repeated = [prompt for prompt in self.prompts for _ in range(self.samples)]
        return [
            Drawing(id=prompt.id, tag=prompt.tag, prompt=prompt.prompt, picture=picture, verdict=verdict)
            for prompt, picture, verdict in zip(repeated, outcomes, self.verdicts(outcomes), strict=True)
        ]
