"""The texts of the page in each language: one table, so that nothing is left behind untranslated."""

from __future__ import annotations

from collections.abc import Mapping

LANGUAGES = {"en": "English", "zh": "中文"}
"""Code -> name in its own language; the first is the default."""

_TABLE: dict[str, tuple[str, str]] = {
    "title": ("OpenTar", "OpenTar"),
    "slogan": ("Draw pictures and talk about them, on this machine.", "画图、看图、聊图，一切都在本机。"),
    "model": ("Model", "模型"),
    "other_language": ("中文", "English"),
    # Draw
    "draw": ("Draw", "画图"),
    "prompt": ("What should be drawn?", "想画什么？"),
    "prompt_hint": ("a red apple and a blue car", "一个红色苹果和一辆蓝色汽车"),
    "draw_it": ("Draw", "开始画"),
    "stop": ("Stop", "停止"),
    "settings": ("Settings", "设置"),
    "detok": ("Painter (de-tokenizer)", "还原器"),
    "scale": ("Grid of codes", "编码网格"),
    "fine": ("fine", "精细"),
    "middle": ("middle", "中等"),
    "coarse": ("coarse", "粗略"),
    "guidance": ("Guidance (1 is none)", "引导强度（1 为无）"),
    "seed": ("Seed", "随机种子"),
    "random_seed": ("New seed each time", "每次换新种子"),
    "number": ("Pictures", "张数"),
    "picture": ("Picture", "图片"),
    "gallery": ("Drawn so far", "已画的图"),
    "gallery_seed": ("seed {seed}", "种子 {seed}"),
    "examples": ("Try one of these", "试试这些"),
    "describe_it": ("Describe it", "描述一下"),
    "again": ("Again with this seed", "用此种子再画"),
    "ask_about": ("Ask about it", "就它提问"),
    "see_codes": ("See its codes", "查看编码"),
    "queued": ("waiting for a place …", "正在排队……"),
    "spelling": ("spelling code {step} of {total}", "正在拼写第 {step}／{total} 个编码"),
    "painting": ("painting picture {number} of {total}", "正在绘制第 {number}／{total} 张"),
    "drawn": ("seed {seed}, {seconds} s", "种子 {seed}，{seconds} 秒"),
    "left_out": ("The model does not know: {words}. Left out.", "模型不认识：{words}，已略去。"),
    "stopped": ("stopped", "已停止"),
    "no_picture": ("There is no picture yet; draw one, or choose one.", "还没有图片，请先画一张或选一张。"),
    # Ask
    "ask": ("Ask", "提问"),
    "ask_picture": ("Picture to talk about", "要谈论的图片"),
    "chat": ("Conversation", "对话"),
    "chat_empty": ("Choose a picture and ask about it.", "选一张图片，然后提问。"),
    "question": ("Question", "问题"),
    "question_hint": ("Is there an apple?", "图中有苹果吗？"),
    "ask_it": ("Ask", "提问"),
    "new_chat": ("New conversation", "新对话"),
    "confidence": ("{share} % sure", "把握 {share}%"),
    # Edit
    "edit": ("Edit", "编辑"),
    "no_edit": ("{model} does not edit pictures.", "{model} 不会编辑图片。"),
    "can": ("It can:", "它可以："),
    "can_draw": ("draw pictures from words (Draw)", "按文字画图（画图）"),
    "can_read": ("answer questions about pictures (Ask)", "回答关于图片的问题（提问）"),
    "can_codes": ("change a picture code by code (Dialect)", "逐个编码修改图片（方言）"),
    "edit_later": (
        "The prompt format for editing is there; a model that learned it is not.",
        "编辑的提示格式已经具备，但还没有学过编辑的模型。",
    ),
    # Dialect
    "dialect": ("Dialect", "方言"),
    "dialect_about": (
        "For the model a picture is a grid of codes, and each code is made of a word. Choose a cell, give it another "
        "code, paint again.",
        "在模型眼中，图片是一张编码网格，每个编码都由一个词构成。点选格子，换一个编码，再画一次。",
    ),
    "no_codes": (
        "Choose a picture above, or draw one and press “See its codes”.",
        "请在上方选一张图片，或先画一张再点“查看编码”。",
    ),
    "codes": ("Codes over the picture", "图上的编码"),
    "cell": ("Row {row}, column {column}", "第 {row} 行第 {column} 列"),
    "cell_is": ("row {row}, column {column}: {name}", "第 {row} 行第 {column} 列：{name}"),
    "neighbours": ("Neighbours of this code", "相近的编码"),
    "own_code": ("… or any code", "……或任意编码"),
    "replace": ("Replace", "替换"),
    "undo": ("Undo all", "全部撤销"),
    "paint": ("Paint again", "再画一次"),
    "painted": ("Painted from the codes", "由编码画出"),
    "changed": ("{count} of {total} codes changed", "已改 {count}／{total} 个编码"),
    "choose_cell": ("Choose a cell first.", "请先点选一个格子。"),
    "compare": ("Compare with another picture", "与另一张图比较"),
    "other_picture": ("Other picture", "另一张图片"),
    "compare_them": ("Compare", "比较"),
    "differ": ("{count} of {total} cells differ", "{total} 个格子中有 {count} 个不同"),
    "first_picture": ("first picture", "第一张"),
    "second_picture": ("second picture", "第二张"),
    # Live
    "live": ("Live", "实时"),
    "live_about": (
        "Captions as the pictures come. Frames whose codes stay the same are skipped.",
        "随画面生成描述；编码没有变化的画面会被跳过。",
    ),
    "camera": ("Camera", "摄像头"),
    "film": ("Video or animation", "视频或动图"),
    "caption_it": ("Caption", "生成描述"),
    "frame": ("Frame", "画面"),
    "captions": ("Captions", "描述"),
    "no_captions": ("Nothing yet.", "暂无内容。"),
    "live_status": ("{seen} frames, {skipped} skipped", "{seen} 帧，跳过 {skipped} 帧"),
    "latency": ("{milliseconds} ms", "{milliseconds} 毫秒"),
    # The door
    "key_wanted": ("This server wants a key.", "此服务器需要密钥。"),
    "key": ("API key", "API 密钥"),
    "enter": ("Enter", "进入"),
    "key_wrong": ("The key is wrong.", "密钥不对。"),
}
_EXAMPLES = {
    "en": (
        "a red apple",
        "two yellow ducks",
        "a cat to the left of a blue car",
        "a purple dragon on a black background",
    ),
    "zh": ("一个红色苹果", "两只黄色鸭子", "一只猫在一辆蓝色汽车左边", "黑色背景上的一条紫色龙"),
}
_QUESTIONS = {
    "en": ("What is in the picture?", "What color is it?", "Is there a dog?"),
    "zh": ("图中有什么？", "它是什么颜色的？", "图中有狗吗？"),
}


