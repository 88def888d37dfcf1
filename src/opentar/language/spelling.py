"""User text in the letters of the training texts: capitals, spaces, hyphens and signs that look alike become one form.

A small model trained on "three red apples" hears other pieces in "Three Red Apples", in text with non-breaking spaces
or with full-width letters, and draws noise. A model that was trained on one form only says so in its `ChatTemplate`
(`fold`), and every prompt and question is brought into that form before it is encoded. Text that has the form already
is returned as it is.
"""

import re
import unicodedata
from collections.abc import Mapping

_CHINESE = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_IS_CHINESE = re.compile(f"[{_CHINESE}]")
_WORD = re.compile(rf"[^\W\d_{_CHINESE}]+(?:[-'][^\W\d_{_CHINESE}]+)*")
_SENTENCE = re.compile(r"(?:^|(?<=[.?!] ))\w")
_GAP = re.compile(rf"(?<=[{_CHINESE}，。、？：；！]) (?=[{_CHINESE}])|(?<=[{_CHINESE}]) (?=[，。、？：；！])")
# Hyphens and dashes of one letter's width, soft hyphens and other marks without width, single quotation marks.
_SIGNS = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-")
    | dict.fromkeys("\u00ad\u200b\u2060\ufeff", "")
    | dict.fromkeys("\u2018\u2019\u02bc\uff07", "'")
)
_WIDE = str.maketrans({code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code - 0xFEE0).isalnum()})
_LATIN_MARKS, _CHINESE_MARKS = ",?:;!", "，？：；！"
_TO_LATIN = str.maketrans(_CHINESE_MARKS + "。", _LATIN_MARKS + ".")
_TO_CHINESE = str.maketrans(_LATIN_MARKS, _CHINESE_MARKS)


def fold(text: str, spellings: Mapping[str, str], *, sentence: bool) -> str:
    """`text` in one form: composed characters, single spaces, small letters, half-width letters and digits.

    Hyphens between words become spaces, and commas, colons and the marks at ends are those of the language: full-width
    in a text with Chinese, else not.

    Args:
        text: any text without half characters.
        spellings: words in small letters -> how they are written instead, as t-shirt -> T-shirt.
        sentence: begin with a capital in any case; without it only texts do that end as a sentence does.
    """
    plain = unicodedata.normalize("NFC", text).translate(_SIGNS).translate(_WIDE)
    plain = " ".join(plain.split())
    plain = _WORD.sub(lambda match: _word(match[0], spellings), plain)
    if _IS_CHINESE.search(plain):
        plain = _GAP.sub("", plain.translate(_TO_CHINESE))
        plain = plain[:-1] + "。" if plain.endswith(".") else plain
        for word, written in spellings.items():
            if _IS_CHINESE.search(word):
                plain = plain.replace(word, written)
        return plain
    plain = plain.translate(_TO_LATIN)
    if sentence or plain.endswith((".", "?", "!")):
        plain = _SENTENCE.sub(lambda match: match[0].upper(), plain)
    return plain


def _word(word: str, spellings: Mapping[str, str]) -> str:
    small = word.lower()
    if small in spellings or "-" not in small:
        return spellings.get(small, small)
    return " ".join(spellings.get(part, part) for part in small.split("-"))
