"""The shipped corpus of real text: names and tags of 1,949 emoji in English and Chinese, and definitions.

Text-only training keeps the language model a language model; every task here is text in, text out. Names and tags
come from emojibase (Unicode CLDR), definitions from WordNet 3.0; `build_texts` writes the file.
"""

import csv
import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from opentar.core.errors import DataError

TASKS = ("en_zh", "zh_en", "label", "tags", "define")

_EN_ZH = (
    'Translate into Chinese: {en}',
    'What is "{en}" in Chinese?',
    'How do you say "{en}" in Chinese?',
    '把“{en}”翻译成中文。',
    '“{en}”用中文怎么说？',
)  # fmt: skip
_ZH_EN = (
    'Translate into English: {zh}',
    'What does “{zh}” mean in English?',
    '把“{zh}”翻译成英文。',
    '“{zh}”用英语怎么说？',
)  # fmt: skip
_LABEL = {
    "en": ("What do these words describe: {tags}?", "Which thing fits these words: {tags}?", "Guess the name: {tags}"),
    "zh": ("这些词说的是什么：{tags}？", "根据这些词猜名称：{tags}", "什么东西符合这些词：{tags}？"),
}
_TAGS = {
    "en": ('Give words that go with "{en}".', "Tags for: {en}", 'Which words belong to "{en}"?'),
    "zh": ("说出与“{zh}”有关的词。", "给“{zh}”加标签。", "哪些词和“{zh}”有关？"),
}
_DEFINE = (
    'What does "{en}" mean?',
    'Define "{en}".',
    'Explain the word "{en}".',
    '用英文解释“{zh}”。',
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TextPair:
    """One row of the corpus."""

    kind: str
    """`emoji` (labels and tags of one emoji) or `gloss` (the definition of a name)."""
    en: str
    zh: str
    tags_en: tuple[str, ...] = ()
    tags_zh: tuple[str, ...] = ()
    gloss: str = ""
    """English definition, only in `gloss` rows."""


@cache
def load_texts() -> tuple[TextPair, ...]:
    """The whole corpus in the order of the file; read once. Raises DataError if the file is missing or damaged."""
    resource = files("opentar.nano.world") / "files" / "texts.tsv.gz"
    try:
        text = gzip.decompress(resource.read_bytes()).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"texts.tsv.gz cannot be read ({error}); reinstall opentar") from error
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return tuple(
        TextPair(
            kind=row["kind"],
            en=row["en"],
            zh=row["zh"],
            tags_en=tuple(filter(None, row["tags_en"].split("|"))),
            tags_zh=tuple(filter(None, row["tags_zh"].split("|"))),
            gloss=row["gloss"],
        )
        for row in rows
    )


def raw_strings(texts: Sequence[TextPair]) -> Iterator[str]:
    """Every label, tag and definition once per row: food for a tokenizer's training."""
    for text in texts:
        yield from (text.en, text.zh, *text.tags_en, *text.tags_zh)
        if text.gloss:
            yield text.gloss


def tasks_of(text: TextPair) -> tuple[str, ...]:
    """Which of TASKS a row can pose. A single tag is too little to guess a label from."""
    if text.kind == "gloss":
        return ("define",)
    tasks = ["en_zh", "zh_en"] if text.en != text.zh else []
    if max(len(text.tags_en), len(text.tags_zh)) >= 2:
        tasks += ["label", "tags"]
    return tuple(tasks)


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def text_task(text: TextPair, task: str, rng: np.random.Generator) -> tuple[str, str]:
    """(prompt, answer) of one task about one row, in a random wording. Raises DataError for a task it cannot pose."""
    if task not in tasks_of(text):
        allowed = ", ".join(tasks_of(text)) or "none"
        raise DataError(f"text task {task!r} does not fit {text.en!r} ({text.kind}); allowed: {allowed}")
    if task == "en_zh":
        return _pick(_EN_ZH, rng).format(en=text.en), text.zh
    if task == "zh_en":
        return _pick(_ZH_EN, rng).format(zh=text.zh), text.en
    if task == "define":
        return _pick(_DEFINE, rng).format(en=text.en, zh=text.zh), text.gloss
    langs = [lang for lang, tags in (("en", text.tags_en), ("zh", text.tags_zh)) if len(tags) >= 2]
    lang = _pick(langs, rng)
    name, tags, comma = (text.en, text.tags_en, ", ") if lang == "en" else (text.zh, text.tags_zh, "、")
    if task == "tags":
        return _pick(_TAGS[lang], rng).format(en=text.en, zh=text.zh), comma.join(tags)
    shuffled = comma.join(tags[i] for i in rng.permutation(len(tags)))
    return _pick(_LABEL[lang], rng).format(tags=shuffled), name
