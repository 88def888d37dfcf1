"""`/v1/images/generations` and `/v1/images/edits`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from opentar.core.errors import OpenTarError
from opentar.drawing import DrawOptions
from opentar.serve.admission import Admission
from opentar.serve.context import service_of
from opentar.serve.drawing import Format, as_base64, drawings, preview_as_base64, settings_for
from opentar.serve.errors import ApiError, api_error
from opentar.serve.events import Ended, Picture, Preview
from opentar.serve.reply import EventStream, begun, collected, sse
from opentar.serve.schemas import ERRORS, Ignored, ModelName, Seed, Strict, Told, only, scale_of, seed_or_any

router = APIRouter(tags=["images"])


class ImageRequest(Strict):
    """What to draw, in OpenAI's words; the fields from `seed` on are our own."""

    prompt: str = Field(description="What to draw, in English or Chinese.")
    model: ModelName | None = Field(None, description="A model of /v1/models; default: the first.")
    n: int = Field(1, ge=1, le=10, description="Pictures.")
    size: str = Field("auto", max_length=20, description="WIDTHxHEIGHT as the model draws it, or auto.")
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] = Field(
        "auto", description="Grid of codes: low is the coarsest, high the finest, auto the model's own choice."
    )
    output_format: Format = Field("png", description="Of the file.")
    response_format: Annotated[
        str | None, only("b64_json", what="pictures are sent as b64_json; this server keeps no addresses")
    ] = None
    output_compression: Annotated[
        int | None, only(100, what="the compression is fixed: PNG and WebP lose nothing, JPEG has quality 95")
    ] = None
    background: Annotated[str | None, only("auto", "opaque", what="pictures are opaque")] = None
    style: Annotated[str | None, only(what="there are no styles; say it in the prompt")] = None
    stream: bool = Field(False, description="Send events while the picture is made.")
    partial_images: int = Field(0, ge=0, le=3, description="Previews of a streamed picture.")
    moderation: Ignored = None
    user: Ignored = None
    safety_identifier: Ignored = None
    seed: Seed | None = Field(None, description="Same seed, same picture; further ones count up. Default: any.")
    detok: Annotated[str, Field(max_length=40)] | None = Field(None, description="De-tokenizer: diffusion, ar, ...")
    temperature: float | None = Field(None, ge=0, le=10, description="Over codes.")
    guidance: float | None = Field(None, ge=1, le=50, description="Of the language model over codes.")
    detok_guidance: float | None = Field(None, ge=1, le=50, description="Of the de-tokenizer.")
    steps: int | None = Field(None, ge=1, le=1000, description="Of a diffusion de-tokenizer.")


class ImageData(Told):
    """One picture."""

    b64_json: str
    seed: int
    revised_prompt: str | None = None


class InputDetails(Told):
    """What the tokens of a prompt are."""

    image_tokens: int
    text_tokens: int


