"""A request is data: a conversation, what the answer is made of, how it is sampled, and a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from opentar.core.errors import ConfigError, PromptError
from opentar.language.prompt import Turn
from opentar.nn.sampling import check_sampling
from opentar.tokens_to_image.passes import ONE, Passes
from opentar.vocab import Scale

KEEP = 0.01
"""How likely a code of a draft has to be beside the likeliest; docs/lab.md says how others fared."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an id is chosen. Raises ConfigError for values out of range."""

    temperature: float = 0.0
    """0 takes the likeliest."""
    top_k: int = 0
    """Keep this many of the likeliest; 0 keeps all."""
    top_p: float = 1.0
    """Keep the likeliest up to this probability; 1 keeps all."""
    guidance: float = 1.0
    """Classifier-free guidance of a drawing, at least 1; 1 is none."""

    def __post_init__(self) -> None:
        check_sampling(self.temperature, self.top_k, self.top_p)
        if not 1 <= self.guidance < float("inf"):
            raise ConfigError(f"guidance is {self.guidance}; give 1 (none) or more")


@dataclass(frozen=True, kw_only=True)
class Codes:
    """The answer is a picture: exactly `scale.length` codes, complete by construction.

    Raises ConfigError for a draft of another length, or `keep` out of range.
    """

    scale: Scale
    """The grid."""
    passes: Passes = ONE
    """How many of its codes a pass of the language model draws; its guesses stand in one line, and all are guided."""
    draft: tuple[int, ...] = ()
    """Codes to start from, one for each place of the grid: those that are likely enough stay, others are drawn. Empty:
    all are drawn."""
    keep: float = KEEP
    """A code of the draft stays where it is at least so many times as likely as the likeliest, 0 (all stay) to 1."""

    def __post_init__(self) -> None:
        if self.passes.guided != 1 or (self.passes.guesses and self.passes.lead):
            raise ConfigError(
                f"the language model draws with guesses or with a lead, and guides all codes; {self.passes} is neither"
            )
        if self.draft and len(self.draft) != self.scale.length:
            raise ConfigError(
                f"the draft has {len(self.draft)} codes and the grid {self.scale.length}; encode it at this scale"
            )
        if not 0 <= self.keep <= 1:
            raise ConfigError(f"keep is {self.keep}; give a number from 0 (the whole draft stays) to 1")


@dataclass(frozen=True, kw_only=True)
class Text:
    """The answer is text: text ids up to the end of the turn. Raises PromptError for less than one id."""

    max_new_tokens: int = 128
    """Most ids of it."""
    logs: int | None = None
    """Tell the logarithm of the probability of each id, and those of this many likeliest ones; None tells none."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise PromptError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if self.logs is not None and self.logs < 0:
            raise PromptError(f"logs is {self.logs}; give None or 0 or more")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The answer is one of a few texts: how likely each is, as a whole. Raises PromptError for none."""

    texts: tuple[str, ...]
    """What may be answered."""

    def __post_init__(self) -> None:
        if not self.texts:
            raise PromptError("no choice was given; give at least one answer")


Grammar = Codes | Text | Choice
"""What an answer is made of."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One thing to do."""

    turns: Sequence[Turn]
    """The conversation so far; its last turn is the user's."""
    grammar: Grammar
    """What the answer is made of."""
    sampling: Sampling = field(default_factory=Sampling)
    """How it is sampled; without meaning for a choice."""
    seed: int = 0
    """Of its own random numbers: the answer does not depend on what else runs."""


def unprompted(turns: Sequence[Turn]) -> list[Turn]:
    """The conversation with the text of its last turn left out, pictures kept: the other side of guidance."""
    *before, last = turns
    pictures = [part for part in last.parts if not isinstance(part, str)]
    kept = tuple(part for picture in pictures for part in (picture, "\n"))
    return [*before, Turn(last.role, (*kept, ""))]
