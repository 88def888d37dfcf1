"""`/v1/decisions`: exact probabilities of answers to many questions about one input."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from opentar.core.errors import OpenTarError
from opentar.engine.request import Choice as OneOf
from opentar.engine.request import Request as EngineRequest
from opentar.language.prompt import Shown, Turn
from opentar.serve.admission import Admission
from opentar.serve.asked import Asked, one_of, yes_no
from opentar.serve.chat_schemas import ImagePart, Message, TextPart, UserMessage
from opentar.serve.context import service_of
from opentar.serve.conversation import check_pictures, pictures_in, turns_of, user_parts
from opentar.serve.decision_schemas import (
    Choice,
    ChoiceAnswer,
    Decision,
    DecisionRequest,
    DecisionUsage,
    InputTokens,
    LevelShare,
    OptionShare,
    Predicate,
    PredicateAnswer,
    Question,
    ScoreAnswer,
)
from opentar.serve.errors import ApiError, api_error
from opentar.serve.events import Chosen, Ended
from opentar.serve.items import UserItem, messages_of, part_of, renamed
from opentar.serve.limits import Limits
from opentar.serve.reply import begun, collected
from opentar.serve.schemas import ERRORS
from opentar.serve.work import Choose

router = APIRouter(tags=["decisions"])
_CHOICES = 256
"""Choices that are followed side by side for one request; each takes room in the cache."""


@router.post("/v1/decisions", responses=ERRORS, summary="Answer questions about one input with probabilities")
async def decide(body: DecisionRequest, request: Request) -> Decision:
    """Each question is asked by itself after the input; the codes of its pictures are read once for all of them."""
    service = service_of(request)
    job = _Deciding(body, service.limits)
    # More questions than run side by side wait for each other, and not in the queue of the service.
    admission = service.admit(body.model, min(job.side_by_side, service.limits.batch))
    await begun(request, admission, job.begin)
    return await collected(request, admission, job.all(admission))


class _Deciding:
    """One request for decisions. Raises ApiError for what can be told before a place in the queue is taken."""

    def __init__(self, body: DecisionRequest, limits: Limits) -> None:
        self._limits, self._questions = limits, body.questions
        self._whole = isinstance(body.input, str)
        items = [UserItem(role="user", content=body.input)] if isinstance(body.input, str) else body.input
        self._messages = messages_of(items)
        self._own = [_parts(question, number) for number, question in enumerate(body.questions)]
        self._asked = [_asked(*one, number) for number, one in enumerate(zip(body.questions, self._own, strict=True))]
        for number, question in enumerate(body.questions):
            _check_options(question, f"questions[{number}]")
        shown = [part for parts in self._own for part in parts if isinstance(part, ImagePart)]
        check_pictures(sum(len(pictures_in(one)) for one in self._messages) + len(shown), limits, "input")
        self._codes = 0

    @property
    def side_by_side(self) -> int:
        """Questions that may be asked at a time."""
        most = max(len(one.wordings) for one in self._asked)
        return max(1, min(len(self._asked), _CHOICES // most))

    async def begin(self, admission: Admission) -> None:
        """Make turns of the input and of each question, and begin."""
        before, shown, told = await self._input(admission)
        works = []
        for number, (own, asked) in enumerate(zip(self._own, self._asked, strict=True)):
            where = f"questions[{number}].instructions"
            pictures = UserMessage(role="user", content=[part for part in own if isinstance(part, ImagePart)])
            try:
                drawn, _ = await user_parts(pictures, "question", admission, self._limits)
                question = admission.model.builder.heard(asked.text, "question")
            except OpenTarError as error:
                raise api_error(error, where) from error
            except ApiError as error:
                error.param = where
                raise
            if not told and shown and isinstance(shown[-1], str) and shown[-1] != "\n":
                question = f"\n{question}"
            parts = (*shown, *drawn, "\n".join([*told, question]))
            turns = [*before, Turn("user", parts)]
            works.append(Choose(request=EngineRequest(turns=turns, grammar=OneOf(texts=asked.wordings))))
        try:
            await admission.submit(works, in_turn=True)
        except OpenTarError as error:
            raise api_error(error, "questions") from error
        self._codes = _codes_of([part for turn in before for part in turn.parts] + shown)

    async def _input(self, admission: Admission) -> tuple[list[Turn], list[str | Shown], list[str]]:
        """The turns of the input, and what of the question's turn comes before the question."""
        messages: list[Message] = list(self._messages)
        last = messages.pop() if isinstance(messages[-1], UserMessage) else None
        try:
            before = await turns_of(messages, admission, self._limits)
            if not isinstance(last, UserMessage):
                return before, [], []
            shown, told = await user_parts(last, f"messages[{len(messages)}]", admission, self._limits)
            return before, shown, told
        except ApiError as error:
            raise renamed(error) if not self._whole else _of_whole(error) from error

    async def all(self, admission: Admission) -> Decision:
        """All answers."""
        shares: dict[int, list[float]] = {}
        read = 0
        async for event in admission:
            if isinstance(event, Chosen):
                shares[event.index] = self._asked[event.index].shares(event.probabilities)
            elif isinstance(event, Ended):
                read += event.prompt_tokens
        answers = [_answer(question, shares[number]) for number, question in enumerate(self._questions)]
        sharing = sum(not any(isinstance(part, ImagePart) for part in parts) for parts in self._own)
        details = InputTokens(
            cached_tokens=self._codes * max(0, sharing - 1), cache_write_tokens=self._codes if sharing else 0
        )
        usage = DecisionUsage(input_tokens=read, input_tokens_details=details, total_tokens=read)
        return Decision(model=admission.model.name, answers=answers, usage=usage)


