"""Builds the shipped text corpus `files/texts.tsv.gz` and the tag columns of `files/concepts.tsv`.

    python -m opentar.nano.world.build_texts --packages FOLDER --wordnet /usr/share/wordnet [--fetch]

FOLDER holds the tarball of emojibase-data (see `build_sprites`); the WordNet 3.0 files come from Debian's package
wordnet-base. Formats: emojibase's `<lang>/data.json`, and `index.noun` and `data.noun` of wndb(5WN).
"""

import argparse
import csv
import gzip
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opentar.core.errors import DataError
from opentar.nano.world.build_sprites import EMOJIBASE, bare_hex, read_members, tarball
from opentar.nano.world.concepts import COLUMNS, Concept, load_concepts

WordNet = tuple[dict[str, list[str]], dict[str, tuple[str, str]]]
"""Lemma -> synset offsets in the order of use; offset -> (lexicographer file, gloss)."""

TEXT_COLUMNS = ("kind", "en", "zh", "tags_en", "tags_zh", "gloss")

# Which of WordNet's lexicographer files (lexnames(5WN)) may define a name of a group, best first: without this an
# octopus is a dish, a mouse a shy person and a date a day.
LEXFILES: Mapping[str, tuple[str, ...]] = {
    "animals-nature": ("05", "20", "13", "06"),
    "food-drink": ("13", "20", "06"),
    "travel-places": ("06", "17", "15"),
    "activities": ("06", "21", "10"),
    "objects": ("06", "21", "10", "27", "13"),
}
# What WordNet calls a concept that it knows by another name.
LEMMAS: Mapping[str, str] = {
    "grapes": "grape", "cherries": "cherry", "peanuts": "peanut", "pancakes": "pancake", "pepper": "hot pepper",
    "wine glass": "wineglass", "railway track": "railroad track", "fuel pump": "gasoline pump",
    "kick scooter": "scooter", "football": "soccer ball", "jack-o-lantern": "jack-o'-lantern", "skis": "ski",
    "bullseye": "bull's eye", "game die": "die", "military medal": "medal", "jeans": "jean",
    "graduation cap": "mortarboard", "headphones": "headphone", "electric plug": "plug", "pick": "pickax",
    "chains": "chain", "musical keyboard": "piano keyboard", "video camera": "camcorder",
    "shopping bags": "shopping bag",
}  # fmt: skip
# WordNet's sense number (from 1) where the first sense in the allowed files is another thing.
SENSES: Mapping[str, int] = {
    "unicorn": 1, "dragon": 1, "dolphin": 2, "spider web": 2, "cake": 3, "spaghetti": 2, "bank": 9, "castle": 2,
    "post office": 1, "traffic light": 1, "kick scooter": 2, "balloon": 2, "gift": 1, "jack-o-lantern": 2,
    "bullseye": 2, "joystick": 2, "crown": 4, "ring": 8, "helmet": 2, "graduation cap": 2, "purse": 3,
    "television": 3, "label": 4, "hammer": 2, "pill": 2, "toilet": 2, "electric plug": 5, "shield": 2,
}  # fmt: skip


def emoji_entries(folder: Path, fetch: bool = False) -> list[dict[str, Any]]:
    """Every emoji with its English and Chinese label and tags and the name of its group, in Unicode's order."""
    wanted = ("en/data.json", "zh/data.json", "meta/groups.json")
    files = {name: json.loads(data) for name, data in read_members(tarball(folder, *EMOJIBASE, fetch), wanted).items()}
    groups = files["meta/groups.json"]["groups"]
    chinese = {entry["hexcode"]: entry for entry in files["zh/data.json"]}
    entries = []
    for entry in files["en/data.json"]:
        other = chinese[entry["hexcode"]]
        entries.append(
            {
                "hex": bare_hex(entry["hexcode"]),
                "group": groups.get(str(entry.get("group")), ""),
                "en": entry["label"].replace("’", "'"),
                "zh": other["label"],
                "tags_en": [tag.replace("’", "'") for tag in entry.get("tags", ())],
                "tags_zh": list(other.get("tags", ())),
            }
        )
    return entries


def read_wordnet(folder: Path) -> WordNet:
    """Nouns of WordNet; lemmas are in lower case with underscores.

    Examples, which follow the gloss in quotation marks, are cut off. Raises DataError if the files are not there.
    """
    if not (folder / "data.noun").is_file():
        raise DataError(f"no data.noun in {folder}; install Debian's wordnet-base or pass --wordnet FOLDER")
    senses: dict[str, list[str]] = {}
    glosses: dict[str, tuple[str, str]] = {}
    for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):  # the licence at the top is indented
            fields = line.split()
            senses[fields[0]] = fields[-int(fields[2]) :]
    for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            offset, lexfile = line.split(" ", 2)[:2]
            glosses[offset] = (lexfile, re.split('[;:] "', line.split(" | ", 1)[1])[0].strip(' "'))
    return senses, glosses