class ImageUsage(Told):
    """Tokens that were read and drawn."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    total_tokens: int


class ImagesResponse(Told):
    """The pictures, in the order of their seeds."""

    created: int
    background: Literal["opaque"] = "opaque"
    output_format: Format
    quality: Literal["low", "medium", "high"]
    size: str
    data: list[ImageData]
    usage: ImageUsage


@router.post(
    "/v1/images/generations",
    response_model=ImagesResponse,
    responses={**ERRORS, 200: {"content": {"text/event-stream": {}}, "description": "Pictures, or events of one."}},
    summary="Draw pictures",
)
async def generate(body: ImageRequest, request: Request) -> Response | ImagesResponse:
    """Draw `n` pictures of a prompt. With `stream`, previews come as `image_generation.partial_image`."""
    if body.stream and body.n != 1:
        raise ApiError(400, "one picture can be streamed; send n requests with seeds that count up", param="n")
    if body.partial_images and not body.stream:
        raise ApiError(400, "partial_images need stream: true", param="partial_images")
    service = service_of(request)
    job = _Drawing(body)
    admission = service.admit(body.model, body.n)
    await begun(request, admission, job.begin)
    if body.stream:
        return EventStream(admission, job.events(admission), service.limits, "error")
    return await collected(request, admission, job.all(admission))


class _Drawing:
    """One request for pictures."""

    def __init__(self, body: ImageRequest) -> None:
        self._body = body
        self._created = int(time.time())
        self._about: dict[str, Any] = {}
        self._heard: str | None = None

    async def begin(self, admission: Admission) -> None:
        """Check what only the model can tell, and begin."""
        body, model = self._body, admission.model
        own = model.config.defaults.draw.scale
        options: DrawOptions = {
            "scale": scale_of(body.quality, own),
            "detok": body.detok,
            "temperature": body.temperature,
            "guidance": body.guidance,
            "detok_guidance": body.detok_guidance,
            "steps": body.steps,
        }
        try:
            settings = await settings_for(admission, options, body.size)
        except OpenTarError as error:
            raise api_error(error, "detok") from error
        try:
            seed = seed_or_any(body.seed)
            works = drawings(model, body.prompt, body.n, seed, settings, body.partial_images, early=True)
            await admission.submit(works)
        except OpenTarError as error:
            raise api_error(error, "prompt") from error
        side = model.sides[settings.detok]
        self._about = {
            "size": f"{side}x{side}",
            "quality": ("high", "medium", "low")[settings.scale],
            "background": "opaque",
            "output_format": body.output_format,
        }
        heard = works[0].drawing.heard
        self._heard = heard if heard != body.prompt else None

    async def all(self, admission: Admission) -> ImagesResponse:
        """All pictures."""
        pictures: dict[int, ImageData] = {}
        ends: list[Ended] = []
        async for event in admission:
            if isinstance(event, Picture):
                content = await as_base64(admission, event, self._body.output_format)
                pictures[event.index] = ImageData(b64_json=content, seed=event.seed, revised_prompt=self._heard)
            elif isinstance(event, Ended):
                ends.append(event)
        data = [pictures[index] for index in sorted(pictures)]
        return ImagesResponse(created=self._created, data=data, usage=usage_of(ends), **self._about)

    async def events(self, admission: Admission) -> AsyncIterator[bytes]:
        """Events of one picture."""
        kind, finished = self._body.output_format, ""
        common = self._about | {"created_at": self._created}
        seed = 0
        async for event in admission:
            if isinstance(event, Preview):
                name = "image_generation.partial_image"
                content = await preview_as_base64(event.picture, kind)
                told = {"type": name, "b64_json": content, "partial_image_index": event.number}
                yield sse(told | common, name)
            elif isinstance(event, Picture):
                finished, seed = await as_base64(admission, event, kind), event.seed
            elif isinstance(event, Ended):
                name = "image_generation.completed"
                told = {"type": name, "b64_json": finished, "usage": usage_of([event]).model_dump(), "seed": seed}
                yield sse(told | common | {"revised_prompt": self._heard}, name)


def usage_of(ends: list[Ended]) -> ImageUsage:
    """The tokens of a request; its prompt counts once."""
    read, codes = ends[0].prompt_tokens, ends[0].prompt_codes
    drawn = sum(end.answer_tokens for end in ends)
    return ImageUsage(
        input_tokens=read,
        input_tokens_details=InputDetails(image_tokens=codes, text_tokens=read - codes),
        output_tokens=drawn,
        total_tokens=read + drawn,
    )


@router.post("/v1/images/edits", responses=ERRORS, summary="Edit pictures (no model does yet)")
async def edit(request: Request) -> None:
    """Always an error: no model here edits pictures. The body is not read."""
    shelf = service_of(request).shelf
    listed = "; ".join(f"{name} can {', '.join(entry.abilities)}" for name, entry in shelf.entries.items())
    raise ApiError(400, f"no model here edits pictures: {listed}", "unsupported", "model")
