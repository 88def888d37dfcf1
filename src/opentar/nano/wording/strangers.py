"""Words that nano never learns to draw: descriptions, places and things, one list to train with and one held out.

Beside them a prompt keeps its known part. They never become known words, so a warning goes on naming them.
"""

from __future__ import annotations

from opentar.nano.world.captions import check_language

Word = tuple[str, str]
"""In English and Chinese."""

_DESCRIPTIONS: dict[bool, tuple[Word, ...]] = {
    False: (
        ("cute", "可爱的"), ("beautiful", "美丽的"), ("big", "大"), ("small", "小"), ("old", "旧的"),
        ("shiny", "闪亮的"), ("happy", "快乐的"), ("funny", "有趣的"), ("ugly", "丑的"), ("huge", "巨大的"),
        ("fluffy", "毛茸茸的"),
        ("wooden", "木头的"), ("modern", "现代的"), ("lovely", "好看的"),
    ),
    True: (
        ("tiny", "很小的"), ("pretty", "漂亮的"), ("ancient", "古老的"), ("adorable", "萌萌的"),
        ("realistic", "逼真的"), ("elegant", "优雅的"), ("sleepy", "困倦的"),
    ),
}  # fmt: skip
_PLACES: dict[bool, tuple[Word, ...]] = {
    False: (
        ("on the street", "街上的"), ("in the park", "公园里的"), ("in the kitchen", "厨房里的"),
        ("at night", "夜里的"), ("in the rain", "雨中的"), ("on the beach", "海滩上的"),
        ("in the garden", "花园里的"), ("at home", "家里的"),
        ("in the forest", "森林里的"), ("on the grass", "草地上的"),
    ),
    True: (
        ("in the snow", "雪中的"), ("at the airport", "机场里的"), ("in the city", "城市里的"),
        ("by the river", "河边的"), ("on the roof", "屋顶上的"),
    ),
}  # fmt: skip
_THINGS: dict[bool, tuple[Word, ...]] = {
    False: (
        ("zebra", "斑马"), ("umbrella", "雨伞"), ("sofa", "沙发"), ("robot", "机器人"), ("onion", "洋葱"),
        ("kangaroo", "袋鼠"), ("chair", "椅子"), ("mermaid", "美人鱼"), ("snowman", "雪人"), ("volcano", "火山"),
        ("kite", "风筝"), ("astronaut", "宇航员"), ("scarf", "围巾"), ("peacock", "孔雀"), ("hedgehog", "刺猬"),
    ),
    True: (
        ("giraffe", "长颈鹿"), ("pirate", "海盗"), ("table", "桌子"), ("ladder", "梯子"), ("stapler", "订书机"),
        ("flamingo", "火烈鸟"), ("ghost", "幽灵"),
    ),
}  # fmt: skip


def _said(words: tuple[Word, ...], lang: str) -> tuple[str, ...]:
    place = ("en", "zh").index(check_language(lang))
    return tuple(word[place] for word in words)


def descriptions(lang: str, *, held_out: bool = False) -> tuple[str, ...]:
    """Words that stand before a noun and say nothing that nano could draw; Chinese ones with 的 where it is said."""
    return _said(_DESCRIPTIONS[held_out], lang)


def places(lang: str, *, held_out: bool = False) -> tuple[str, ...]:
    """Where things are said to be: "on the street" after a noun, 街上的 before one."""
    return _said(_PLACES[held_out], lang)


def things(lang: str, *, held_out: bool = False) -> tuple[str, ...]:
    """Countable things that are none of the concepts, in the singular without article."""
    return _said(_THINGS[held_out], lang)
