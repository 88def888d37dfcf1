"""What the bodies of several routes are made of. Strict: an unknown field, "5" for 5 and 1e400 are refused."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from opentar.checkpoints.settings import MAX_SEED
from opentar.serve.errors import ErrorBody


class Strict(BaseModel):
    """Base of everything that a client sends."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, data: Any) -> Any:
        """Clients send null for what they leave out."""
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}


class Told(BaseModel):
    """Base of everything that a client is sent."""

    model_config = ConfigDict(protected_namespaces=())


def only(*allowed: Any, what: str) -> AfterValidator:
    """A field of OpenAI's that is taken where it says nothing that would have to be done."""

    def check(value: Any) -> Any:
        if value is not None and value not in allowed:
            raise PydanticCustomError("unsupported", "{what}", {"what": what})
        return value

    return AfterValidator(check)


Unsupported = Annotated[Any, only([], {}, "none", False, what="this server does not do that; leave it out")]
"""Tools, audio and the like."""
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Ignored = Annotated[Any, Field(description="Taken and ignored: it changes nothing of the answer.")]
Quality = Literal["auto", "low", "medium", "high"]
ModelName = Annotated[str, Field(min_length=1, max_length=300)]

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "The request is wrong: `param` and `message` say where and why.",
        401: "The API key is missing or wrong.",
        403: "The request comes from another web page, or for another host.",
        404: "No such model.",
        405: "Not this method.",
        408: "The body took too long to come.",
        413: "Too large.",
        429: "This key has asked too often; Retry-After says when to try again.",
        500: "The server failed.",
        503: "Too many requests wait, the server is not ready or about to end, or memory ran out; see Retry-After.",
        504: "The request took longer than a request may.",
    }.items()
}
"""For the OpenAPI document of every route that runs a model."""
FEW_ERRORS: dict[int | str, dict[str, Any]] = {status: ERRORS[status] for status in (401, 403, 405, 429, 500)}
"""Of every other one."""


def scale_of(quality: Quality | Literal["auto", "standard", "hd"], default: int) -> int:
    """The index of the grid that a quality stands for."""
    return {"low": 2, "medium": 1, "high": 0, "standard": 1, "hd": 0}.get(quality, default)


def seed_or_any(seed: int | None) -> int:
    """The seed, or one that nobody chose."""
    return secrets.randbelow(2**31) if seed is None else seed
