"""Scores as a Markdown table, a JSON file and sheets of pictures with their verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from opentar.core.errors import OutputError, shown
from opentar.core.picture_files import save_picture
from opentar.nano.compare import comparison_lines
from opentar.nano.judge.judge import Verdict

_CELL, _TEXT_LINES, _LINE = 132, 4, 11
_GOOD, _BAD = (24, 140, 60), (200, 40, 40)
BLIND_NUMBER = 40
"""Pictures of the sheet that a person names without knowing the prompts."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One judged drawing."""

    id: str
    tag: str
    prompt: str
    picture: Image.Image
    verdict: Verdict


def flatten(scores: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping under dotted keys: {"pope": {"random": {"f1": 1}}} becomes {"pope.random.f1": 1}."""
    flat: dict[str, Any] = {}
    for key, value in scores.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def markdown(scores: Mapping[str, Any]) -> str:
    """The report as Markdown: drawing and reading with the judge beside them, the links, and how it was measured."""
    meta, counts = scores["meta"], scores["meta"]["counts"]
    lines = [
        f"# {meta['model']} on held-out combinations",
        "",
        f"Checkpoint `{meta['checkpoint']}`, de-tokenizer {meta['detokenizer']}, scale {meta['scale']}, "
        f"seed {meta['seed']}, {meta['samples']} drawing(s) a prompt, {meta['seconds']:.0f} s. "
        f"Judge: {meta['judge']}.",
        "",
        "## Drawing (GenEval-like)",
        "",
        "Score = accepted drawings / accepted ground-truth pictures, as shares.",
        "",
        "| kind | score | drawings accepted | first choice | on its background | ground truth accepted |",
        "|---|---|---|---|---|---|",
    ]
    for tag, score in scores["geneval"].items():
        if tag in counts:
            one = counts[tag]
            lines.append(
                f"| {tag} | {score:.3f} | {one['drawn']} of {one['drawn_of']} | {one['drawn_top1']} | "
                f"{one['drawn_background']} | {one['truth']} of {one['truth_of']} |"
            )
        else:
            lines.append(f"| **{tag}** | **{score:.3f}** | | | | {scores['judge']['geneval'][tag]:.3f} |")
    lines += [
        "",
        f"True pictures accepted for another prompt of their kind: {scores['judge']['counterpart']:.3f}.",
        "",
        f"EffNet-KID to the true pictures: {meta['effnet_kid']:.4f}.",
        "",
        "## Reading (POPE-like)",
        "",
        f"Answers parsed as the {meta['parser']} script does.",
        "",
        "| questions | accuracy | precision | recall | F1 | says yes | judge's accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting, one in scores["pope"].items():
        row = " | ".join(f"{one[key]:.3f}" for key in ("accuracy", "precision", "recall", "f1", "yes_ratio"))
        lines.append(f"| {setting} | {row} | {scores['judge']['pope'][setting]['accuracy']:.3f} |")
    for name, title in (("wording", "Wordings that were never trained"), ("honest", "What is not there")):
        values = flatten(scores.get(name, {}))
        lines += ["", f"## {title}", "", "| score | value |", "|---|---|"]
        lines += [f"| {key} | {value:.3f} |" for key, value in values.items()]
    for link, values in meta.get("links", {}).items():
        lines += ["", f"## Link: {link}", "", "| score | value |", "|---|---|"]
        lines += [f"| {name} | {value:.3f} |" for name, value in values.items()]
    if "against" in scores:
        lines += comparison_lines(scores["against"])
    return "\n".join(lines) + "\n"


def sheet(drawings: Sequence[Drawing], columns: int = 10, verdicts: bool = True) -> Image.Image:
    """A sheet of drawings, framed green where accepted and red where not, with prompt and what the judge saw.

    `verdicts` False shows numbered pictures only, for naming them blind.
    """
    text_lines = _TEXT_LINES if verdicts else 1
    height = _CELL + text_lines * _LINE + 6
    rows = max(1, -(-len(drawings) // columns))
    canvas = Image.new("RGB", (columns * (_CELL + 8), rows * height), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=9)
    for place, drawing in enumerate(drawings):
        x, y = place % columns * (_CELL + 8) + 4, place // columns * height + 2
        canvas.paste(drawing.picture.convert("RGB").resize((128, 128)), (x + 2, y + 2))
        if not verdicts:
            pen.text((x + 2, y + _CELL), str(place + 1), fill="black", font=font)
            continue
        colour = _GOOD if drawing.verdict.accepted else _BAD
        pen.rectangle([x, y, x + _CELL - 1, y + _CELL - 1], outline=colour, width=2)
        failed = ", ".join(drawing.verdict.failed()) or "accepted"
        said = [*_wrapped(drawing.prompt, 2), f"saw {drawing.verdict.number}: {drawing.verdict.words()}"[:29], failed]
        for line, text in enumerate(said):
            fill = colour if line == len(said) - 1 else "black"
            pen.text((x + 2, y + _CELL + line * _LINE), text, fill=fill, font=font)
    return canvas


def _wrapped(text: str, lines: int, width: int = 29) -> list[str]:
    parts = [""]
    for word in text.split():
        if len(parts[-1]) + len(word) + 1 > width and parts[-1]:
            parts.append(word)
        else:
            parts[-1] = f"{parts[-1]} {word}".strip()
    return (parts + [""] * lines)[:lines]


def check_folder(folder: Path) -> Path:
    """The folder itself, made when missing. Raises OutputError when it holds something or cannot be made."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise OutputError(f"{shown(folder)} exists and is not an empty folder; choose another name for the report")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{shown(folder)} cannot be made ({error.strerror}); choose another folder") from error
    return folder


