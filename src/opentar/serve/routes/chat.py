"""`/v1/chat/completions`: text, questions about pictures, and pictures as answers."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from opentar.checkpoints.settings import MAX_ANSWER
from opentar.core.errors import OpenTarError
from opentar.drawing import DrawOptions
from opentar.engine.request import Request as EngineRequest
from opentar.engine.request import Sampling, Text
from opentar.serve.admission import Admission
from opentar.serve.chat_schemas import (
    AnswerChoice,
    AnswerMessage,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    ChatUsage,
    ChunkChoice,
    Delta,
    DrawnImage,
    DrawnUrl,
    ImageOptions,
    Logprobs,
)
from opentar.serve.context import service_of
from opentar.serve.conversation import check_messages, last_text, turns_of
from opentar.serve.drawing import as_base64, drawings, settings_for
from opentar.serve.errors import ApiError, api_error
from opentar.serve.events import Ended, Picture, Token
from opentar.serve.limits import Limits
from opentar.serve.logprobs import logprobs_of
from opentar.serve.reply import EventStream, begun, collected, sse
from opentar.serve.schemas import ERRORS, scale_of, seed_or_any
from opentar.serve.work import Say

router = APIRouter(tags=["chat"])


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={**ERRORS, 200: {"content": {"text/event-stream": {}}, "description": "The answer, or its chunks."}},
    summary="Answer a conversation",
)
async def complete(body: ChatRequest, request: Request) -> Response | ChatCompletion:
    """Answer with text; with image among the `modalities`, with a picture in `message.images`."""
    service = service_of(request)
    chat = _Chat(body, service.limits)
    admission = service.admit(body.model)
    await begun(request, admission, chat.begin)
    if body.stream:
        return EventStream(admission, chat.chunks(admission), service.limits)
    return await collected(request, admission, chat.whole(admission))


class _Chat:
    """One request for an answer. Raises ApiError for what can be told before a place in the queue is taken."""

    def __init__(self, body: ChatRequest, limits: Limits) -> None:
        self._body, self._limits = body, limits
        if body.stream_options is not None and not body.stream:
            raise ApiError(400, "stream_options need stream: true", param="stream_options")
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "top_logprobs need logprobs: true", param="top_logprobs")
        if body.draws and body.logprobs:
            raise ApiError(400, "pictures have no logprobs; leave it out", "unsupported", "logprobs")
        check_messages(body.messages, limits)
        self._prompt = last_text(body.messages) if body.draws else ""
        self._image = body.image or ImageOptions()
        self._facts: dict[str, Any] = {}

    async def begin(self, admission: Admission) -> None:
        """Make turns of the messages and begin."""
        body, model = self._body, admission.model
        self._facts = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": f"opentar-{model.tar.parts.hash}",
        }
        if body.draws:
            await self._begin_drawing(admission)
            return
        turns = await turns_of(body.messages, admission, self._limits)
        sampling = Sampling(temperature=body.temperature or 0.0, top_p=1.0 if body.top_p is None else body.top_p)
        asked = [most for most in (body.max_tokens, body.max_completion_tokens) if most is not None]
        most = min(asked, default=MAX_ANSWER)
        logs = (body.top_logprobs or 0) if body.logprobs else None
        request = EngineRequest(
            turns=turns,
            grammar=Text(max_new_tokens=most, logs=logs),
            sampling=sampling,
            seed=seed_or_any(body.seed),
        )
        stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
        try:
            await admission.submit([Say(request=request, stop=stop)])
        except OpenTarError as error:
            raise api_error(error, "messages") from error

    async def _begin_drawing(self, admission: Admission) -> None:
        body, model, image = self._body, admission.model, self._image
        options: DrawOptions = {
            "scale": scale_of(image.quality, model.config.defaults.draw.scale),
            "detok": image.detok,
            "temperature": body.temperature,
            "guidance": image.guidance,
            "detok_guidance": image.detok_guidance,
            "steps": image.steps,
        }
        try:
            settings = await settings_for(admission, options)
        except OpenTarError as error:
            raise api_error(error, "image") from error
        if body.top_p is not None:
            settings = replace(settings, top_p=body.top_p)
        before = await turns_of(body.messages[:-1], admission, self._limits)
        where = f"messages[{len(body.messages) - 1}].content"
        try:
            (work,) = drawings(model, self._prompt, 1, seed_or_any(body.seed), settings)
            request = replace(work.request, turns=[*before, *work.request.turns])
            await admission.submit([replace(work, drawing=replace(work.drawing, request=request))])
        except OpenTarError as error:
            raise api_error(error, where) from error

    async def whole(self, admission: Admission) -> ChatCompletion:
        """The whole answer."""
        text, images, tokens, end = "", [], [], None
        async for event in admission:
            if isinstance(event, Token):
                text += event.text
                tokens.append(event)
            elif isinstance(event, Picture):
                images.append(await self._image_of(admission, event))
            elif isinstance(event, Ended):
                end = event
        assert end is not None
        message = AnswerMessage(content=text, images=images or None)
        logprobs = logprobs_of(tokens, admission.model) if self._body.logprobs else None
        choice = AnswerChoice(message=message, finish_reason=end.reason, logprobs=logprobs)
        return ChatCompletion(choices=[choice], usage=_usage(end), **self._facts)

    async def chunks(self, admission: Admission) -> AsyncIterator[bytes]:
        """The answer as it grows."""
        wants_usage = self._body.stream_options is not None and self._body.stream_options.include_usage
        yield self._chunk(Delta(role="assistant", content=""))
        async for event in admission:
            if isinstance(event, Token):
                logprobs = logprobs_of([event], admission.model) if self._body.logprobs else None
                if event.text or (logprobs and logprobs.content):
                    yield self._chunk(Delta(content=event.text), logprobs=logprobs)
            elif isinstance(event, Picture):
                yield self._chunk(Delta(images=[await self._image_of(admission, event)]))
            elif isinstance(event, Ended):
                yield self._chunk(Delta(), finish_reason=event.reason)
                if wants_usage:
                    yield _sent(ChatChunk(choices=[], usage=_usage(event), **self._facts))

    def _chunk(self, delta: Delta, finish_reason: Any = None, logprobs: Logprobs | None = None) -> bytes:
        choice = ChunkChoice(delta=delta, finish_reason=finish_reason, logprobs=logprobs)
        return _sent(ChatChunk(choices=[choice], **self._facts))

    async def _image_of(self, admission: Admission, event: Picture) -> DrawnImage:
        kind = self._image.output_format
        content = await as_base64(admission, event, kind)
        return DrawnImage(image_url=DrawnUrl(url=f"data:image/{kind};base64,{content}"))


def _sent(chunk: ChatChunk) -> bytes:
    told = chunk.model_dump()
    for choice in told["choices"]:
        choice["delta"] = {name: value for name, value in choice["delta"].items() if value is not None}
    return sse(told)


def _usage(end: Ended) -> ChatUsage:
    read, said = end.prompt_tokens, end.answer_tokens
    return ChatUsage(prompt_tokens=read, completion_tokens=said, total_tokens=read + said)
