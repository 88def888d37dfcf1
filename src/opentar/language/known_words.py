"""Which words of a prompt a model has never learned: whole words in English, longest match in Chinese.

A small model draws something for any text. Naming the words it cannot know turns a puzzling picture into an
explained one.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable

# Ideographs of CJK, its extension A and the compatibility block: text that is written without spaces.
_CHINESE = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_RUN = re.compile(rf"[{_CHINESE}]+|[^\W_{_CHINESE}]+(?:['’][^\W_{_CHINESE}]+)*")
_IS_CHINESE = re.compile(rf"[{_CHINESE}]")
# Unknown words that were taken out leave \0. The article and the "and" before them go too, unless a noun follows, and
# so do signs and small words that then stand at an end or in a row.
_SMALL = "above|against|an?|and|at|below|in|is|of|on|over|the|to|under|with"
_NOUNLESS = re.compile(
    rf"(?:(?:\b(?:and|with)|,) )?\b(?:an?|the) (?:\0 ?)+(?=$|[,.;:!?]|(?:{_SMALL})\b)", re.IGNORECASE
)
_IN_A_ROW = re.compile(r"\s*([,;:，、；：])(?:\s*[,;:，、；：])+|\s+([,;:.?!])")
_AT_START = re.compile(r"^(?:[\s,;:，、；：]|(?:and|of|with)\b|[和的])+", re.IGNORECASE)
_AT_END = re.compile(rf"(?:[\s,;:，、；：]|\b(?:{_SMALL})\b)+(?=[.?!。？！]*$)", re.IGNORECASE)
_SYMBOLS = ("So", "Sk", "Sm", "Sc")
# Parts of one emoji that mean nothing alone: variation selectors, the joiner and skin tones.
_EMOJI_GLUE = re.compile("[\u200d\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]")
_COLOUR_SIGN = "色"
_MOST_NAMED = 10
_ALIKE = 0.8
"""Share of letters in common, as difflib counts it, from which a known word is worth asking about."""
_SHORTEST = 4
"""Letters of an English word that is compared at all: "man" is no "many", and "five" no "fire"."""


class KnownWords:
    """The words a model was trained with.

    Args:
        words: English words or phrases and Chinese words, in any mixture and case. A phrase counts word by word.
            Empty means that nothing is known about the model's words, and no word is ever called unknown.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._english: set[str] = set()
        self._chinese: set[str] = set()
        self._entries = tuple(dict.fromkeys(words))
        for word in self._entries:
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
                (known if self._is_known(run) else unknown)[run] = None
        for character in _EMOJI_GLUE.sub("", text):
            if unicodedata.category(character) in _SYMBOLS:
                unknown[character] = None
        return list(known), list(unknown)

    def known_part(self, text: str) -> str:
        """`text` without its unknown words and symbols; as it is where nothing would be left.

        "a photo of a dog and a zebra, 4k" gives "a dog". A known colour is written in full: 红苹果 gives 红色苹果.
        """
        if not self:
            return text

        def known_run(match: re.Match[str]) -> str:
            run = match[0]
            if _IS_CHINESE.match(run):
                return "".join(word if is_known else "\0" for word, is_known in self._split_chinese(run))
            return run if self._is_known(run) else "\0"

        marked = _RUN.sub(known_run, _EMOJI_GLUE.sub("", unicodedata.normalize("NFC", text)))
        marked = "".join("\0" if unicodedata.category(sign) in _SYMBOLS else sign for sign in marked)
        if "\0" not in marked:
            # Chinese may have changed; signs and small words stand as they were written.
            return marked
        left = " ".join(_NOUNLESS.sub("", marked).replace("\0", "").split())
        left = _IN_A_ROW.sub(lambda match: match[1] or match[2], left)
        left = _AT_START.sub("", _AT_END.sub("", left))
        return left if has_words(left) else text

    def _is_known(self, word: str) -> bool:
        return any(form in self._english for form in _forms(word.lower()))

    def like(self, word: str) -> str | None:
        """The known word or phrase that `word` is a part of or is written like, also in its singular; None if none is.

        "plane" gives "airplane", "elefants" gives "elephants".
        """
        near = {entry.lower(): entry for entry in reversed(self._entries)}
        if _IS_CHINESE.match(word):
            longer = [entry for entry in near if word in entry] if len(word) > 1 else []
            found = longer or difflib.get_close_matches(word, near, 1, _ALIKE)
            return near[min(found, key=len)] if found else None
        for form in dict.fromkeys(_forms(word.lower())):
            if len(form) >= _SHORTEST:
                longer = [entry for entry in near if entry.endswith(form)]
                found = longer or difflib.get_close_matches(form, near, 1, _ALIKE)
                if found:
                    return near[min(found, key=len)]
        return None

    def remark(self, text: str) -> str | None:
        """The unknown words of `text` as a warning names them, each with the known one it may stand for; or None."""
        known, unknown = self.split(text)
        if not unknown or not self:
            return None
        named = [(word, self.like(word)) for word in unknown[:_MOST_NAMED]]
        listed = ", ".join(f"{word!r}" + (f" (did you mean {like!r}?)" if like else "") for word, like in named)
        listed += ", ..." if len(unknown) > _MOST_NAMED else ""
        return listed if known else f"{listed} (no word of this text is known to it)"

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
        return [self._with_colour_sign(word, is_known) for word, is_known in parts]

    def _with_colour_sign(self, word: str, is_known: bool) -> tuple[str, bool]:
        """A colour that is said without 色, as most say it before a noun, is the known word with it."""
        whole = word + _COLOUR_SIGN
        return (whole, True) if not is_known and whole in self._chinese else (word, is_known)


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
