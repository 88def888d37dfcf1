"""Logarithms of probabilities in the form of a chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opentar.language.tokenizer import TURN_END
from opentar.serve.chat_schemas import Logprobs, TokenLogprob, TopLogprob
from opentar.serve.events import Token

if TYPE_CHECKING:
    from opentar.serve.models import ServedModel

_NEVER = -9999.0
"""What OpenAI tells of a probability of zero; JSON has no infinity."""


def logprobs_of(tokens: Sequence[Token], model: ServedModel) -> Logprobs:
    """Of the tokens of an answer, in order."""
    content = []
    for one in tokens:
        if one.token is not None and one.log is not None:
            top = [_told(number, log, model) for number, log in one.likeliest]
            content.append(TokenLogprob(**_told(one.token, one.log, model).model_dump(), top_logprobs=top))
    return Logprobs(content=content)


def _told(number: int, log: float, model: ServedModel) -> TopLogprob:
    if number == model.tokenizer.special(TURN_END):
        return TopLogprob(token=TURN_END, logprob=max(log, _NEVER), bytes=None)
    text = model.tokenizer.decode([number])
    whole = "\N{REPLACEMENT CHARACTER}" not in text
    return TopLogprob(token=text, logprob=max(log, _NEVER), bytes=list(text.encode()) if whole else None)
