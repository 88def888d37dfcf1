"""`/health`, `/ready` and `/metrics`."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from opentar.serve.context import service_of
from opentar.serve.errors import ApiError
from opentar.serve.schemas import ERRORS, FEW_ERRORS, Told

router = APIRouter(tags=["operation"])
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Status(Told):
    """All is well."""

    status: str


@router.get("/health", responses={status: FEW_ERRORS[status] for status in (403, 405, 500)}, summary="Is it alive?")
async def health() -> Status:
    """The process answers. Needs no key."""
    return Status(status="ok")


@router.get("/ready", responses={status: ERRORS[status] for status in (403, 405, 500, 503)}, summary="Is it ready?")
async def ready(request: Request) -> Status:
    """Requests can be sent here: the default model is loaded, the threads work. Needs no key."""
    reason = service_of(request).why_not_ready()
    if reason is not None:
        raise ApiError(503, f"not ready: {reason}", "not_ready", headers={"Retry-After": "5"})
    return Status(status="ready")


@router.get(
    "/metrics",
    response_class=Response,
    responses={**FEW_ERRORS, 200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}},
    summary="Counters",
)
async def metrics(request: Request) -> Response:
    """What the service counts, for Prometheus."""
    return Response(service_of(request).metrics.text(), media_type=_TEXT)
