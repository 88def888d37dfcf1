"""Many questions to one model at once: the same steps as `Tar.ask`, in batches, each picture spelled once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

from opentar.core.errors import DataError
from opentar.core.progress import Count

if TYPE_CHECKING:
    from opentar.pipeline import Tar

_BATCH = 32


@torch.no_grad()
def spell_all(tar: Tar, pictures: Sequence[Image.Image], scale: int) -> torch.Tensor:
    """Codes (pictures, N) int64 of PIL pictures at a scale."""
    from opentar.image_to_tokens.preprocess import to_pixels

    side, grid = tar.parts.ta_tok.config.vision.image_size, tar.parts.vocab.scale(scale)
    codes = []
    for start in range(0, len(pictures), _BATCH):
        block = pictures[start : start + _BATCH]
        pixels = torch.stack([to_pixels(picture, side, fit=tar.parts.config.fit) for picture in block])
        codes.append(tar.parts.ta_tok.encode(pixels.to(tar.parts.device), grid).cpu())
    return torch.cat(codes)


@torch.no_grad()
def ask_all(
    tar: Tar,
    pictures: Sequence[Image.Image],
    questions: Sequence[tuple[int, str]],
    *,
    max_new_tokens: int | None = None,
    progress: Count | None = None,
) -> list[str]:
    """Answer (picture number, question) pairs; each answer is the one `Tar.ask` gives.

    Raises DataError for a picture number that is not there, PromptError for a question that cannot be asked.
    """
    from opentar.language.generate import generate_text

    for number, question in questions:
        if not 0 <= number < len(pictures):
            raise DataError(f"question {question!r} asks about picture {number}; there are {len(pictures)}, from 0")
    if not questions:
        return []
    defaults = tar.parts.config.defaults.read
    length = defaults.max_new_tokens if max_new_tokens is None else max_new_tokens
    codes = spell_all(tar, pictures, defaults.scale).tolist()
    model, builder = tar.parts.language
    answers: list[str] = []
    for start in range(0, len(questions), _BATCH):
        block = questions[start : start + _BATCH]
        prompts = [builder.read([codes[number]], question) for number, question in block]
        answers += [builder.tokenizer.decode(ids).strip() for ids in generate_text(model, prompts, length)]
        if progress is not None:
            progress(len(answers), len(questions))
    return answers
