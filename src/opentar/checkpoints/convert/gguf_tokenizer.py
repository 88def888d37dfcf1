"""A text tokenizer in the keys of GGUF, where llama.cpp's own rules give the same ids."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from opentar.checkpoints.convert.qwen2 import image_tokens
from opentar.language.prompt import PromptBuilder
from opentar.language.tokenizer import SPLIT

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Types of tokens. Control tokens are matched where a program asks for them, user-defined ones in every text."""


@dataclass(frozen=True, kw_only=True)
class GgufTokenizer:
    """What stands in the file: one entry for each row of the table."""

    tokens: list[str]
    types: list[int]
    merges: list[str]


def gguf_tokenizer(builder: PromptBuilder, rows: int) -> GgufTokenizer | str:
    """The tokenizer for `rows` rows, or why llama.cpp has no rules for it.

    Boundaries of pictures are control tokens as the chat form's are; scales and codes are user-defined, so that
    programs show them in an answer.
    """
    data = json.loads(builder.tokenizer.to_json())
    if reason := _foreign(data):
        return reason
    vocab = {int(number): piece for piece, number in data["model"]["vocab"].items()}
    tokens = [vocab.get(number, f"[PAD{number}]") for number in range(rows)]
    types = [NORMAL if number in vocab else UNUSED for number in range(rows)]
    for entry in (*data["added_tokens"], *image_tokens(builder)):
        number, name = int(entry["id"]), str(entry["content"])
        tokens[number] = name
        types[number] = CONTROL if entry["special"] else USER_DEFINED
        if name.startswith("<|unused_"):
            types[number] = UNUSED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]
    if len(set(tokens)) < rows:
        return "two of its tokens have one name"
    return GgufTokenizer(tokens=tokens, types=types, merges=merges)


def _foreign(data: dict[str, Any]) -> str:
    """What is not as in Qwen2's tokenizer; empty where nothing is. (llama.cpp composes no letters: NFC is left out.)"""
    model = data["model"]
    for key in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            return f"it has a {key}"
    for key in ("byte_fallback", "ignore_merges", "fuse_unk"):
        if model.get(key):
            return f"it sets {key}"
    normalizer = data.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":
        return f"its normalizer is {normalizer.get('type')}"
    splitter = data.get("pre_tokenizer") or {}
    steps = splitter.get("pretokenizers", [])
    kinds = [step.get("type") for step in steps]
    if kinds != ["Split", "ByteLevel"] or steps[0].get("pattern", {}).get("Regex") != SPLIT:
        return "it does not split text as Qwen2 does"
    if steps[0].get("behavior") != "Isolated" or steps[0].get("invert"):
        return "it does not split text as Qwen2 does"
    return "" if not steps[1].get("add_prefix_space") else "it adds a space in front"
