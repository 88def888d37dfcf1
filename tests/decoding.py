"""The engine on ids that a test made itself: what `Engine` does behind its requests, without turns and builders."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from opentar.engine.backends.torch_backend import TorchBackend
from opentar.engine.engine import Engine
from opentar.engine.events import Done, Failed
from opentar.engine.jobs import Job
from opentar.engine.request import Codes, Grammar, Request, Sampling, Text
from opentar.language.model import TarLanguageModel
from opentar.vocab import Scale

Prompts = Sequence[Sequence[int]]


def _run(model: TarLanguageModel, jobs: list[Job]) -> list[list[int]]:
    engine, ended = Engine(TorchBackend(model), builder=None), dict[int, list[int]]()  # type: ignore[arg-type]
    for job in jobs:
        engine.add(job)
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Done):
                ended[event.ticket] = list(event.ids)
    return [ended[job.ticket] for job in jobs]


def next_logits(model: TarLanguageModel, prompt: Sequence[int]) -> torch.Tensor:
    """Logits (1, rows of the table) of the id that follows a prompt."""
    backend = TorchBackend(model)
    slots = backend.open(1)
    backend.extend(slots, [prompt])
    return backend.logits(slots, range(model.config.table_rows))


def _jobs(prompts: Prompts, grammar: Grammar, sampling: Sampling, seeds: Sequence[int], others: Prompts) -> list[Job]:
    others = list(others) * len(prompts) if len(others) == 1 else others
    return [
        Job(
            place,
            Request(turns=(), grammar=grammar, sampling=sampling, seed=seeds[place]),
            list(prompt),
            list(others[place]) if others else None,
        )
        for place, prompt in enumerate(prompts)
    ]


def draw_codes(
    model: TarLanguageModel,
    prompts: Prompts,
    scale: Scale,
    seeds: Sequence[int],
    *,
    guidance: float | None = None,
    unconditional: Prompts = (),
    temperature: float = 1.0,
    **sampling: float,
) -> torch.Tensor:
    """Codes (B, N) int64 of drawings after these ids."""
    settings = Sampling(temperature=temperature, guidance=guidance or 1.0, **sampling)  # type: ignore[arg-type]
    guided = unconditional if settings.guidance != 1 else ()
    return torch.tensor(_run(model, _jobs(prompts, Codes(scale=scale), settings, seeds, guided)))


def generate_text(model: TarLanguageModel, prompts: Prompts, max_new_tokens: int = 128) -> list[list[int]]:
    """The likeliest ids of text after these ids."""
    grammar = Text(max_new_tokens=max_new_tokens)
    return _run(model, _jobs(prompts, grammar, Sampling(), [0] * len(prompts), ()))


def code_ids(model: TarLanguageModel) -> range:
    """The ids of codes."""
    return range(model.vocab.first_code, model.vocab.size)
