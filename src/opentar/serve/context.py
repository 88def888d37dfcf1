"""How a route finds the service of its app."""

from __future__ import annotations

from typing import cast

from starlette.requests import Request

from opentar.serve.service import Service


def service_of(request: Request) -> Service:
    """The service that `create_app` was given."""
    return cast(Service, request.app.state.service)
