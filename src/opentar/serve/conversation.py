"""Messages become turns: the form that models are trained on, pictures before the text that speaks of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentar.core.errors import OpenTarError
from opentar.language.prompt import Drawn, Shown, Turn
from opentar.serve.chat_schemas import AssistantMessage, ImagePart, Message, SystemMessage, TextPart, UserMessage
from opentar.serve.errors import ApiError, api_error
from opentar.serve.pictures import picture_of_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentar.serve.admission import Admission
    from opentar.serve.limits import Limits

_SCALES = {"low": 2, "high": 0}


def check_messages(messages: Sequence[Message], limits: Limits, name: str = "messages") -> None:
    """What can be told before anything is decoded; `name` is the field that holds them. Raises ApiError."""
    if not isinstance(messages[-1], UserMessage):
        where = f"{name}[{len(messages) - 1}]"
        raise ApiError(400, "the last message must be the user's; it is what is answered", "invalid_value", where)
    check_pictures(sum(len(pictures_in(message)) for message in messages), limits, name)


def check_pictures(count: int, limits: Limits, name: str) -> None:
    """Raises ApiError for more pictures than one request may have."""
    if count > limits.pictures:
        raise ApiError(400, f"there are {count} pictures; at most {limits.pictures} are taken", "too_many_images", name)


async def turns_of(messages: Sequence[Message], admission: Admission, limits: Limits) -> list[Turn]:
    """The turns of a conversation; pictures are decoded and encoded, where their codes are not known.

    Raises ApiError, which names the part that cannot be taken.
    """
    return [await _turn(message, f"messages[{number}]", admission, limits) for number, message in enumerate(messages)]


def last_text(messages: Sequence[Message]) -> str:
    """The text of the last message, whose answer is a picture. Raises ApiError where it shows pictures."""
    last, where = messages[-1], f"messages[{len(messages) - 1}].content"
    if pictures_in(last):
        raise ApiError(
            400, "no model here edits pictures; ask about them, or draw from text alone", "unsupported", where
        )
    return "\n".join(_texts(last))


async def _turn(message: Message, where: str, admission: Admission, limits: Limits) -> Turn:
    model = admission.model
    if isinstance(message, SystemMessage):
        return Turn("system", ("\n".join(_texts(message)),))
    if isinstance(message, AssistantMessage):
        said = [text for text in _texts(message) if text]
        drawn = [
            Drawn(await _codes(part, f"{where}.images[{number}]", admission, limits))
            for number, part in enumerate(message.images or ())
        ]
        # An answer may have been empty, and can be sent back.
        if not drawn and not message.content and message.content != "":
            raise ApiError(400, "the message is empty; leave it out", "invalid_value", where)
        return Turn("assistant", (*said, *drawn))
    parts, texts = await user_parts(message, where, admission, limits)
    if not _texts(message):
        if not parts:
            raise ApiError(400, "the message is empty; write at least one word", "invalid_prompt", where)
        texts.append(model.config.defaults.read.describe)
    return Turn("user", (*parts, *texts))


async def user_parts(
    message: UserMessage, where: str, admission: Admission, limits: Limits
) -> tuple[list[str | Shown], list[str]]:
    """What the user shows, and the one text that comes after it; several texts stay in their places among the shown."""
    parts: list[str | Shown] = []
    texts: list[str] = []
    content = [TextPart(type="text", text=message.content)] if isinstance(message.content, str) else message.content
    one_text = len(_texts(message)) <= 1
    for number, part in enumerate(content):
        if isinstance(part, ImagePart):
            parts += [Shown(await _codes(part, f"{where}.content[{number}]", admission, limits)), "\n"]
            continue
        heard = _heard(part.text, where, admission)
        if one_text:
            # Trained on pictures first: a question before its picture is not understood.
            texts.append(heard)
        else:
            parts.append(heard)
    return parts, texts


def _heard(text: str, where: str, admission: Admission) -> str:
    try:
        return admission.model.builder.heard(text, "question")
    except OpenTarError as error:
        raise api_error(error, f"{where}.content") from error


async def _codes(part: ImagePart, where: str, admission: Admission, limits: Limits) -> tuple[int, ...]:
    param, index = f"{where}.image_url.url", _SCALES.get(part.image_url.detail)
    scale = None if index is None else admission.model.vocab.scale(index)
    try:
        content = picture_of_url(part.image_url.url, limits.picture_bytes, param)
        return await admission.codes(content, scale, "the picture")
    except OpenTarError as error:
        raise api_error(error, param) from error


def _texts(message: Message) -> list[str]:
    content = message.content
    if isinstance(content, str):
        return [content]
    return [part.text for part in content or () if isinstance(part, TextPart)]


def pictures_in(message: Message) -> list[ImagePart]:
    """The pictures that a message carries."""
    parts = message.images or [] if isinstance(message, AssistantMessage) else message.content
    return [] if isinstance(parts, str) else [part for part in parts if isinstance(part, ImagePart)]
