"""How often two language models would say the same id next, given the same ids before it.

One model answers greedily; its ids are given to the other one after the other, whatever that would have said itself.
So a difference early in an answer does not make all the rest differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from opentar.core.progress import Count
from opentar.engine.request import Codes, Request

if TYPE_CHECKING:
    from opentar.engine.backends.protocol import Backend
    from opentar.engine.engine import Engine

KINDS = ("codes", "text")


@dataclass(frozen=True, kw_only=True)
class Said:
    """A greedy answer as ids."""

    kind: Literal["codes", "text"]
    """What it is made of."""
    prompt: tuple[int, ...]
    """Ids before it."""
    answer: tuple[int, ...]
    """Its ids, without the end."""


def greedy(engine: Engine, requests: Sequence[Request]) -> list[Said]:
    """What a model answers; the requests should be greedy (the default of `Sampling`). Raises as `Engine.results`."""
    found = []
    for request, done in zip(requests, engine.results(requests), strict=True):
        grammar = request.grammar
        prompt = engine.builder.prefix(request.turns, grammar.scale if isinstance(grammar, Codes) else None)
        kind: Literal["codes", "text"] = "codes" if isinstance(grammar, Codes) else "text"
        first = engine.builder.vocab.first_code if kind == "codes" else 0
        found.append(Said(kind=kind, prompt=tuple(prompt), answer=tuple(first + token for token in done.ids)))
    return found


def agreements(engine: Engine, said: Sequence[Said], *, progress: Count | None = None) -> list[float]:
    """For each answer the share of its ids that this model finds likeliest too; 1 for an empty answer.

    Codes are compared with codes only, text with text and its end. Raises ModelError where an answer does not fit.
    """
    found: list[float] = []
    for start in range(0, len(said), engine.batch):
        found += _together(engine.backend, said[start : start + engine.batch])
        if progress is not None:
            progress(len(found), len(said))
    return found


def _together(backend: Backend, said: Sequence[Said]) -> list[float]:
    vocab = backend.config.vocab
    ranges = {"codes": range(vocab.first_code, vocab.size), "text": range(vocab.text_size)}
    slots = backend.open(len(said))
    same = [0] * len(said)
    try:
        backend.extend(slots, [one.prompt for one in said])
        for place in range(max(len(one.answer) for one in said)):
            live = [number for number, one in enumerate(said) if place < len(one.answer)]
            for kind, ids in ranges.items():
                those = [number for number in live if said[number].kind == kind]
                if those:
                    likeliest = backend.logits([slots[number] for number in those], ids).argmax(-1) + ids.start
                    for number, token in zip(those, likeliest.tolist(), strict=True):
                        same[number] += token == said[number].answer[place]
            going = [number for number in live if place + 1 < len(said[number].answer)]
            if going:
                backend.extend([slots[number] for number in going], [[said[number].answer[place]] for number in going])
    finally:
        backend.close(slots)
    return [count / len(one.answer) if one.answer else 1.0 for count, one in zip(same, said, strict=True)]
