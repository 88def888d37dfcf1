"""One request for a response: what is asked of the engine, and how the answer grows."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from opentar.checkpoints.settings import MAX_ANSWER
from opentar.core.errors import OpenTarError
from opentar.drawing import DrawOptions
from opentar.engine.request import Request as EngineRequest
from opentar.engine.request import Sampling, Text
from opentar.language.prompt import Drawn, Turn
from opentar.serve.admission import Admission
from opentar.serve.chat_schemas import Message
from opentar.serve.conversation import check_messages, last_text, pictures_in, turns_of
from opentar.serve.drawing import as_base64, drawings, settings_for
from opentar.serve.errors import ApiError, api_error
from opentar.serve.events import Ended, Event, Picture, Token
from opentar.serve.items import UserItem, messages_of, renamed
from opentar.serve.limits import Limits
from opentar.serve.response_schemas import (
    ImageCall,
    ImageTool,
    MessageItem,
    ResponseBody,
    ResponseRequest,
    ResponseUsage,
    SaidText,
    Why,
)
from opentar.serve.schemas import scale_of, seed_or_any
from opentar.serve.stored import ResponseStore, Stored, turns_before
from opentar.serve.work import Say


class Responding:
    """A response while it is made. Raises ApiError for what can be told before a place in the queue is taken.

    Args:
        body: the request.
        limits: of the service.
        store: where earlier responses are found, and this one is kept.
        owner: whose they are.
    """

    def __init__(self, body: ResponseRequest, limits: Limits, store: ResponseStore, owner: bytes) -> None:
        self.body, self._limits, self._store, self._owner = body, limits, store, owner
        self._before = self._previous()
        self._whole = isinstance(body.input, str)
        items = [UserItem(role="user", content=body.input)] if isinstance(body.input, str) else body.input
        self._messages = messages_of(items)
        check_messages(self._messages, limits, "input")
        if "\0" in (body.instructions or ""):
            raise ApiError(400, "the instructions hold a NUL character; remove it", "invalid_prompt", "instructions")
        self.tool = _tool(body, self._messages[-1])
        self._prompt = ""
        if self.tool is not None:
            try:
                self._prompt = last_text(self._messages)
            except ApiError as error:
                raise renamed(error) from error
        self._turns: list[Turn] = []
        self._seed = seed_or_any(body.seed)
        self._text = ""
        self.item: MessageItem | ImageCall = MessageItem(id=_id("msg"), status="in_progress", content=[])
        self.response: ResponseBody

    async def begin(self, admission: Admission) -> None:
        """Make turns of the input, and begin."""
        body, model = self.body, admission.model
        if self._before is not None and self._before.model != model.tar.parts.hash:
            told = "previous_response_id is of another model; name that one, or send the conversation itself"
            raise ApiError(400, told, "invalid_value", "previous_response_id")
        self.response = ResponseBody(
            id=_id("resp"),
            created_at=int(time.time()),
            status="in_progress",
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            metadata=body.metadata or {},
            model=model.name,
            output=[],
            previous_response_id=body.previous_response_id,
            seed=self._seed,
            store=body.store is not False,
            temperature=body.temperature,
            tool_choice=body.tool_choice or "auto",
            tools=[tool.model_dump(exclude_unset=True) for tool in body.tools or ()],
            top_p=body.top_p,
        )
        try:
            await self._submit(admission)
        except ApiError as error:
            raise _of_whole(error) if self._whole else renamed(error) from error

    async def _submit(self, admission: Admission) -> None:
        body = self.body
        earlier = list(self._before.turns) if self._before is not None else []
        if self.tool is not None:
            await self._submit_drawing(admission, self.tool, earlier)
            return
        self._turns = [*earlier, *await turns_of(self._messages, admission, self._limits)]
        request = EngineRequest(
            turns=turns_before(self._turns, body.instructions),
            grammar=Text(max_new_tokens=body.max_output_tokens or MAX_ANSWER),
            sampling=Sampling(temperature=body.temperature or 0.0, top_p=1.0 if body.top_p is None else body.top_p),
            seed=self._seed,
        )
        try:
            await admission.submit([Say(request=request)])
        except OpenTarError as error:
            raise api_error(error, "input") from error

    async def _submit_drawing(self, admission: Admission, tool: ImageTool, earlier: Sequence[Turn]) -> None:
        body, model = self.body, admission.model
        options: DrawOptions = {
            "scale": scale_of(tool.quality, model.config.defaults.draw.scale),
            "detok": tool.detok,
            "temperature": body.temperature,
            "guidance": tool.guidance,
            "detok_guidance": tool.detok_guidance,
            "steps": tool.steps,
        }
        try:
            settings = await settings_for(admission, options, tool.size)
        except OpenTarError as error:
            raise _of_tool(api_error(error, "tools[0].detok")) from error
        if body.top_p is not None:
            settings = replace(settings, top_p=body.top_p)
        before = [*earlier, *await turns_of(self._messages[:-1], admission, self._limits)]
        try:
            (work,) = drawings(model, self._prompt, 1, self._seed, settings, tool.partial_images, early=True)
            self._turns = [*before, *work.request.turns]
            request = replace(work.request, turns=turns_before(self._turns, body.instructions))
            await admission.submit([replace(work, drawing=replace(work.drawing, request=request))])
        except OpenTarError as error:
            raise api_error(error, f"messages[{len(self._messages) - 1}].content") from error
        side = model.sides[settings.detok]
        heard = work.drawing.heard
        quality: Any = ("high", "medium", "low")[settings.scale]
        self.item = ImageCall(
            id=_id("ig"),
            status="in_progress",
            output_format=tool.output_format,
            quality=quality,
            size=f"{side}x{side}",
            revised_prompt=heard if heard != self._prompt else None,
        )

    async def events(self, admission: Admission) -> AsyncIterator[Event]:
        """What happens, while the item and the response grow with it; they are whole with the last event."""
        async for event in admission:
            if isinstance(event, Token):
                self._text += event.text
            elif isinstance(event, Picture) and isinstance(self.item, ImageCall):
                content = await as_base64(admission, event, self.item.output_format)
                self.item = self.item.model_copy(update={"status": "completed", "result": content, "seed": event.seed})
                self._turns.append(Turn("assistant", (Drawn(event.codes),)))
            elif isinstance(event, Ended):
                self._end(admission, event)
            yield event

    def _end(self, admission: Admission, end: Ended) -> None:
        cut = end.reason == "length"
        if isinstance(self.item, MessageItem):
            status = "incomplete" if cut else "completed"
            self.item = self.item.model_copy(update={"status": status, "content": [SaidText(text=self._text)]})
            self._turns.append(Turn("assistant", (self._text,)))
        read, said = end.prompt_tokens, end.answer_tokens
        self.response = self.response.model_copy(
            update={
                "status": "incomplete" if cut else "completed",
                "incomplete_details": Why() if cut else None,
                "output": [self.item],
                "usage": ResponseUsage(input_tokens=read, output_tokens=said, total_tokens=read + said),
            }
        )
        if self.response.store:
            body = self.response.model_dump_json().encode()
            model, turns = admission.model.tar.parts.hash, tuple(self._turns)
            self._store.put(self.response.id, Stored(owner=self._owner, model=model, turns=turns, body=body))

    def _previous(self) -> Stored | None:
        name = self.body.previous_response_id
        found = None if name is None else self._store.get(name, self._owner)
        if name is not None and found is None:
            told = "the previous response is not stored here; it was not kept, is gone, or belongs to another key"
            raise ApiError(400, told, "previous_response_not_found", "previous_response_id")
        return found


def _tool(body: ResponseRequest, last: Message) -> ImageTool | None:
    """The tool that draws the answer; None where it is a text. Raises ApiError."""
    tools, choice = body.tools or [], body.tool_choice
    if len(tools) > 1:
        raise ApiError(400, "image_generation is given twice; give it once", "invalid_value", "tools")
    if choice not in (None, "auto", "none") and not tools:
        raise ApiError(400, "there is no tool to choose; give image_generation", "invalid_value", "tool_choice")
    if not tools or choice == "none":
        return None
    if tools[0].partial_images and not body.stream:
        raise ApiError(400, "partial_images need stream: true", param="tools[0].partial_images")
    return None if choice in (None, "auto") and pictures_in(last) else tools[0]


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def _of_whole(error: ApiError) -> ApiError:
    if (error.param or "").startswith("messages"):
        error.param = "input"
    return error


def _of_tool(error: ApiError) -> ApiError:
    if error.param == "size":
        error.param = "tools[0].size"
    return error
