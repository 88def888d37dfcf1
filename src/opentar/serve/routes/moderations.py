"""`/v1/moderations`: how likely a model says yes to the questions of a policy about texts and pictures."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Request
from pydantic import Discriminator, Field, Tag

from opentar.core.errors import OpenTarError
from opentar.engine.request import Choice as OneOf
from opentar.engine.request import Request as EngineRequest
from opentar.language.prompt import Shown, Turn
from opentar.serve.admission import Admission
from opentar.serve.asked import Asked, yes_no
from opentar.serve.context import service_of
from opentar.serve.conversation import check_pictures
from opentar.serve.errors import ApiError, api_error
from opentar.serve.events import Chosen
from opentar.serve.items import form_of
from opentar.serve.limits import Limits
from opentar.serve.pictures import picture_of_url
from opentar.serve.policy import CATEGORIES, Policy
from opentar.serve.reply import begun, collected
from opentar.serve.schemas import ERRORS, ModelName, Strict, Told
from opentar.serve.work import Choose

router = APIRouter(tags=["moderations"])
_MOST_INPUTS = 100
_OPENAIS = ("omni-moderation-latest", "omni-moderation-2024-09-26", "text-moderation-latest", "text-moderation-stable")
"""Clients send one of these where nobody chose a model; the policy's own judges then, and the answer names it."""

Kind = Literal["text", "image"]


class TextInput(Strict):
    """A text to judge."""

    type: Literal["text"]
    text: str


class PictureUrl(Strict):
    """A data URL; nothing is fetched."""

    url: str = Field(min_length=1)


class PictureInput(Strict):
    """A picture to judge."""

    type: Literal["image_url"]
    image_url: PictureUrl


Part = TextInput | PictureInput


def _entry(value: Any) -> str:
    return "one_text" if isinstance(value, str) else "one_part"


_Entry = Annotated[
    Annotated[str, Tag("one_text")] | Annotated[Annotated[Part, Discriminator("type")], Tag("one_part")],
    Discriminator(_entry),
]


class ModerationRequest(Strict):
    """What to judge, in OpenAI's words."""

    input: Annotated[
        Annotated[str, Tag("one_text")]
        | Annotated[list[_Entry], Field(min_length=1, max_length=_MOST_INPUTS), Tag("several_parts")],
        Discriminator(form_of),
    ] = Field(description="A text, several texts with a result each, or parts of one thing with one result.")
    model: ModelName | None = Field(
        None, description="A model of /v1/models; default, and for OpenAI's own names: the one of the policy."
    )


