"""Errors as OpenAI's clients read them, `{"error": {"message", "type", "param", "code"}}`, on every route."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from opentar.core.errors import (
    ConfigError,
    ImageError,
    ImageKindError,
    ImageSizeError,
    ModelError,
    NoMemoryError,
    OpenTarError,
    PromptError,
)
from opentar.serve.refused import (
    BusyError,
    InternalError,
    LateError,
    LeavingError,
    LimitError,
    PictureUrlError,
    UnknownModelError,
    UnsupportedError,
)

_LOG = logging.getLogger(__name__)
_CODES = {
    400: "bad_request",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
    429: "rate_limit_exceeded",
}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ErrorFacts(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every response that is no success."""

    error: ErrorFacts


class ApiError(HTTPException):
    """An error with its HTTP status. FastAPI passes on nothing but an HTTPException while it reads a body.

    Args:
        status: 400 to 599.
        message: what was given, what is allowed, what to do.
        code: for programs.
        param: the field of the request, if it is one's fault.
        headers: besides those that every response has.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers or {})
        self.status, self.message, self.param = status, message, param
        self.code = code or _CODES.get(status, "server_error" if status >= 500 else "bad_request")

    @property
    def body(self) -> dict[str, Any]:
        """As JSON."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """As a response."""
        return JSONResponse(self.body, self.status, headers=self.headers)


def api_error(error: Exception, param: str | None = None) -> ApiError:
    """Any error as one with a status; one of ours that nobody foresaw is logged and told without its text.

    `param`: the field at fault where the error does not know it.
    """
    match error:
        case ApiError():
            return error
        case LeavingError(seconds=seconds):
            return ApiError(503, str(error), "server_unavailable", headers={"Retry-After": str(seconds)})
        case BusyError(seconds=seconds):
            return ApiError(503, str(error), "server_overloaded", headers={"Retry-After": str(seconds)})
        case UnknownModelError():
            return ApiError(404, str(error), "model_not_found", "model")
        case UnsupportedError():
            return ApiError(400, str(error), "unsupported", error.param or param)
        case PictureUrlError():
            return ApiError(400, str(error), "invalid_image_url", param)
        case LimitError():
            return ApiError(413, str(error), param=error.param or param)
        case LateError():
            return ApiError(504, str(error), "deadline_exceeded")
        case NoMemoryError():
            return ApiError(503, str(error), "out_of_memory", headers={"Retry-After": "5"})
        case InternalError():
            return ApiError(500, str(error), "internal_error")
        case ImageSizeError():
            return ApiError(400, str(error), "image_too_large", param)
        case ImageKindError():
            return ApiError(400, str(error), "unsupported_format", param)
        case ImageError():
            return ApiError(400, str(error), "invalid_image", param)
        case PromptError():
            return ApiError(400, str(error), "invalid_prompt", param)
        case ConfigError():
            return ApiError(400, str(error), "invalid_value", param)
        case ModelError() if param is not None:
            return ApiError(400, str(error), "unsupported", param)
        case OpenTarError():
            return ApiError(500, str(error), "model_error")
    _LOG.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed at this request; the log of the server says why", "internal_error")


def install(app: FastAPI) -> None:
    """Make every error of an app one of ours."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        return api_error(error).response()

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return of_status(error.status_code, request.scope["path"], request.method, error.headers).response()

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return of_validation(error).response()

    app.add_exception_handler(ApiError, known)
    app.add_exception_handler(OpenTarError, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


def of_status(status: int, path: str, method: str, headers: Any = None) -> ApiError:
    """The error of a bare status, as the router raises it."""
    told = {
        404: "there is no such address here; the routes stand in /openapi.json",
        405: f"{method[:20]} is not allowed here",
        400: "the body cannot be read; send JSON",
    }
    message = told.get(status, HTTPStatus(status).phrase.lower())
    return ApiError(status, message, headers={key: value for key, value in (headers or {}).items() if key == "Allow"})


def of_validation(error: RequestValidationError) -> ApiError:
    """The first fault of a body. What was given is not repeated: it may be a picture or a secret."""
    first = error.errors()[0]
    place = [part for part in first["loc"] if part != "body"]
    kind = str(first["type"])
    if kind == "json_invalid":
        return ApiError(400, "the body is no valid JSON", "invalid_json")
    if kind.startswith(("dict_", "model_")) and not place:
        return ApiError(400, "the body is no JSON object; send one, with content-type application/json", "invalid_json")
    param = _param(place, error.body)
    if kind == "extra_forbidden":
        return ApiError(400, f"unknown parameter: '{param}'; leave it out", "unknown_parameter", param)
    if kind == "missing":
        missing = "the body is missing; send JSON" if not place else f"missing required parameter: '{param}'"
        return ApiError(400, missing, "missing_required_parameter", param or None)
    if kind == "unsupported":
        return ApiError(400, str(first["msg"]), "unsupported", param)
    code = "invalid_type" if kind.endswith("_type") else "invalid_value"
    return ApiError(400, f"invalid '{param}': {first['msg']}", code, param or None)


def _param(place: list[Any], body: Any) -> str:
    """`messages[0].content` of a place in the body; names of branches that no field has are passed over."""
    text, here = "", body
    for number, part in enumerate(place):
        last = number == len(place) - 1
        if isinstance(here, list) and isinstance(part, int):
            text += f"[{part}]"
            here = here[part] if part < len(here) else None
        elif isinstance(here, dict) and (part in here or last):
            name = str(part)[:100]
            text += f".{name}" if text else name
            here = here.get(part)
    return text
