"""The HTTP app: routes, errors and guards around one service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from opentar import __version__
from opentar.serve import errors
from opentar.serve.guard import OPEN_PATHS, Bounded, Gate, Numbered, Room
from opentar.serve.policy import DEFAULT, Policy
from opentar.serve.rate import Rate
from opentar.serve.routes import chat, decisions, health, images, models, moderations, responses
from opentar.serve.service import Service
from opentar.serve.stored import ResponseStore

_LOG = logging.getLogger(__name__)
_ABOUT = "Pictures and text in one language: draw, read and talk, in the shapes of OpenAI's API."


def create_app(
    service: Service,
    *,
    keys: Collection[str] = (),
    hosts: Collection[str] | None = None,
    policy: Policy = DEFAULT,
    rate: Rate | None = None,
) -> FastAPI:
    """An app that starts the service with itself and closes it when it ends.

    Args:
        service: not started yet.
        keys: API keys that are let in; none lets everybody in.
        hosts: names that the Host header may have; None allows all.
        policy: what `/v1/moderations` asks.
        rate: how often each key may ask; None is any number of times.

    Raises UnknownModelError where the policy names a model that is not served.
    """
    service.shelf.entry(policy.model)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        loading = asyncio.create_task(_warm_up(service))
        try:
            yield
        finally:
            loading.cancel()
            await service.close()

    app = FastAPI(
        title="OpenTar",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service, app.state.policy = service, policy
    app.state.responses = ResponseStore(service.limits.stored_responses, service.limits.stored_bytes)
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    errors.install(app)
    for family in (chat, responses, images, decisions, moderations, models, health):
        app.include_router(family.router)
    # The last one added is the outermost.
    app.add_middleware(Bounded, limits=service.limits)
    app.add_middleware(Room, service=service)
    app.add_middleware(Gate, keys=keys, hosts=hosts, rate=rate)
    app.add_middleware(Numbered, metrics=service.metrics)
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: what FastAPI makes, without its 422, for which 400 is answered here."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for entry in document["paths"].values():
            for operation in entry.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        for path in OPEN_PATHS:
            document["paths"][path]["get"]["security"] = []
        app.openapi_schema = document
    return app.openapi_schema


async def _warm_up(service: Service) -> None:
    """Load the default model; where that fails, /ready says so and the first request tells why."""
    try:
        await service.warm_up()
    except Exception as error:
        _LOG.error("the model cannot be loaded: %s", error)
