"""The POPE-like benchmark: balanced yes/no questions about rendered scenes, asked of the model and of the judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from PIL import Image

from opentar.eval import pope
from opentar.eval.benchmark import Ask
from opentar.nano.judge.judge import Judge
from opentar.nano.outcomes import Answered
from opentar.nano.world.concepts import load_concepts
from opentar.nano.world.fixed import POPE_SIZE, PopeQuestion, pope_questions
from opentar.nano.world.questions import presence_question
from opentar.nano.world.render import load_book, render


class Questions:
    """Questions of several settings; the judge says yes when the concept is the first name of any part it found."""

    name = "pope"

    def __init__(self, judge: Judge, asked: Mapping[str, Sequence[PopeQuestion]]) -> None:
        self.judge, self.asked = judge, asked
        scenes = {one.image: one.spec for questions in asked.values() for one in questions}
        self._rendered = {image: render(spec, load_book("train")) for image, spec in scenes.items()}
        self._pictures = {image: Image.fromarray(picture) for image, picture in self._rendered.items()}

    def examples(self) -> list[Ask]:
        """The questions, setting by setting."""
        return [
            Ask(pictures=(self._pictures[one.image],), question=one.text)
            for questions in self.asked.values()
            for one in questions
        ]

    def score(self, outcomes: Sequence[str]) -> dict[str, Any]:
        """{"pope": scores by setting, "judge": those of the judge}."""
        read = self.judge.read(list(self._rendered.values()))
        names = {
            image: {part.names[0] for part in parts if part.names}
            for image, (_, parts) in zip(self._rendered, read, strict=True)
        }
        answers, scores, judged = iter(outcomes), {}, {}
        for setting, questions in self.asked.items():
            labels = [one.label for one in questions]
            scores[setting] = asdict(pope.score([next(answers) for _ in questions], labels))
            seen = [_asked_concepts()[one.text] in names[one.image] for one in questions]
            judged[setting] = asdict(pope.score(["yes" if there else "no" for there in seen], labels))
        return {"pope": scores, "judge": judged}

    def marked(self, outcomes: Sequence[str]) -> tuple[Answered, ...]:
        """Whether each answer is right, read as the scores read it."""
        asked = [(setting, one) for setting, questions in self.asked.items() for one in questions]
        return tuple(
            Answered(setting=setting, image=one.image, right=pope.parse_official(answer) == one.label)
            for (setting, one), answer in zip(asked, outcomes, strict=True)
        )


def even_questions(part: float) -> dict[str, tuple[PopeQuestion, ...]]:
    """The beginning of each POPE setting: an even number of questions, so that yes and no stay balanced."""
    number = max(2, 2 * round(POPE_SIZE * part / 2))
    return {setting: pope_questions(setting, number) for setting in pope.SETTINGS}


@lru_cache(maxsize=1)
def _asked_concepts() -> dict[str, int]:
    return {presence_question(concept, "en"): concept.index for concept in load_concepts()}
