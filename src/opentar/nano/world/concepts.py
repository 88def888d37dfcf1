"""The concepts of the nano world: 301 things with their names, grammar and tags in English and Chinese.

The table `nano/concepts.tsv` is the single source. Its columns `tags_en` and `tags_zh` come from emojibase-data
(see `build_texts`); everything else was written and checked by hand. The column `also` names other concepts that a
drawing may show or be called (a gift has a bow, a poodle is a dog); they join the tags of the loaded concept.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from opentar.core.errors import DataError

COLUMNS = (
    "hex", "en", "plural", "zh", "measure", "group", "subgroup", "countable", "number", "own_colour",
    "also", "tags_en", "tags_zh",
)  # fmt: skip
NUMBERS = ("count", "mass", "plural")


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One thing that the nano world can draw and name."""

    index: int
    """Position in the table, 0..300: the class number of every probe."""
    hex: str
    """Code point as in the split's hash keys, for example 1F34E."""
    en: str
    """English singular (for pluralia tantum the only form)."""
    plural: str
    """English plural; equal to `en` for mass nouns and pluralia tantum."""
    zh: str
    """Chinese name."""
    measure: str
    """Chinese measure word that counts it: 一只猴子."""
    group: str
    subgroup: str
    """Unicode subgroup: neighbours in it are the adversarial 'no' questions."""
    countable: bool
    """False where counting would be wrong or ambiguous: mass nouns, pluralia tantum, drawings of several pieces."""
    mass: bool
    """True where English takes no 'a': mass nouns ("bread") and pluralia tantum ("jeans")."""
    plural_only: bool
    """True where the English verb is plural even for one drawing ("jeans are")."""
    own_colour: str | None
    """Basic colour word that the name itself carries in either language (pepper is 红辣椒): never recoloured."""
    tags_en: tuple[str, ...]
    tags_zh: tuple[str, ...]
    """Related words; a 'no' question never asks about one of a present object."""


def _split(cell: str) -> tuple[str, ...]:
    return tuple(filter(None, cell.split("|")))


def _parse(index: int, row: dict[str, str], chinese: dict[str, str]) -> Concept:
    if row["number"] not in NUMBERS:
        raise DataError(f"concepts.tsv: number of {row['en']!r} is {row['number']!r}; allowed: {', '.join(NUMBERS)}")
    also = _split(row["also"])
    unknown = [name for name in also if name not in chinese]
    if unknown:
        raise DataError(f"concepts.tsv: {row['en']!r} refers to {', '.join(unknown)}, which are not concepts")
    return Concept(
        index=index,
        hex=row["hex"],
        en=row["en"],
        plural=row["plural"],
        zh=row["zh"],
        measure=row["measure"],
        group=row["group"],
        subgroup=row["subgroup"],
        countable=row["countable"] == "1",
        mass=row["number"] != "count",
        plural_only=row["number"] == "plural",
        own_colour=row["own_colour"] or None,
        tags_en=tuple(dict.fromkeys((*_split(row["tags_en"]), *also))),
        tags_zh=tuple(dict.fromkeys((*_split(row["tags_zh"]), *(chinese[name] for name in also)))),
    )


@cache
def load_concepts() -> tuple[Concept, ...]:
    """All concepts in the order of the table; read once. Raises DataError if the table is damaged."""
    text = (files("opentar.nano.world") / "files" / "concepts.tsv").read_text(encoding="utf-8")
    reader = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        wanted = ", ".join(COLUMNS)
        raise DataError(f"concepts.tsv has columns {reader.fieldnames}; expected {wanted}; reinstall opentar")
    rows = list(reader)
    chinese = {row["en"]: row["zh"] for row in rows}
    return tuple(_parse(index, row, chinese) for index, row in enumerate(rows))
