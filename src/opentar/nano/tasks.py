"""What nano's language model learns: text to text, drawing, and reading, as tasks that give conversations.

Text to text: emoji names, tags and their translations, dictionary glosses, captions with their paraphrases and
translations, and questions about a scene that a caption tells. Drawing and reading come from corpora of codes. A
reading sample is a short conversation about one picture, so that its codes are paid for once and several answers are
learned from them; yes and no stand in equal number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from opentar.data.task import Mixture, Task
from opentar.language.model import LanguageConfig
from opentar.language.prompt import Drawn, Shown, Turn
from opentar.nano.corpus import SceneCorpus
from opentar.nano.stages.pictures import ScenePictures
from opentar.nano.world.captions import caption, plain
from opentar.nano.world.questions import QA, describe, one_of_each_kind, presence_questions, questions
from opentar.nano.world.spec import SceneSpec
from opentar.nano.world.texts import TextPair, load_texts, tasks_of, text_task
from opentar.train.stage import LoopSettings

CHINESE = 0.25
"""Share of conversations about told scenes that are Chinese; the rest is English."""
ANSWERS = 4
"""Most questions about one told scene."""


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """The recipe of text pre-training."""

    loop: LoopSettings
    model: LanguageConfig
    caption_share: float = 0.4
    """Share of samples that say a caption in other words or another language."""
    question_share: float = 0.35
    """Share of conversations about a scene that a caption tells; the rest of all come from the text corpus."""
    held_out: float = 0.03
    """Share of the corpus' entries that is never trained on and is scored."""

    @property
    def text_weight(self) -> float:
        """Text is all there is."""
        return 1.0

    @property
    def by_answer(self) -> bool:
        """A short answer counts as much as a long one."""
        return True


@dataclass(frozen=True, kw_only=True)
class JointSettings:
    """The recipe of joint training."""

    loop: LoopSettings
    model: LanguageConfig
    task_shares: tuple[float, float, float] = (0.55, 0.4, 0.05)
    """Share of samples that draw, read, and turn text into text."""
    draw_scales: tuple[float, ...] = (0.03, 0.17, 0.8)
    """How often a drawing is encoded at each scale index: 16 codes hold a tidy picture and cost a ninth of 144."""
    read_scales: tuple[float, ...] = (0.02, 0.58, 0.4)
    """How often a picture is read at each scale index."""
    shown_scale: int = 2
    """Scale index of the drawings that are scored."""
    chinese: float = 0.25
    """Share of samples in Chinese; the rest is English."""
    unconditional: float = 0.08
    """Share of drawings that learn without their text, for guidance."""
    answers: int = 5
    """Questions about one picture in a row."""
    presence: int = 2
    """How many of them, at most, ask whether something is there."""
    described: float = 0.6
    """How many conversations hold a description, half of them before the questions, half after."""
    read_corpora: tuple[float, ...] = (0.2, 0.15, 0.65)
    """Share of reading samples from each corpus."""
    text_weight: float = 0.5
    """Weight of the mean text loss beside the mean code loss."""
    by_answer: bool = True
    """Take the mean text loss over answers, not over ids: "yes" then counts as much as a long description."""


class TextTasks:
    """Text -> text: the corpus' tasks, captions rephrased or translated, and questions about what they tell.

    Who has learned to find a name of the question in a caption has less to learn where codes tell the scene.
    """

    def __init__(self, settings: TextSettings) -> None:
        texts = [text for text in load_texts() if tasks_of(text)]
        order = np.random.default_rng(13).permutation(len(texts))
        count = max(1, round(settings.held_out * len(texts)))
        self.kept_back = [texts[index] for index in order[:count]]
        self.texts = [texts[index] for index in order[count:]]
        self.caption_share, self.question_share = settings.caption_share, settings.question_share
        self.source = ScenePictures()

    def sample(self, rng: np.random.Generator) -> list[Turn]:
        """One conversation."""
        if rng.random() >= self.question_share:
            return exchange(*self.pair(rng))
        lang = "zh" if rng.random() < CHINESE else "en"
        told, asked = told_questions(self.source.generator.sample(rng), lang, rng)
        return conversation(told, asked)

    def pair(self, rng: np.random.Generator) -> tuple[str, str]:
        """One (prompt, answer) that is no question about a scene."""
        if rng.random() * (1 - self.question_share) >= self.caption_share:
            return any_task(self.texts[int(rng.integers(len(self.texts)))], rng)
        spec, background = self.source.generator.sample(rng), bool(rng.random() < 0.6)
        match int(rng.integers(3)):
            case 0:
                return "Translate into Chinese: " + plain(spec, "en", background), plain(spec, "zh", background)
            case 1:
                return "翻译成英文：" + plain(spec, "zh", background), plain(spec, "en", background)
            case _:
                said = caption(spec, "en", rng, background=background)
                return "Say it in other words: " + said, plain(spec, "en", background)


