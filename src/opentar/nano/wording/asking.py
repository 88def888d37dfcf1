"""Ways to ask about a picture, by kind; whole templates are held out of training and scored on their own.

`{one}` is the thing with its article, `{the}` with "the", `{any}` as English asks for an unknown number; `{be}` and
`{Be}` follow the first, `{they_be}` follows the second; `{name}` is its Chinese name and `{measure}` its measure word.
"""

from __future__ import annotations

import numpy as np

from opentar.core.errors import DataError
from opentar.nano.wording.grammar import one
from opentar.nano.world.captions import check_language, noun_en
from opentar.nano.world.concepts import Concept

KINDS = ("presence", "count", "colour", "where", "background", "describe")

_TRAIN: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "presence": (
            "{Be} there {one} in the picture?", "{Be} there {one}?", "Do you see {one}?", "Can you see {any}?",
            "{Be} {one} in the picture?", "Does the picture show {one}?", "Any {many}?",
        ),
        "count": ("How many {many} are there?", "How many {many}?", "Count the {many}.", "How many {many} do you see?"),
        "colour": ("What color {they_be} {the}?", "Which color {they_be} {the}?", "What color do you see on {the}?"),
        "where": ("Where {they_be} {the}?", "Where do you see {the}?", "In which part of the picture {they_be} {the}?"),
        "background": ("What color is the background?", "What is the background?", "Which color is behind it?"),
        "describe": (
            "What is in the picture?", "Describe the picture.", "What does this picture show?", "What is this?",
            "What do you see?",
        ),
    },
    "zh": {
        "presence": ("图中是否有{name}？", "图中有{name}吗？", "有{name}吗？", "有没有{name}？"),
        "count": ("图中有几{measure}{name}？", "有几{measure}{name}？", "有多少{name}？", "{name}有几{measure}？"),
        "colour": ("{name}是什么颜色的？", "{name}是什么颜色？", "图中的{name}是什么颜色的？"),
        "where": ("{name}在哪里？", "{name}在图中的哪里？", "{name}在什么位置？"),
        "background": ("背景是什么颜色的？", "背景是什么颜色？"),
        "describe": ("图中有什么？", "描述这幅图。", "这幅图画的是什么？", "这是什么？"),
    },
}  # fmt: skip
_HELD_OUT: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "presence": ("Did you find {one} here?", "Would you say there {be} {one}?"),
        "count": ("What is the number of {many}?", "How many {many} can be seen in it?"),
        "colour": ("Tell me the color of {the}.",),
        "where": ("Tell me where {the} {they_be}.",),
        "background": ("Tell me the color of the background.",),
        "describe": ("Tell me what you see.", "What is shown here?"),
    },
    "zh": {
        "presence": ("能看到{name}吗？", "里面有没有{name}？"),
        "count": ("{name}的数量是多少？", "数一数有几{measure}{name}。"),
        "colour": ("说说{name}的颜色。",),
        "where": ("请问{name}在哪儿？",),
        "background": ("请问背景颜色是什么？",),
        "describe": ("你看到了什么？",),
    },
}  # fmt: skip


def question_templates(kind: str, lang: str, *, held_out: bool = False) -> tuple[str, ...]:
    """The templates of one kind of question, those of training or those held out of it. DataError for another kind."""
    own = (_HELD_OUT if held_out else _TRAIN)[check_language(lang)]
    if kind not in own:
        raise DataError(f"unknown kind of question {kind!r}: choose one of {', '.join(KINDS)}")
    return own[kind]


def asked(
    kind: str,
    lang: str,
    rng: np.random.Generator,
    concept: Concept | None = None,
    *,
    several: bool = False,
    held_out: bool = False,
) -> str:
    """A question of one kind, about a concept where its templates name one; pure function of `rng`.

    `several` says "the apples are" for "the apple is", where there is more than one or the asker thinks so.
    """
    own = question_templates(kind, lang, held_out=held_out)
    text = own[int(rng.integers(len(own)))]
    return text.format(**({} if concept is None else phrases(concept, lang, several)))


def asked_stranger(name: str, lang: str, rng: np.random.Generator, *, held_out: bool = False) -> str:
    """Whether a thing that is no concept is there; `name` in the singular, without article."""
    own = question_templates("presence", lang, held_out=held_out)
    article = "an" if lang == "en" and name[0] in "aeiou" else "a"
    values = {
        "one": f"{article} {name}", "any": f"any {name}s", "many": f"{name}s", "be": "is", "Be": "Is", "name": name,
    }  # fmt: skip
    return own[int(rng.integers(len(own)))].format(**values)


def phrases(concept: Concept, lang: str, several: bool = False) -> dict[str, str]:
    """What the templates may say of a concept."""
    if lang == "zh":
        return {"name": concept.zh, "measure": concept.measure}
    # "Is there an apple" is asked about any number; only a definite thing is one or several.
    be = "are" if concept.plural_only else "is"
    return {
        "one": one(concept, "en"),
        "any": f"any {concept.plural}",
        "many": concept.plural,
        "the": noun_en(concept, number=2 if several else 1, definite=True),
        "they_be": "are" if several else be,
        "be": be,
        "Be": be.capitalize(),
    }
