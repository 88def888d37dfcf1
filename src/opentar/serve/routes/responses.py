"""`/v1/responses`: answers in text or as a picture, that the next request can go on after."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from opentar.serve.admission import Admission
from opentar.serve.context import service_of
from opentar.serve.drawing import preview_as_base64
from opentar.serve.errors import ApiError, api_error
from opentar.serve.events import Ended, Preview, Token
from opentar.serve.reply import EventStream, begun, collected, sse
from opentar.serve.responding import Responding
from opentar.serve.response_schemas import Deleted, Failure, ImageCall, ResponseBody, ResponseRequest, SaidText
from opentar.serve.schemas import ERRORS, FEW_ERRORS
from opentar.serve.stored import ResponseStore, owner_of

router = APIRouter(tags=["responses"])


@router.post(
    "/v1/responses",
    response_model=ResponseBody,
    responses={**ERRORS, 200: {"content": {"text/event-stream": {}}, "description": "The response, or its events."}},
    summary="Answer, with text or a picture",
)
async def respond(body: ResponseRequest, request: Request) -> Response | ResponseBody:
    """Answer with text; with the tool image_generation, with a picture as an `image_generation_call`."""
    service = service_of(request)
    job = Responding(body, service.limits, _store(request), owner_of(request))
    admission = service.admit(body.model)
    await begun(request, admission, job.begin)
    if body.stream:
        return EventStream(admission, _Events(job).all(admission), service.limits, "error")
    return await collected(request, admission, _whole(job, admission))


@router.get(
    "/v1/responses/{response}",
    responses={**FEW_ERRORS, 400: ERRORS[400], 404: ERRORS[404]},
    response_model=ResponseBody,
    summary="A stored response",
)
async def stored(response: str, request: Request) -> Response:
    """A response that was stored with the same key."""
    if request.query_params.get("stream", "false").lower() != "false":
        raise ApiError(400, "a stored response is not streamed; leave it out", "unsupported", "stream")
    found = _store(request).get(response, owner_of(request))
    if found is None:
        raise _unknown()
    return Response(found.body, media_type="application/json")


@router.delete(
    "/v1/responses/{response}", responses={**FEW_ERRORS, 404: ERRORS[404]}, summary="Forget a stored response"
)
async def forget(response: str, request: Request) -> Deleted:
    """Forget a response; nobody can go on after it any more."""
    if not _store(request).drop(response, owner_of(request)):
        raise _unknown()
    return Deleted(id=response)


def _store(request: Request) -> ResponseStore:
    return cast(ResponseStore, request.app.state.responses)


def _unknown() -> ApiError:
    told = "this response is not stored here; it was not kept, is gone, or belongs to another key"
    return ApiError(404, told, "response_not_found")


async def _whole(job: Responding, admission: Admission) -> ResponseBody:
    async for _ in job.events(admission):
        pass
    return job.response


class _Events:
    """The events of a streamed response, numbered."""

    def __init__(self, job: Responding) -> None:
        self._job, self._number = job, -1

    async def all(self, admission: Admission) -> AsyncIterator[bytes]:
        """All of them; a failure in the middle is told as `response.failed`."""
        job = self._job
        yield self._response("created")
        yield self._response("in_progress")
        try:
            async for event in self._item(admission):
                yield event
        except Exception as error:
            told = api_error(error)
            code = "server_error" if told.status >= 500 else "invalid_prompt"
            failed = {"status": "failed", "error": Failure(code=code, message=told.message)}
            job.response = job.response.model_copy(update=failed)
            yield self._response("failed")
            return
        yield self._response(job.response.status)

    async def _item(self, admission: Admission) -> AsyncIterator[bytes]:
        job = self._job
        yield self._event("output_item.added", item=job.item.model_dump(), output_index=0)
        growing = self._picture if isinstance(job.item, ImageCall) else self._text
        async for event in growing(admission):
            yield event
        yield self._event("output_item.done", item=job.item.model_dump(), output_index=0)

    async def _text(self, admission: Admission) -> AsyncIterator[bytes]:
        place = {"item_id": self._job.item.id, "output_index": 0, "content_index": 0}
        yield self._event("content_part.added", part=SaidText(text="").model_dump(), **place)
        text = ""
        async for event in self._job.events(admission):
            if isinstance(event, Token) and event.text:
                text += event.text
                yield self._event("output_text.delta", delta=event.text, logprobs=[], **place)
        yield self._event("output_text.done", text=text, logprobs=[], **place)
        yield self._event("content_part.done", part=SaidText(text=text).model_dump(), **place)

    async def _picture(self, admission: Admission) -> AsyncIterator[bytes]:
        item = self._job.item
        assert isinstance(item, ImageCall)
        place = {"item_id": item.id, "output_index": 0}
        about = item.model_dump(include={"background", "output_format", "quality", "size"})
        yield self._event("image_generation_call.in_progress", **place)
        yield self._event("image_generation_call.generating", **place)
        async for event in self._job.events(admission):
            if isinstance(event, Preview):
                content = await preview_as_base64(event.picture, item.output_format)
                told = {"partial_image_b64": content, "partial_image_index": event.number}
                yield self._event("image_generation_call.partial_image", **place, **told, **about)
            elif isinstance(event, Ended):
                yield self._event("image_generation_call.completed", **place)

    def _response(self, what: str) -> bytes:
        return self._event(what, response=self._job.response.model_dump())

    def _event(self, what: str, **facts: Any) -> bytes:
        self._number += 1
        name = f"response.{what}"
        return sse({"type": name, "sequence_number": self._number, **facts}, name)
