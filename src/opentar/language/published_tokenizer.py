"""The tokenizer of a published language-model folder: its file, older kinds too, and the ids of its new tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from opentar.core.errors import WeightsError
from opentar.language.tokenizer import FILE, SPLIT
from opentar.vocab import POOLS

SLOW_FILES = ("vocab.json", "merges.txt", "added_tokens.json")
"""The same tokenizer as older libraries save it."""


def tokenizer_json(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """The folder's tokenizer.json, made of the older files where only those are there, and its added tokens.

    Raises WeightsError where a file is missing or damaged.
    """
    path = folder / FILE
    if path.is_file() or not all((folder / name).is_file() for name in SLOW_FILES):
        data = read_json(path)
    else:
        data = _from_slow_files(folder)
        path = folder / SLOW_FILES[2]
    added = data.get("added_tokens", [])
    for entry in added if isinstance(added, list) else [None]:
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str) or type(entry.get("id")) is not int:
            raise WeightsError(f"{path}: added tokens are not a list of names and ids; get the file again")
    return json.dumps(data), added


def _from_slow_files(folder: Path) -> dict[str, Any]:
    """Qwen2's tokenizer.json from vocab.json, merges.txt and added_tokens.json."""
    try:
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{folder / 'merges.txt'} cannot be read: {error}") from error
    merges = [line for line in lines if line.strip() and not line.startswith("#version")]
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    added = read_json(folder / "added_tokens.json")
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": name, **flags, "normalized": False, "special": name.startswith(("<|", "<im_"))}
            for name, number in added.items()
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_]},
        "post_processor": None,
        "decoder": bytes_,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": read_json(folder / "vocab.json"),
            "merges": merges,
        },
    }


def new_tokens(added: list[dict[str, Any]], folder: Path) -> tuple[int, int]:
    """(id of <im_start>, number of codes), after checking that boundaries, scales and codes stand in one run.

    Raises WeightsError where they do not.
    """
    path = folder / FILE
    ids = {entry["content"]: entry["id"] for entry in added}
    if "<im_start>" not in ids:
        raise WeightsError(f"{path} has no <im_start>; this folder was not extended with image codes")
    start = int(ids["<im_start>"])
    codes = sum(1 for name in ids if name.startswith("<I") and name[2:-1].isdigit())
    expected = [
        "<im_start>",
        "<im_end>",
        *(f"<S{pool - 1}>" for pool in POOLS),
        *(f"<I{code}>" for code in range(codes)),
    ]
    for place, name in enumerate(expected):
        if ids.get(name) != start + place:
            raise WeightsError(f"{path}: {name} has id {ids.get(name)}; in the published order it is {start + place}")
    return start, codes


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds. Raises WeightsError where it is missing, damaged or holds something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is missing or damaged: {error}") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{path} is damaged: it must hold a JSON object")
    return data
