"""Bodies of `/v1/decisions`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, StrictBool, StrictStr, Tag

from opentar.serve.items import MOST_ITEMS, AssistantItem, Shown, SystemItem, UserItem, form_of, kind_of
from opentar.serve.schemas import Ignored, ModelName, Strict, Told

_LONGEST = 20_000
_Instructions = Annotated[
    Annotated[str, Field(max_length=_LONGEST), Tag("one_text")]
    | Annotated[list[Shown], Field(max_length=100), Tag("several_parts")],
    Discriminator(form_of),
]
_Name = Annotated[str, Field(max_length=500)]
_Option = Annotated[str, Field(min_length=1, max_length=1000)]
_Described = Annotated[str, Field(max_length=_LONGEST)]


class Predicate(Strict):
    """Is it true?"""

    type: Literal["predicate"]
    instructions: _Instructions = Field(description="A question to be answered with yes or no, or a statement.")
    name: _Name | None = None


class Option(Strict):
    """What may be answered. True and false are said as yes and no."""

    value: _Option | StrictBool
    description: _Described | None = None


class Choice(Strict):
    """Which of these?"""

    type: Literal["choice"]
    instructions: _Instructions
    choices: list[Option] = Field(min_length=2, max_length=255)
    name: _Name | None = None


class Level(Strict):
    """A level of a score; the first one counts 0."""

    label: _Option
    description: _Described | None = None


class Score(Strict):
    """How much?"""

    type: Literal["score"]
    instructions: _Instructions
    levels: list[Level] = Field(min_length=2, max_length=10)
    name: _Name | None = None


Question = Annotated[Predicate | Choice | Score, Discriminator("type")]
_Item = Annotated[
    Annotated[UserItem, Tag("user")]
    | Annotated[SystemItem, Tag("system")]
    | Annotated[AssistantItem, Tag("assistant")],
    Discriminator(kind_of),
]


class DecisionRequest(Strict):
    """Questions about one input, in OpenAI's words."""

    model: ModelName = Field(description="A model of /v1/models.")
    input: Annotated[
        Annotated[str, Tag("one_text")]
        | Annotated[list[_Item], Field(min_length=1, max_length=MOST_ITEMS), Tag("several_parts")],
        Discriminator(form_of),
    ] = Field(description="What is asked about: a text, or messages with texts and pictures.")
    questions: list[Question] = Field(min_length=1, max_length=400)
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    safety_identifier: Ignored = None


class PredicateAnswer(Told):
    """How likely yes is against no."""

    type: Literal["predicate"] = "predicate"
    name: str | None
    probability: float


class OptionShare(Told):
    """How likely one choice is."""

    value: StrictStr | StrictBool
    probability: float


class ChoiceAnswer(Told):
    """The likeliest choice; `confidence` is its probability."""

    type: Literal["choice"] = "choice"
    name: str | None
    choice: StrictStr | StrictBool
    confidence: float
    probabilities: list[OptionShare]


class LevelShare(Told):
    """How likely one level is."""

    label: str
    value: int
    probability: float


class ScoreAnswer(Told):
    """The mean of the levels, each by its probability; `confidence` is that of the likeliest level."""

    type: Literal["score"] = "score"
    name: str | None
    score: float
    confidence: float
    probabilities: list[LevelShare]


class InputTokens(Told):
    """Codes of pictures that were read once for several questions."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokens(Told):
    """Nothing is said."""

    reasoning_tokens: int = 0


class DecisionUsage(Told):
    """Tokens of all questions together."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int = 0
    output_tokens_details: OutputTokens = OutputTokens()
    total_tokens: int


class Decision(Told):
    """The answers, in the order of the questions."""

    model: str
    answers: list[Annotated[PredicateAnswer | ChoiceAnswer | ScoreAnswer, Discriminator("type")]]
    usage: DecisionUsage
