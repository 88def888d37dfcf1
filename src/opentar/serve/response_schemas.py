"""Bodies of `/v1/responses`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from opentar.checkpoints.settings import MAX_ANSWER
from opentar.serve.drawing import Format
from opentar.serve.items import MOST_ITEMS, AssistantItem, DrawnItem, SystemItem, UserItem, form_of, kind_of
from opentar.serve.schemas import Ignored, ModelName, Quality, Seed, Strict, Told, Unsupported, only

_Item = Annotated[
    Annotated[UserItem, Tag("user")]
    | Annotated[SystemItem, Tag("system")]
    | Annotated[AssistantItem, Tag("assistant")]
    | Annotated[DrawnItem, Tag("image_generation_call")],
    Discriminator(kind_of),
]
_FIXED = "the compression is fixed: PNG and WebP lose nothing, JPEG has quality 95"


class ImageTool(Strict):
    """Draw the answer; the fields from `detok` on are our own."""

    type: Annotated[str, only("image_generation", what="the only tool here is image_generation; leave others out")]
    size: str = Field("auto", max_length=20, description="WIDTHxHEIGHT as the model draws it, or auto.")
    quality: Quality = "auto"
    output_format: Format = "png"
    partial_images: int = Field(0, ge=0, le=3, description="Previews of a streamed picture.")
    background: Annotated[str | None, only("auto", "opaque", what="pictures are opaque")] = None
    output_compression: Annotated[int | None, only(100, what=_FIXED)] = None
    action: Annotated[str | None, only("auto", "generate", what="no model here edits pictures")] = None
    model: Annotated[str | None, only(what="the model of the response draws; leave it out")] = None
    moderation: Ignored = None
    input_fidelity: Unsupported = None
    input_image_mask: Unsupported = None
    complexity: Unsupported = None
    frame_count: Unsupported = None
    frame_duration_ms: Unsupported = None
    svg: Unsupported = None
    detok: Annotated[str, Field(max_length=40)] | None = None
    guidance: float | None = Field(default=None, ge=1, le=50)
    detok_guidance: float | None = Field(default=None, ge=1, le=50)
    steps: int | None = Field(default=None, ge=1, le=1000)


class TextFormat(Strict):
    """Plain text is all there is."""

    type: Annotated[str, only("text", what="answers are plain text; use text")]


class TextOptions(Strict):
    """Of an answer in text."""

    format: TextFormat | None = None
    verbosity: Annotated[Any, only("medium", what="the length of answers cannot be chosen; use max_output_tokens")] = (
        None
    )


class ResponseStreamOptions(Strict):
    """Of a stream."""

    include_obfuscation: Ignored = None


_Metadata = dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]]


class ResponseRequest(Strict):
    """What to answer, in OpenAI's words; `seed` is our own."""

    model: ModelName | None = Field(None, description="A model of /v1/models; default: the first.")
    input: Annotated[
        Annotated[str, Tag("one_text")]
        | Annotated[list[_Item], Field(min_length=1, max_length=MOST_ITEMS), Tag("several_parts")],
        Discriminator(form_of),
    ] = Field(description="A text, or messages and pictures that were drawn before; the last is the user's.")
    instructions: Annotated[str, Field(max_length=100_000)] | None = Field(
        None, description="What the model is told before the conversation; not carried over to the next response."
    )
    previous_response_id: Annotated[str, Field(max_length=100)] | None = Field(
        None, description="A response that was stored here with the same key; the conversation goes on after it."
    )
    store: bool | None = Field(None, description="Keep the response for the next one; default: true.")
    tools: list[ImageTool] | None = Field(None, max_length=16, description="With image_generation, draw the answer.")
    tool_choice: Annotated[
        Any,
        only("auto", "none", "required", {"type": "image_generation"}, what="the only tool here is image_generation"),
    ] = Field(None, description="auto draws unless the last message shows pictures, none answers with text.")
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=MAX_ANSWER, description="Of a text.")
    temperature: float | None = Field(None, ge=0, le=2, description="Default: 0 for text, the model's own for codes.")
    top_p: float | None = Field(default=None, ge=0, le=1)
    seed: Seed | None = None
    metadata: Annotated[_Metadata, Field(max_length=16)] | None = None
    text: TextOptions | None = None
    truncation: Annotated[str | None, only("disabled", what="nothing is cut; shorten the input")] = None
    include: Annotated[list[str] | None, only([], what="nothing more can be included; leave it out")] = None
    top_logprobs: Annotated[int | None, only(0, what="use /v1/chat/completions for logprobs")] = None
    reasoning: Annotated[
        Any, only({}, {"effort": "none"}, {"effort": None}, what="the models here do not reason; leave it out")
    ] = None
    background: Annotated[bool | None, only(False, what="nothing runs in the background; leave it out")] = None
    service_tier: Annotated[Any, only("auto", "default", what="there is one tier; leave it out")] = None
    conversation: Unsupported = None
    prompt: Unsupported = None
    moderation: Unsupported = None
    context_management: Unsupported = None
    access_programs: Unsupported = None
    background_options: Unsupported = None
    image: Unsupported = None
    max_tool_calls: Ignored = None
    parallel_tool_calls: Ignored = None
    user: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None


class SaidText(Told):
    """The text of an answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(default_factory=list)
    logprobs: list[Any] = Field(default_factory=list)


class MessageItem(Told):
    """An answer in text."""

    type: Literal["message"] = "message"
    id: str
    role: Literal["assistant"] = "assistant"
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[SaidText]


class ImageCall(Told):
    """A picture as the answer; `result` is its file in base64. It can be sent back as it is."""

    type: Literal["image_generation_call"] = "image_generation_call"
    id: str
    status: Literal["in_progress", "completed"]
    result: str | None = None
    action: Literal["generate"] = "generate"
    background: Literal["opaque"] = "opaque"
    output_format: Format
    quality: Literal["low", "medium", "high"]
    size: str
    revised_prompt: str | None = None
    seed: int | None = None


class CachedTokens(Told):
    """Nothing is told about caches here."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class ReasoningTokens(Told):
    """Nothing reasons."""

    reasoning_tokens: int = 0


class ResponseUsage(Told):
    """Tokens; the codes of pictures are tokens."""

    input_tokens: int
    input_tokens_details: CachedTokens = CachedTokens()
    output_tokens: int
    output_tokens_details: ReasoningTokens = ReasoningTokens()
    total_tokens: int


class Why(Told):
    """Why an answer is not whole."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class Failure(Told):
    """What went wrong in the middle of a stream."""

    code: str
    message: str


class ResponseBody(Told):
    """An answer: one message, or one picture."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: bool = False
    error: Failure | None = None
    incomplete_details: Why | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[Annotated[MessageItem | ImageCall, Discriminator("type")]]
    parallel_tool_calls: bool = False
    previous_response_id: str | None
    seed: int
    service_tier: Literal["default"] = "default"
    store: bool
    temperature: float | None
    text: dict[str, Any] = Field(default_factory=lambda: {"format": {"type": "text"}, "verbosity": "medium"})
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_p: float | None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None


class Deleted(Told):
    """A response that is forgotten."""

    id: str
    object: Literal["response"] = "response"
    deleted: bool = True
