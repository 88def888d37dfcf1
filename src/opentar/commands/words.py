"""What a model knows, for `opentar info --words`: its words in the groups of the nano world."""

from collections.abc import Iterable
from typing import Any

from opentar.commands.output import Output

_WIDTH = 100


def grouped(known: Iterable[str]) -> dict[str, Any]:
    """Words in groups, empty ones left out.

    Returns:
        "things" -> kind -> rows of en, plural and zh; "colours", "backgrounds", "counts" and "positions" -> rows of en
        and zh; "other" -> words that are none of them and no part of one.
    """
    from opentar.language.known_words import KnownWords
    from opentar.nano.world.captions import NUMBERS_EN, NUMBERS_ZH, RELATIONS_EN, RELATIONS_ZH
    from opentar.nano.world.concepts import load_concepts
    from opentar.nano.world.palette import BACKGROUNDS_ZH, COLOURS_ZH

    words = list(dict.fromkeys(known))
    checks, listed = KnownWords(words), set(words)
    things: dict[str, list[dict[str, str]]] = {}
    for concept in load_concepts():
        if concept.en in listed or concept.zh in listed:
            row = {"en": concept.en, "plural": concept.plural, "zh": concept.zh}
            things.setdefault(concept.group, []).append(row)
    counts = [{"en": en, "zh": NUMBERS_ZH[number]} for number, en in NUMBERS_EN.items() if number > 1]
    pairs = {
        "colours": [{"en": en, "zh": zh} for en, zh in COLOURS_ZH.items()],
        "backgrounds": [{"en": en, "zh": zh} for en, zh in BACKGROUNDS_ZH.items()],
        "counts": counts,
        "positions": [
            {"en": en, "zh": zh}
            for side, said in RELATIONS_EN.items()
            for en, zh in zip(said, RELATIONS_ZH[side], strict=True)
        ],
    }
    found: dict[str, Any] = {"things": things} if things else {}
    found |= {name: own for name, rows in pairs.items() if (own := [row for row in rows if _known(row, checks)])}
    told = [row for rows in (*things.values(), *(found.get(name, []) for name in pairs)) for row in rows]
    parts = KnownWords(text for row in told for text in row.values())
    other = [word for word in words if parts.split(word)[1]]
    return found | ({"other": other} if other else {})


def _known(row: dict[str, str], checks: Any) -> bool:
    return any(not checks.split(text)[1] for text in row.values())


def print_words(output: Output, groups: dict[str, Any]) -> None:
    """One paragraph a group, folded to the width of a page."""
    if not groups:
        output.line("the model does not list the words that it knows")
    for group, rows in groups.items():
        if group == "things":
            for kind, things in rows.items():
                _paragraph(output, kind.replace("-", ", "), map(_told, things))
        else:
            _paragraph(output, group, (_told(row) if isinstance(row, dict) else row for row in rows))


def _told(row: dict[str, str]) -> str:
    return f"{row['en']} {row['zh']}"


def _paragraph(output: Output, title: str, words: Iterable[str]) -> None:
    from rich.cells import cell_len

    texts = list(words)
    output.line(f"{title} ({len(texts)})")
    row = ""
    for text in texts:
        # Ideographs are two columns wide, so textwrap would count them wrong.
        if row and cell_len(row) + cell_len(text) + 4 > _WIDTH:
            output.line(f"  {row},")
            row = ""
        row += f", {text}" if row else text
    output.line(f"  {row}")
    output.line()
