"""Ways to ask for a picture, in families; whole templates are held out of training and scored on their own.

`{one}` is the scene as a caption says it ("a red car", "two cats", 一只猫), `{bare}` a single thing without article or
number ("red car"), `{many}` several without a number ("red cars"), `{thing}` a thing that nano does not know; `{zh}`
and `{en}` are `{one}` in that language, for prompts that mix both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from opentar.nano.world.captions import check_language

FAMILIES = ("bare", "plural", "command", "polite", "filler", "description", "place", "stranger", "mixed")

_TRAIN: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "bare": ("{bare}", "one {bare}", "the {bare}", "{bare} picture", "{bare} emoji"),
        "plural": ("{many}", "some {many}", "several {many}", "a few {many}", "draw {many}"),
        "command": (
            "draw {one}", "draw me {one}", "paint {one}", "show me {one}", "make {one}", "create an image of {one}",
            "draw a picture of {one}", "draw {bare}", "paint a picture with {one}",
        ),
        "polite": (
            "please draw {one}", "please draw me {one}!", "can you draw {one}?", "could you paint {one} for me?",
            "I would like {one}", "draw {one}, please", "I want a picture of {one}",
        ),
        "filler": (
            "well, {one}", "hmm, draw {one}", "ok, {one}", "hello, draw {one}", "just {one}", "{one}, thanks",
            "a photo of {one}", "a nice picture of {one}", "so, {one} please",
        ),
        "description": ("{described}", "draw {described}", "please draw me {described}!", "a picture of {described}"),
        "place": ("{one} {place}", "draw {one} {place}", "a photo of {one} {place}"),
        "stranger": ("{one} and {thing}", "{thing} and {one}", "{one} with {thing}", "draw {one} and {thing}"),
        "mixed": ("draw {zh}", "please draw {zh}", "a picture of {zh}", "{bare_zh} please"),
    },
    "zh": {
        "bare": ("{bare}", "{bare}图片", "{bare}的图"),
        "plural": ("几{measure}{bare}", "画几{measure}{bare}", "一些{bare}"),
        "command": ("画{one}", "画出{one}", "给我画{one}", "画{bare}", "来{one}"),
        "polite": ("请画{one}", "请帮我画{one}", "能不能画{one}？", "我想要{one}", "请画{one}，谢谢"),
        "filler": ("嗯，{one}", "那就画{one}吧", "你好，画{one}", "只要{one}", "一张{one}的照片"),
        "description": ("{described}", "画{described}", "请画{described}"),
        "place": ("{place}{one}", "画{place}{one}"),
        "stranger": ("{one}和{thing}", "画{thing}和{one}"),
        "mixed": ("画{en}", "请画{en}", "画一个{bare_en}"),
    },
}  # fmt: skip
_HELD_OUT: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "bare": ("my {bare}", "{bare} drawing"),
        "plural": ("many {many}", "please draw {many}"),
        "command": ("sketch {one}", "let me see {one}", "give me a picture of {one}"),
        "polite": ("would you draw {one} for me, please?", "I would love to see {one}", "may I have {one}?"),
        "filler": ("hey there, draw {one} now", "um, maybe {one}", "{one} and nothing else"),
        "description": ("show me {described}", "{described}, please"),
        "place": ("paint {one} {place}", "a picture of {one} {place}"),
        "stranger": ("show me {one} beside {thing}", "{one}, {thing}"),
        "mixed": ("show me {zh}", "can you draw {zh}?"),
    },
    "zh": {
        "bare": ("这个{bare}", "{bare}的画"),
        "plural": ("请画几{measure}{bare}",),
        "command": ("帮忙画{one}", "生成{one}"),
        "polite": ("麻烦你画{one}", "可以画{one}吗？"),
        "filler": ("随便画{one}就好", "哈喽，我要{one}"),
        "description": ("给我画{described}",),
        "place": ("请画{place}{one}",),
        "stranger": ("请画{one}和{thing}",),
        "mixed": ("给我画{en}", "来一个{bare_en}"),
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """One way to ask."""

    lang: str
    family: str
    text: str
    held_out: bool


@cache
def templates(lang: str, *, held_out: bool = False) -> tuple[Template, ...]:
    """The templates of a language, those of training or those held out of it. Raises DataError for another language."""
    own = (_HELD_OUT if held_out else _TRAIN)[check_language(lang)]
    return tuple(
        Template(lang=lang, family=family, text=text, held_out=held_out) for family in FAMILIES for text in own[family]
    )
