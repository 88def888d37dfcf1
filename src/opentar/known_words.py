"""Which words of a prompt a model has never learned: whole words in English, longest match in Chinese.

A small model draws something for any text. Naming the words it cannot know turns a puzzling picture into an
explained one.
"""

import re
import unicodedata
from collections.abc import Iterable

# Ideographs of CJK, its extension A and the compatibility block: text that is written without spaces.
_CHINESE = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_RUN = re.compile(rf"[{_CHINESE}]+|[^\W_{_CHINESE}]+(?:['’][^\W_{_CHINESE}]+)*")
_IS_CHINESE = re.compile(rf"[{_CHINESE}]")
_SYMBOLS = ("So", "Sk", "Sm", "Sc")
# Parts of one emoji that mean nothing alone: variation selectors, the joiner and skin tones.
_EMOJI_GLUE = re.compile("[\u200d\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]")


class KnownWords:
    """The words a model was trained with.

    Args:
        words: English words or phrases and Chinese words, in any mixture and case. A phrase counts word by word.
            Empty means that nothing is known about the model's words, and no word is ever called unknown.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._english: set[str] = set()
        self._chinese: set[str] = set()
        for word in words:
            for run in _RUN.findall(word.lower()):
                (self._chinese if _IS_CHINESE.match(run) else self._english).add(run)
        self._longest = max((len(word) for word in self._chinese), default=0)

    def __bool__(self) -> bool:
        return bool(self._english or self._chinese)

    def split(self, text: str) -> tuple[list[str], list[str]]:
        """Split `text` into (known, unknown) words, each in order of appearance and without repetition."""
        known: dict[str, None] = {}
        unknown: dict[str, None] = {}
        for run in _RUN.findall(unicodedata.normalize("NFC", text)):
            if _IS_CHINESE.match(run):
                for word, is_known in self._split_chinese(run):
                    (known if is_known else unknown)[word] = None
            else:
                is_known = any(form in self._english for form in _forms(run.lower()))
                (known if is_known else unknown)[run] = None
        for character in _EMOJI_GLUE.sub("", text):
            if unicodedata.category(character) in _SYMBOLS:
                unknown[character] = None
        return list(known), list(unknown)

    def _split_chinese(self, run: str) -> list[tuple[str, bool]]:
        parts: list[tuple[str, bool]] = []
        position = 0
        while position < len(run):
            length = next((n for n in range(self._longest, 0, -1) if run[position : position + n] in self._chinese), 0)
            if length:
                parts.append((run[position : position + length], True))
            elif parts and not parts[-1][1]:
                # Neighbouring unknown characters are most likely one word: report them together.
                parts[-1] = (parts[-1][0] + run[position], False)
            else:
                parts.append((run[position], False))
            position += max(length, 1)
        return parts


def has_words(text: str) -> bool:
    """True when `text` holds at least one letter, digit, ideograph or symbol such as an emoji."""
    return any(character.isalnum() or unicodedata.category(character) in _SYMBOLS for character in text)


def _forms(word: str) -> list[str]:
    """`word` and the singulars it may be a regular plural or possessive of."""
    forms = [word]
    for ending in ("'s", "’s"):
        if word.endswith(ending):
            forms.append(word[: -len(ending)])
    if len(word) > 3:
        for ending, singular in (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", "")):
            if word.endswith(ending):
                forms.append(word[: -len(ending)] + singular)
    return forms
