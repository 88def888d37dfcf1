"""Conversations in the words of OpenAI's newer routes, lists of items, and the same as messages of a chat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from opentar.serve import chat_schemas as chat
from opentar.serve.errors import ApiError
from opentar.serve.schemas import Ignored, Strict, Unsupported

MOST_ITEMS = 1000
_MOST_PARTS = 1000
_MOST_JSON = 256 << 10


class InputText(Strict):
    """A piece of text."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: Ignored = None


class InputImage(Strict):
    """A picture, as a data URL; nothing is fetched."""

    type: Literal["input_image"]
    image_url: str = Field(min_length=1, description="data:image/png;base64,...")
    detail: Literal["auto", "low", "high", "original"] | None = Field(
        None, description="Grid of codes it is read at: low the coarsest, high and original the finest."
    )
    file_id: Unsupported = None
    prompt_cache_breakpoint: Ignored = None


class InputJson(Strict):
    """An object, or several; the model reads its text."""

    type: Literal["input_json"]
    data: dict[str, Any] | list[dict[str, Any]]


class OutputText(Strict):
    """What the model said before."""

    type: Literal["output_text"]
    text: str
    annotations: Ignored = None
    logprobs: Ignored = None


class RefusalPart(Strict):
    """What the model said before, in place of an answer."""

    type: Literal["refusal"]
    refusal: str


def form_of(value: Any) -> str:
    """Whether a field holds one text or a list."""
    return "one_text" if isinstance(value, str) else "several_parts"


Shown = Annotated[InputText | InputImage | InputJson, Discriminator("type")]
_Text = Annotated[str, Tag("one_text")]
_Shown = Annotated[list[Shown], Field(max_length=_MOST_PARTS), Tag("several_parts")]
_Told = Annotated[list[InputText], Field(max_length=_MOST_PARTS), Tag("several_parts")]
_Said = Annotated[
    list[Annotated[OutputText | RefusalPart, Discriminator("type")]],
    Field(max_length=_MOST_PARTS),
    Tag("several_parts"),
]


class Item(Strict):
    """What all messages may carry."""

    type: Literal["message"] = "message"
    id: Ignored = None
    status: Ignored = None


class UserItem(Item):
    """Texts and pictures of the user."""

    role: Literal["user"]
    content: Annotated[_Text | _Shown, Discriminator(form_of)]


class SystemItem(Item):
    """What the model is told before the conversation."""

    role: Literal["system", "developer"]
    content: Annotated[_Text | _Told, Discriminator(form_of)]


class AssistantItem(Item):
    """What the model said before."""

    role: Literal["assistant"]
    content: Annotated[_Text | _Said, Discriminator(form_of)]
    phase: Ignored = None


class DrawnItem(Strict):
    """A picture that the model drew before, as it was answered."""

    type: Literal["image_generation_call"]
    result: str = Field(min_length=1, description="The picture in base64.")
    id: Ignored = None
    status: Ignored = None
    action: Ignored = None
    background: Ignored = None
    output_format: Ignored = None
    quality: Ignored = None
    size: Ignored = None
    revised_prompt: Ignored = None
    seed: Ignored = None
    error: Ignored = None
    svg_usage: Ignored = None


def kind_of(value: Any) -> Any:
    """Which item something is: by its role where it is a message, else by its type."""
    found = value.get if isinstance(value, dict) else lambda name: getattr(value, name, None)
    kind = found("type")
    role = "system" if found("role") == "developer" else found("role")
    name = role if kind in (None, "message") else kind
    return name if isinstance(name, str) else None


def messages_of(items: Sequence[UserItem | SystemItem | AssistantItem | DrawnItem]) -> list[chat.Message]:
    """The messages of items, one of each, part by part, so that places in one are places in the other.

    Raises ApiError for a JSON part that is too large.
    """
    return [_message(item, f"input[{number}]") for number, item in enumerate(items)]


def part_of(part: Shown, where: str) -> chat.TextPart | chat.ImagePart:
    """A part of the user's as one of a chat; `where` it stands, for errors."""
    if isinstance(part, InputImage):
        detail: Any = "high" if part.detail == "original" else part.detail or "auto"
        return chat.ImagePart(type="image_url", image_url=chat.ImageUrl(url=part.image_url, detail=detail))
    if isinstance(part, InputText):
        return chat.TextPart(type="text", text=part.text)
    try:
        text = json.dumps(part.data, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise ApiError(400, "the data are nested too deeply; send them flatter", "invalid_value", where) from None
    if len(text.encode()) > _MOST_JSON:
        raise ApiError(400, f"the data are longer than {_MOST_JSON} bytes of JSON; send less", "invalid_value", where)
    return chat.TextPart(type="text", text=text)


def renamed(error: ApiError) -> ApiError:
    """An error about the messages of items, in the words of the items."""
    if error.param is not None and error.param.startswith("messages"):
        error.param = (
            error.param.replace("messages", "input", 1)
            .replace(".images[0].image_url.url", ".result")
            .replace(".image_url.url", ".image_url")
        )
    return error


def _message(item: UserItem | SystemItem | AssistantItem | DrawnItem, where: str) -> chat.Message:
    if isinstance(item, DrawnItem):
        url = chat.ImageUrl(url=f"data:image/png;base64,{item.result}", detail="auto")
        return chat.AssistantMessage(role="assistant", images=[chat.ImagePart(type="image_url", image_url=url)])
    if isinstance(item, UserItem):
        if isinstance(item.content, str):
            return chat.UserMessage(role="user", content=item.content)
        parts = [part_of(part, f"{where}.content[{place}]") for place, part in enumerate(item.content)]
        return chat.UserMessage(role="user", content=parts)
    if isinstance(item, SystemItem):
        return chat.SystemMessage(role="system", content=_plain([one.text for one in _parts(item.content)], item))
    said = [one.text if isinstance(one, OutputText) else one.refusal for one in _parts(item.content)]
    return chat.AssistantMessage(role="assistant", content=_plain(said, item))


def _parts(content: Any) -> list[Any]:
    return [] if isinstance(content, str) else content


def _plain(texts: Sequence[str], item: SystemItem | AssistantItem) -> Any:
    if isinstance(item.content, str):
        return item.content
    return [chat.TextPart(type="text", text=text) for text in texts]
