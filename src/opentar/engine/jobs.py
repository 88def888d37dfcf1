"""A request that was admitted, as ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from opentar.core.errors import ConfigError, PromptError
from opentar.engine.backends.protocol import Backend, PlacingBackend
from opentar.engine.request import Choice, Codes, Request, unprompted
from opentar.language.prompt import PromptBuilder
from opentar.tokens_to_image.passes import ONE

if TYPE_CHECKING:
    from opentar.language.model import LanguageConfig


class Job(NamedTuple):
    """A request that was admitted."""

    ticket: int
    request: Request
    prefix: list[int]
    """Ids of the conversation, the assistant's turn opened."""
    other: list[int] | None = None
    """The same without the prompt, where the drawing is guided."""
    choices: tuple[list[int], ...] = ()
    """Ids of each choice, the end of the turn included."""


def job_of(ticket: int, request: Request, builder: PromptBuilder, config: LanguageConfig) -> Job:
    """The ids of a request. Raises PromptError where they do not fit the model."""
    grammar = request.grammar
    if isinstance(grammar, Codes):
        prefix, other = builder.prefix(request.turns, grammar.scale), None
        if request.sampling.guidance != 1:
            other = builder.prefix(unprompted(request.turns), grammar.scale)
        return Job(ticket, request, prefix, other)
    prefix = builder.prefix(request.turns)
    if len(prefix) >= config.max_length:
        raise PromptError(f"the prompt fills all {config.max_length} positions; shorten it")
    if not isinstance(grammar, Choice):
        return Job(ticket, request, prefix)
    choices = tuple([*builder.answer(text), config.end] for text in grammar.texts)
    longest = len(prefix) + max(map(len, choices))
    if longest > builder.limit:
        raise PromptError(f"prompt and choices need {longest} tokens, the model has {builder.limit}; shorten them")
    return Job(ticket, request, prefix, choices=choices)


def check_passes(request: Request, backend: Backend) -> None:
    """Raise ConfigError for several codes a pass on a backend that cannot put ids at positions."""
    grammar = request.grammar
    if isinstance(grammar, Codes) and grammar.passes != ONE and not isinstance(backend, PlacingBackend):
        raise ConfigError(
            f"the engine {backend.name} draws one code a pass; leave code_passes out, or use torch or llamacpp"
        )


def picture_end(prefix: list[int], config: LanguageConfig) -> int:
    """Where the last picture of a prompt ends: what stands before is worth keeping for other questions; 0 for none."""
    codes = range(config.vocab.first_code, config.vocab.size)
    return next((place + 1 for place in range(len(prefix) - 1, -1, -1) if prefix[place] in codes), 0)