@dataclass(frozen=True, kw_only=True)
class DrawTask:
    """Caption -> codes, at a scale by lot, now and then without the caption, for guidance."""

    corpus: SceneCorpus
    settings: JointSettings
    lang: str

    def sample(self, rng: np.random.Generator) -> list[Turn]:
        """One drawing."""
        codes, spec = encoded_scene(self.corpus, self.settings.draw_scales, rng)
        unsaid = rng.random() < self.settings.unconditional
        # Tidy pictures have the first object on the left: said in that order, a sentence has one picture.
        text = "" if unsaid else caption(spec, self.lang, rng, ordered=True)
        return [Turn("user", (text,)), Turn("assistant", (Drawn(codes),))]


@dataclass(frozen=True, kw_only=True)
class ReadTask:
    """Codes -> a few questions with their answers, and sometimes a description."""

    corpora: Sequence[SceneCorpus]
    settings: JointSettings
    lang: str

    def sample(self, rng: np.random.Generator) -> list[Turn]:
        """One conversation about a picture."""
        corpus = self.corpora[int(rng.choice(len(self.corpora), p=self.settings.read_corpora))]
        codes, spec = encoded_scene(corpus, self.settings.read_scales, rng)
        return conversation(Shown(codes), asked_about(spec, self.lang, rng, self.settings))


@dataclass(frozen=True, kw_only=True)
class InLanguages:
    """A task in English or Chinese, by lot."""

    chinese: float
    """Share of samples in Chinese."""
    tasks: Mapping[str, Task]
    """"en" and "zh"."""

    def sample(self, rng: np.random.Generator) -> Sequence[Turn]:
        """One conversation in one of the languages."""
        return self.tasks["zh" if rng.random() < self.chinese else "en"].sample(rng)


def joint_task(settings: JointSettings, corpora: Sequence[SceneCorpus], texts: TextTasks) -> InLanguages:
    """Drawing from the first corpus, reading from all, and text, as often as the recipe says."""

    def tasks(lang: str) -> tuple[Task, Task]:
        drawing = DrawTask(corpus=corpora[0], settings=settings, lang=lang)
        return drawing, ReadTask(corpora=corpora, settings=settings, lang=lang)

    return in_languages(settings, texts, tasks)


def in_languages(settings: JointSettings, texts: TextTasks, tasks: Callable[[str], tuple[Task, Task]]) -> InLanguages:
    """Drawing and reading, which `tasks` gives for a language, and text, in the shares of the recipe."""
    mixed = {lang: Mixture((*tasks(lang), texts), settings.task_shares) for lang in ("en", "zh")}
    return InLanguages(chinese=settings.chinese, tasks=mixed)


def encoded_scene(
    corpus: SceneCorpus, scales: Sequence[float], rng: np.random.Generator
) -> tuple[list[int], SceneSpec]:
    """The codes of a scene at a scale by lot, and the scene."""
    scale = int(rng.choice(len(scales), p=scales))
    index = int(rng.integers(len(corpus)))
    return corpus.codes[scale][index].tolist(), corpus.specs[index]


def asked_about(spec: SceneSpec, lang: str, rng: np.random.Generator, settings: JointSettings) -> list[QA]:
    """A few questions by lot, but for presence of different kinds; a description comes first or last."""
    asked = [qa for qa in questions(spec, lang, rng) if qa.kind != "presence"]
    by_kind = one_of_each_kind(asked, rng)
    described = bool(rng.random() < settings.described)
    chosen = presence_questions(spec, lang, rng, settings.presence)
    room = max(0, settings.answers - len(chosen) - described)
    chosen += [by_kind[place] for place in rng.permutation(len(by_kind))[:room]]
    chosen = [chosen[place] for place in rng.permutation(len(chosen))]
    if described:
        chosen.insert(0 if rng.random() < 0.5 else len(chosen), describe(spec, lang, rng))
    return chosen


def exchange(text: str, answer: str) -> list[Turn]:
    """One text and its answer."""
    return [Turn("user", (text,)), Turn("assistant", (answer,))]


def told_questions(spec: SceneSpec, lang: str, rng: np.random.Generator) -> tuple[str, list[QA]]:
    """A caption, and questions about the scene that it answers, each kind but presence at most once."""
    background = bool(rng.random() < 0.6)
    told = caption(spec, lang, rng, background=background)
    unsaid = {"presence", *([] if background else ["background"]), *([] if spec.kind == "position" else ["position"])}
    asked = [qa for qa in questions(spec, lang, rng) if qa.kind not in unsaid]
    by_kind = one_of_each_kind(asked, rng)
    chosen = [*presence_questions(spec, lang, rng, 2), *by_kind]
    return told, [chosen[place] for place in rng.permutation(len(chosen))[:ANSWERS]]


def conversation(shown: str | Shown, asked: Sequence[QA]) -> list[Turn]:
    """A caption or a picture and several questions about it; it stands before the first question only."""
    turns = []
    for place, qa in enumerate(asked):
        parts = (shown, "\n" + qa.question) if place == 0 else (qa.question,)
        turns += [Turn("user", parts), Turn("assistant", (qa.answer,))]
    return turns


def any_task(text: TextPair, rng: np.random.Generator) -> tuple[str, str]:
    """One of the tasks that a row of the corpus can pose."""
    tasks = tasks_of(text)
    return text_task(text, tasks[int(rng.integers(len(tasks)))], rng)