def gloss_of(name: str, group: str, wordnet: WordNet) -> str:
    """Definition of a name in the sense that fits its emoji group; empty if WordNet has none."""
    senses, glosses = wordnet
    offsets = senses.get(LEMMAS.get(name, name).lower().replace(" ", "_"), [])
    if name in SENSES:
        return glosses[offsets[SENSES[name] - 1]][1]
    allowed = LEXFILES.get(group, ())
    fitting = [glosses[offset] for offset in offsets if glosses[offset][0] in allowed]
    # min keeps WordNet's order, the most used sense first, among equals
    return min(fitting, key=lambda entry: allowed.index(entry[0]))[1] if fitting else ""


def text_rows(entries: list[dict[str, Any]], wordnet: WordNet) -> list[dict[str, str]]:
    """Rows of the corpus: `emoji` rows (labels and tags) and `gloss` rows (definitions)."""
    corrected = {concept.hex: concept for concept in load_concepts()}
    rows, defined = [], set()
    for entry in entries:
        concept = corrected.get(entry["hex"])
        # our own names outrank emojibase's where a human corrected them
        en, zh = (concept.en, concept.zh) if concept else (entry["en"], entry["zh"])
        tags = {lang: "|".join(tag for tag in entry[lang] if tag not in (en, zh)) for lang in ("tags_en", "tags_zh")}
        rows.append({"kind": "emoji", "en": en, "zh": zh, **tags, "gloss": ""})
        gloss = gloss_of(en, entry["group"], wordnet)
        if gloss and en not in defined:
            defined.add(en)
            rows.append({"kind": "gloss", "en": en, "zh": zh, "tags_en": "", "tags_zh": "", "gloss": gloss})
    return rows


def write_texts(rows: list[dict[str, str]], path: Path) -> None:
    """Write the corpus as gzipped TSV; equal rows give equal bytes (no time stamp, no file name)."""
    text = io.StringIO()
    style: dict[str, Any] = {"delimiter": "\t", "lineterminator": "\n", "quoting": csv.QUOTE_NONE, "quotechar": None}
    writer = csv.DictWriter(text, TEXT_COLUMNS, **style)
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(gzip.compress(text.getvalue().encode("utf-8"), 9, mtime=0))


def concept_tags(
    concept: Concept, entry: Mapping[str, Any], by_name: Mapping[str, Concept]
) -> tuple[list[str], list[str]]:
    """Tags of one concept: emojibase's, its original labels, and in Chinese also the names of tagged concepts."""
    parts = [part for part in concept.en.split() if part in by_name]  # a musical keyboard is a keyboard
    english = dict.fromkeys((*entry["tags_en"], entry["en"], *parts))
    named = [by_name[tag].zh for tag in english if tag in by_name]
    chinese = dict.fromkeys((*entry["tags_zh"], entry["zh"], *named))
    english.pop(concept.en, None)
    chinese.pop(concept.zh, None)
    return list(english), list(chinese)


def write_concept_tags(entries: list[dict[str, Any]], path: Path) -> None:
    """Rewrite the tag columns of concepts.tsv in place; every other column stays."""
    by_hex = {entry["hex"]: entry for entry in entries}
    by_name = {concept.en: concept for concept in load_concepts()}
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    at_en, at_zh = COLUMNS.index("tags_en"), COLUMNS.index("tags_zh")
    for line, concept in zip(lines[1:], load_concepts(), strict=True):
        english, chinese = concept_tags(concept, by_hex[concept.hex], by_name)
        line[at_en], line[at_zh] = "|".join(english), "|".join(chinese)
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Command line of the builder."""
    parser = argparse.ArgumentParser(description="Build the shipped text corpus and the tags of the concepts.")
    parser.add_argument("--packages", type=Path, required=True, help="folder with the emojibase-data tarball")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder with data.noun")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "files", help="where the files go")
    parser.add_argument("--fetch", action="store_true", help="run npm pack if the tarball is missing")
    args = parser.parse_args()
    entries = emoji_entries(args.packages, args.fetch)
    rows = text_rows(entries, read_wordnet(args.wordnet))
    write_texts(rows, args.out / "texts.tsv.gz")
    write_concept_tags(entries, args.out / "concepts.tsv")
    kinds = [row["kind"] for row in rows]
    print(f"{kinds.count('emoji')} emoji, {kinds.count('gloss')} glosses")


if __name__ == "__main__":
    main()