def write_report(folder: Path, scores: Mapping[str, Any], drawings: Sequence[Drawing], seed: int = 0) -> None:
    """Write scores.json, report.md, sheet.png (twenty drawings a tag), blind.png and blind_key.json into `folder`.

    Raises OutputError when it is not empty or cannot be written.
    """
    check_folder(folder)
    _write(folder / "scores.json", json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    _write(folder / "report.md", markdown(scores))
    by_tag: dict[str, list[Drawing]] = {}
    for drawing in drawings:
        by_tag.setdefault(drawing.tag, []).append(drawing)
    save_picture(sheet([one for own in by_tag.values() for one in own[:20]]), folder / "sheet.png")
    singles = by_tag.get("single_object", [])
    chosen = np.random.default_rng([seed, 40]).permutation(len(singles))[:BLIND_NUMBER]
    save_picture(sheet([singles[place] for place in chosen], 8, verdicts=False), folder / "blind.png")
    key = {str(number): singles[place].prompt for number, place in enumerate(chosen, start=1)}
    _write(folder / "blind_key.json", json.dumps(key, indent=1) + "\n")


def write_drawings(folder: Path, drawings: Sequence[Drawing], lines: Mapping[str, Mapping[str, Any]]) -> None:
    """Write drawings in GenEval's layout, NNNNN/samples/0000.png beside NNNNN/metadata.jsonl.

    `lines` holds the metadata line of each prompt id, in the order of the numbers. Raises OutputError where the disk
    refuses.
    """
    for number, identity in enumerate(lines):
        place = folder / f"{number:05d}" / "samples"
        try:
            place.mkdir(parents=True)
        except OSError as error:
            raise OutputError(f"{shown(place)} cannot be made ({error.strerror}); choose another folder") from error
        _write(place.parent / "metadata.jsonl", json.dumps(lines[identity], ensure_ascii=False) + "\n")
        own = [drawing for drawing in drawings if drawing.id == identity]
        for sample, drawing in enumerate(own):
            info = {str(key): str(value) for key, value in drawing.picture.info.items()}
            save_picture(drawing.picture, place / f"{sample:04d}.png", info)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{shown(path)} cannot be written ({error.strerror}); choose another folder") from error
