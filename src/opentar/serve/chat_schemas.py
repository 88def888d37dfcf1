"""Bodies of `/v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from opentar.checkpoints.settings import MAX_ANSWER
from opentar.serve.drawing import Format
from opentar.serve.schemas import Ignored, ModelName, Quality, Seed, Strict, Told, Unsupported, only

_MOST_MESSAGES = 1000
_MOST_PARTS = 1000


class TextPart(Strict):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageUrl(Strict):
    """A picture, as a data URL; nothing is fetched."""

    url: str = Field(min_length=1, description="data:image/png;base64,...")
    detail: Literal["auto", "low", "high"] = Field(
        "auto", description="Grid of codes it is read at: low the coarsest, high the finest."
    )


class ImagePart(Strict):
    """A picture among the parts of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl
    index: Ignored = None


def _form(value: Any) -> str:
    return "one_text" if isinstance(value, str) else "several_parts"


_Parts = Annotated[list[Annotated[TextPart | ImagePart, Discriminator("type")]], Field(max_length=_MOST_PARTS)]
_Texts = Annotated[list[TextPart], Field(max_length=_MOST_PARTS)]
Content = Annotated[Annotated[str, Tag("one_text")] | Annotated[_Parts, Tag("several_parts")], Discriminator(_form)]
TextContent = Annotated[Annotated[str, Tag("one_text")] | Annotated[_Texts, Tag("several_parts")], Discriminator(_form)]


class SystemMessage(Strict):
    """What the model is told before the conversation."""

    role: Literal["system", "developer"]
    content: TextContent
    name: Ignored = None


class UserMessage(Strict):
    """Texts and pictures of the user."""

    role: Literal["user"]
    content: Content
    name: Ignored = None


class AssistantMessage(Strict):
    """What the model said and drew before, as it was answered."""

    role: Literal["assistant"]
    content: TextContent | None = None
    images: Annotated[list[ImagePart], Field(max_length=_MOST_PARTS)] | None = None
    name: Ignored = None
    refusal: Unsupported = None
    annotations: Unsupported = None
    audio: Unsupported = None
    tool_calls: Unsupported = None
    function_call: Unsupported = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Discriminator("role")]


class StreamOptions(Strict):
    """Of a stream."""

    include_usage: bool = Field(False, description="Send the usage in a last chunk of its own.")
    include_obfuscation: Ignored = None


class ImageOptions(Strict):
    """How a picture is drawn as an answer (our own)."""

    quality: Quality = "auto"
    output_format: Format = "png"
    detok: Annotated[str, Field(max_length=40)] | None = None
    guidance: float | None = Field(default=None, ge=1, le=50)
    detok_guidance: float | None = Field(default=None, ge=1, le=50)
    steps: int | None = Field(default=None, ge=1, le=1000)


class ResponseFormat(Strict):
    """Plain text is all there is."""

    type: Annotated[str, only("text", what="answers are plain text; use text")]


_NONE = only(0, 0.0, what="penalties are not applied; leave it out")
_Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class ChatRequest(Strict):
    """A conversation to go on with, in OpenAI's words; `image` is our own."""

    model: ModelName = Field(description="A model of /v1/models.")
    messages: list[Message] = Field(min_length=1, max_length=_MOST_MESSAGES)
    modalities: list[Literal["text", "image"]] | None = Field(
        None, min_length=1, max_length=2, description="With image among them the answer is a picture."
    )
    image: ImageOptions | None = Field(None, description="How a picture is drawn.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=MAX_ANSWER)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_ANSWER)
    temperature: float | None = Field(None, ge=0, le=2, description="Default: 0 for text, the model's own for codes.")
    top_p: float | None = Field(default=None, ge=0, le=1)
    seed: Seed | None = None
    stop: (
        Annotated[
            Annotated[_Stop, Tag("one_text")] | Annotated[list[_Stop], Field(max_length=4), Tag("several_parts")],
            Discriminator(_form),
        ]
        | None
    ) = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    n: Annotated[int | None, only(1, what="one answer is given; send several requests")] = None
    frequency_penalty: Annotated[float | None, _NONE] = None
    presence_penalty: Annotated[float | None, _NONE] = None
    response_format: ResponseFormat | None = None
    logit_bias: Unsupported = None
    tools: Unsupported = None
    tool_choice: Annotated[Any, only("none", "auto", what="there are no tools; leave it out")] = None
    functions: Unsupported = None
    function_call: Unsupported = None
    audio: Unsupported = None
    prediction: Unsupported = None
    web_search_options: Unsupported = None
    reasoning_effort: Annotated[Any, only("none", what="the models here do not reason; leave it out")] = None
    verbosity: Annotated[Any, only("medium", what="the length of answers cannot be chosen; use max_tokens")] = None
    parallel_tool_calls: Ignored = None
    metadata: Ignored = None
    store: Annotated[bool | None, only(False, what="nothing is stored here")] = None
    service_tier: Annotated[Any, only("auto", "default", what="there is one tier; leave it out")] = None
    user: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None

    @property
    def draws(self) -> bool:
        """Whether the answer is a picture."""
        return "image" in (self.modalities or ())


class TopLogprob(Told):
    """A token that could have stood there."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob]


class Logprobs(Told):
    """Of all tokens."""

    content: list[TokenLogprob]
    refusal: None = None


class DrawnUrl(Told):
    """A data URL."""

    url: str


class DrawnImage(Told):
    """A picture of the answer, in the form in which it can be sent back."""

    type: Literal["image_url"] = "image_url"
    image_url: DrawnUrl


class AnswerMessage(Told):
    """The answer. It can be sent back as it is."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    images: list[DrawnImage] | None = None


class AnswerChoice(Told):
    """There is one."""

    index: int = 0
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: Logprobs | None = None


class ChatUsage(Told):
    """Tokens; the codes of pictures are tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(Told):
    """An answer as a whole."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[AnswerChoice]
    usage: ChatUsage
    system_fingerprint: str


class Delta(Told):
    """What an answer grows by."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    images: list[DrawnImage] | None = None


class ChunkChoice(Told):
    """There is one."""

    index: int = 0
    delta: Delta
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: Logprobs | None = None


class ChatChunk(Told):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: ChatUsage | None = None
    system_fingerprint: str