def _parts(question: Question, number: int) -> list[TextPart | ImagePart]:
    """What a question is made of."""
    if isinstance(question.instructions, str):
        return [TextPart(type="text", text=question.instructions)]
    where = f"questions[{number}].instructions"
    return [part_of(part, f"{where}[{place}]") for place, part in enumerate(question.instructions)]


def _asked(question: Question, parts: list[TextPart | ImagePart], number: int) -> Asked:
    text = "\n".join(part.text for part in parts if isinstance(part, TextPart))
    if isinstance(question, Predicate):
        if not text.strip():
            where = f"questions[{number}].instructions"
            raise ApiError(400, "nothing is asked; write at least one word", "invalid_value", where)
        return yes_no(text)
    if isinstance(question, Choice):
        return one_of(text, [(one.value, one.description) for one in question.choices])
    return one_of(text, [(one.label, one.description) for one in question.levels])


def _check_options(question: Question, where: str) -> None:
    """Raises ApiError for an answer that is offered twice; "true" and true are two."""
    if isinstance(question, Predicate):
        return
    field, values = (
        ("choices", [(type(one.value), one.value) for one in question.choices])
        if isinstance(question, Choice)
        else ("levels", [(str, one.label) for one in question.levels])
    )
    if len(set(values)) < len(values):
        raise ApiError(400, f"the {field} are not all different; give each once", "invalid_value", f"{where}.{field}")
    for number, (_, value) in enumerate(values):
        if isinstance(value, str) and not value.strip():
            raise ApiError(400, "an answer must hold a word", "invalid_value", f"{where}.{field}[{number}]")


def _answer(question: Question, shares: list[float]) -> Any:
    name = question.name
    if isinstance(question, Predicate):
        return PredicateAnswer(name=name, probability=shares[0])
    best = max(range(len(shares)), key=shares.__getitem__)
    if isinstance(question, Choice):
        told = [OptionShare(value=one.value, probability=p) for one, p in zip(question.choices, shares, strict=True)]
        choice = question.choices[best].value
        return ChoiceAnswer(name=name, choice=choice, confidence=shares[best], probabilities=told)
    levels = [
        LevelShare(label=one.label, value=value, probability=shares[value]) for value, one in enumerate(question.levels)
    ]
    mean = sum(one.value * one.probability for one in levels)
    return ScoreAnswer(name=name, score=mean, confidence=shares[best], probabilities=levels)


def _codes_of(parts: list[Any]) -> int:
    return sum(len(part.codes) for part in parts if not isinstance(part, str))


def _of_whole(error: ApiError) -> ApiError:
    error.param = "input"
    return error