class Texts:
    """The texts of one language.

    Args:
        language: one of LANGUAGES.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self._column = list(LANGUAGES).index(language)
        self.examples, self.questions = _EXAMPLES[language], _QUESTIONS[language]

    def __call__(self, name: str, /, **values: object) -> str:
        """A text with its values filled in."""
        text = _TABLE[name][self._column]
        return text.format(**values) if values else text

    @property
    def other(self) -> str:
        """The language to switch to."""
        return next(code for code in LANGUAGES if code != self.language)


def names() -> Mapping[str, tuple[str, str]]:
    """The whole table."""
    return _TABLE


def language_of(query: str | None, accepted: str) -> str:
    """The language of a reader.

    Args:
        query: what the address says, if anything.
        accepted: the Accept-Language header.
    """
    if query is not None and query.lower()[:2] in LANGUAGES:
        return query.lower()[:2]
    ranked: list[tuple[float, str]] = []
    for part in accepted.split(",")[:20]:
        name, _, weight = part.strip().partition(";q=")
        try:
            ranked.append((float(weight or 1), name.lower()[:2]))
        except ValueError:
            continue
    ranked.sort(key=lambda one: -one[0])
    return next((name for weight, name in ranked if weight > 0 and name in LANGUAGES), next(iter(LANGUAGES)))
