"""Both languages have every text, with the same values to fill in."""

import re
import string

import pytest

from opentar.page.texts import LANGUAGES, Texts, language_of, names


def _fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_have_every_text() -> None:
    for name, (english, chinese) in names().items():
        assert english and chinese, name
        assert _fields(english) == _fields(chinese), name
        if name not in ("title", "other_language", "model"):
            assert re.search(r"[\u4e00-\u9fff]", chinese), name
            assert not re.search(r"[\u4e00-\u9fff]", english), name
    assert len(Texts("en").examples) == len(Texts("zh").examples)
    assert Texts("en").other == "zh" and Texts("zh")("seed") == "随机种子"


def test_no_text_is_left_over(root) -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (root / "src" / "opentar" / "page").rglob("*.py"))
    used = set(
        re.findall(r'["\x27](\w+)["\x27]', source.replace((root / "src/opentar/page/texts.py").read_text("utf-8"), ""))
    )
    assert set(names()) - used == set()


@pytest.mark.parametrize(
    ("query", "accepted", "found"),
    [
        ("zh", "en", "zh"),
        ("ZH-cn", "", "zh"),
        ("fr", "zh", "zh"),
        (None, "de,zh-TW;q=0.8,en;q=0.5", "zh"),
        (None, "zh;q=0.2,en;q=0.9", "en"),
        (None, "zh;q=0,*", "en"),
        (None, "zh;q=x", "en"),
        (None, "", "en"),
    ],
)
def test_the_language_of_a_reader(query: str | None, accepted: str, found: str) -> None:
    assert language_of(query, accepted) == found
    assert found in LANGUAGES
