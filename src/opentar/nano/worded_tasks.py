"""The conversations of the next training: drawing and reading in the words of people (`wording/`).

The captions and questions of `tasks.py` stay in the mixture: benchmarks are written in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from opentar.data.task import Task
from opentar.language.known_words import KnownWords
from opentar.language.prompt import Turn
from opentar.nano.bundle import template
from opentar.nano.corpus import SceneCorpus
from opentar.nano.tasks import DrawTask, InLanguages, JointSettings, ReadTask, TextTasks, encoded_scene, in_languages
from opentar.nano.wording.asking import KINDS, question_templates
from opentar.nano.wording.noise import FILLERS, NoiseSettings
from opentar.nano.wording.strangers import descriptions, places, things
from opentar.nano.wording.talks import about_drawn, about_shown, heard_prompt, questions_of_talk
from opentar.nano.wording.templates import templates
from opentar.nano.wording.wordings import SLOT


@dataclass(frozen=True, kw_only=True)
class WordedSettings(JointSettings):
    """Joint training in the words of people."""

    worded: float = 0.6
    """Share of drawings that are asked for by a worded prompt, with noise; captions ask for the rest."""
    talked: float = 0.5
    """Share of reading samples that are talks with honest answers; the rest asks as before."""
    after_drawing: float = 0.1
    """Share of worded drawings that go on with questions about what was drawn."""
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    """What happens to worded prompts."""


@dataclass(frozen=True, kw_only=True)
class WordedDrawTask:
    """A worded prompt -> codes, now and then with questions about the drawing after it."""

    corpus: SceneCorpus
    settings: WordedSettings
    lang: str

    def sample(self, rng: np.random.Generator) -> Sequence[Turn]:
        """One drawing."""
        own = self.settings
        if rng.random() >= own.worded:
            return DrawTask(corpus=self.corpus, settings=own, lang=self.lang).sample(rng)
        codes, spec = encoded_scene(self.corpus, own.draw_scales, rng)
        prompt = heard_prompt(spec, self.lang, rng, own.noise, template().spellings)
        goes_on = rng.random() < own.after_drawing
        # Guidance draws without a text; nobody asks about such a drawing.
        prompt = "" if not goes_on and rng.random() < own.unconditional else prompt
        asked = questions_of_talk(spec, self.lang, rng, own.answers) if goes_on else []
        return about_drawn(prompt, codes, asked)


@dataclass(frozen=True, kw_only=True)
class TalkTask:
    """Codes -> several turns with honest answers, or the questions of `ReadTask`."""

    corpora: Sequence[SceneCorpus]
    settings: WordedSettings
    lang: str

    def sample(self, rng: np.random.Generator) -> Sequence[Turn]:
        """One conversation about a picture."""
        own = self.settings
        if rng.random() >= own.talked:
            return ReadTask(corpora=self.corpora, settings=own, lang=self.lang).sample(rng)
        corpus = self.corpora[int(rng.choice(len(self.corpora), p=own.read_corpora))]
        codes, spec = encoded_scene(corpus, own.read_scales, rng)
        asked: list = []
        while not asked:
            asked = questions_of_talk(spec, self.lang, rng, own.answers)
        return about_shown(codes, asked)


def worded_task(settings: WordedSettings, corpora: Sequence[SceneCorpus], texts: TextTasks) -> InLanguages:
    """Drawing from the first corpus, reading from all, and text, as often as the recipe says."""

    def tasks(lang: str) -> tuple[Task, Task]:
        drawing = WordedDrawTask(corpus=corpora[0], settings=settings, lang=lang)
        return drawing, TalkTask(corpora=corpora, settings=settings, lang=lang)

    return in_languages(settings, texts, tasks)


def template_texts() -> list[str]:
    """The words of all trained templates and answers, without their slots and without unknown things."""
    found = [one.text for lang in ("en", "zh") for one in templates(lang)]
    found += [text for lang in ("en", "zh") for kind in KINDS for text in question_templates(kind, lang)]
    found += [part for filler in FILLERS for part in filler if part]
    return [SLOT.sub(" ", text) for text in found]


def worded_words(known: Sequence[str]) -> tuple[str, ...]:
    """`known` words and those of the trained templates; descriptions, places and things of `strangers` stay unknown."""
    told = KnownWords(known)
    english: set[str] = set()
    chinese: set[str] = set()
    for text in template_texts():
        for run in told.split(text)[1]:
            (english if run.isascii() else chinese).add(run)
    words = {word.lower() for word in english if word.isalpha()} | {sign for run in chinese for sign in run}
    return tuple(sorted({*known, *words}))


def stranger_texts() -> list[str]:
    """Descriptions, places and things of training, for a tokenizer that shall know their pieces."""
    return [text for lang in ("en", "zh") for words in (descriptions, places, things) for text in words(lang)]