class Moderation(Told):
    """The judgement of one input; categories that the policy does not name are false, 0 and of no input type."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Kind]]


class Moderations(Told):
    """Judgements in the order of the inputs."""

    id: str
    model: str
    results: list[Moderation]


@router.post("/v1/moderations", responses=ERRORS, summary="Judge texts and pictures by the policy of the server")
async def moderate(body: ModerationRequest, request: Request) -> Moderations:
    """A score is the probability of yes, of the question and the part where it is highest."""
    service, policy = service_of(request), cast(Policy, request.app.state.policy)
    job = _Judging(body, policy, service.limits)
    name = policy.model if body.model in (None, *_OPENAIS) else body.model
    if not job.asked:
        return job.told(service.shelf.entry(name).name)
    admission = service.admit(name, min(len(job.asked), service.limits.batch))
    await begun(request, admission, job.begin)
    return await collected(request, admission, job.all(admission))


@dataclass(frozen=True, kw_only=True)
class _Question:
    """One question of a category about one part of an input."""

    result: int
    category: str
    kind: Kind
    part: Part
    where: str
    asked: Asked


class _Judging:
    """One request for judgements. Raises ApiError for what can be told before a place in the queue is taken."""

    def __init__(self, body: ModerationRequest, policy: Policy, limits: Limits) -> None:
        self._policy, self._limits = policy, limits
        self.asked: list[_Question] = []
        self._shares: dict[int, float] = {}
        self._results = 1
        if isinstance(body.input, str):
            self._ask(0, TextInput(type="text", text=body.input), "input")
            return
        texts = [isinstance(one, str) for one in body.input]
        if any(texts) and not all(texts):
            raise ApiError(400, "texts and parts are mixed; give strings, or parts alone", "invalid_value", "input")
        self._results = len(texts) if all(texts) else 1
        check_pictures(sum(isinstance(one, PictureInput) for one in body.input), limits, "input")
        for number, one in enumerate(body.input):
            where = f"input[{number}]"
            if isinstance(one, str):
                self._ask(number, TextInput(type="text", text=one), where)
            else:
                self._ask(0, one, where)

    async def begin(self, admission: Admission) -> None:
        """Ask all questions."""
        shown: dict[str, tuple[str | Shown, ...]] = {}
        works = []
        for one in self.asked:
            if one.where not in shown:
                shown[one.where] = await self._shown(one, admission)
            try:
                question = admission.model.builder.heard(one.asked.text, "question")
            except OpenTarError as error:
                raise api_error(error) from error
            turns = [Turn("user", (*shown[one.where], question))]
            works.append(Choose(request=EngineRequest(turns=turns, grammar=OneOf(texts=one.asked.wordings))))
        try:
            await admission.submit(works, in_turn=True)
        except OpenTarError as error:
            raise api_error(error, "input") from error

    async def all(self, admission: Admission) -> Moderations:
        """All judgements."""
        async for event in admission:
            if isinstance(event, Chosen):
                self._shares[event.index] = self.asked[event.index].asked.shares(event.probabilities)[0]
        return self.told(admission.model.name)

    def told(self, model: str) -> Moderations:
        """The judgements."""
        results = [self._result(number) for number in range(self._results)]
        return Moderations(id=f"modr-{uuid.uuid4().hex}", model=model, results=results)

    def _ask(self, result: int, part: Part, where: str) -> None:
        kind: Kind = "text" if isinstance(part, TextInput) else "image"
        before = len(self.asked)
        for name, category in self._policy.categories.items():
            questions = category.text if kind == "text" else category.image
            self.asked += [
                _Question(result=result, category=name, kind=kind, part=part, where=where, asked=yes_no(text))
                for text in questions
            ]
        if isinstance(part, PictureInput) and len(self.asked) == before:
            # Nothing is asked about it, yet what is no picture is refused as ever.
            self._content(part, where)

    async def _shown(self, one: _Question, admission: Admission) -> tuple[str | Shown, ...]:
        if isinstance(one.part, TextInput):
            try:
                return admission.model.builder.heard(one.part.text, "question"), "\n"
            except OpenTarError as error:
                raise api_error(error, one.where) from error
        content = self._content(one.part, one.where)
        try:
            return Shown(await admission.codes(content, None, "the picture")), "\n"
        except OpenTarError as error:
            raise api_error(error, f"{one.where}.image_url.url") from error

    def _content(self, part: PictureInput, where: str) -> bytes:
        param = f"{where}.image_url.url"
        try:
            return picture_of_url(part.image_url.url, self._limits.picture_bytes, param)
        except OpenTarError as error:
            raise api_error(error, param) from error

    def _result(self, number: int) -> Moderation:
        names = list(dict.fromkeys((*CATEGORIES, *self._policy.categories)))
        scores, kinds = dict.fromkeys(names, 0.0), {name: set[Kind]() for name in names}
        for place, one in enumerate(self.asked):
            if one.result == number:
                scores[one.category] = max(scores[one.category], self._shares[place])
                kinds[one.category].add(one.kind)
        flags = {name: bool(kinds[name]) and scores[name] >= self._policy.categories[name].threshold for name in names}
        return Moderation(
            flagged=any(flags.values()),
            categories=flags,
            category_scores=scores,
            category_applied_input_types={name: _in_order(kinds[name]) for name in names},
        )


def _in_order(kinds: set[Kind]) -> list[Kind]:
    every: Sequence[Kind] = ("text", "image")
    return [kind for kind in every if kind in kinds]
