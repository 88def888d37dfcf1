"""What every request passes before a route sees it: its number, the key, where it comes from, how large it is.

Plain ASGI middleware, so that nothing stands between a route and the client's going away. All of them decide on
`scope["path"]`, the path that is routed, and let pass only what they know: a new route is guarded from the start.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import uuid
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opentar.serve.errors import ApiError, api_error
from opentar.serve.limits import Limits
from opentar.serve.metrics import Metrics
from opentar.serve.rate import Rate
from opentar.serve.refused import BusyError
from opentar.serve.reply import ClientGone
from opentar.serve.service import Service

_LOG = logging.getLogger(__name__)
OPEN_PATHS = ("/health", "/ready")
"""What is answered without a key."""
WORK_PATHS = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/images/generations",
    "/v1/decisions",
    "/v1/moderations",
)
"""What takes a place in the queue."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class Numbered:
    """The outermost: gives each response an x-request-id, counts it, and turns what nobody caught into an error."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number, status = f"req_{uuid.uuid4().hex}", 0

        async def numbered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = number
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        try:
            await self._app(scope, receive, numbered)
        except ClientGone:
            status = status or 499
        except Exception as error:
            if status:
                # The response has begun; cutting it is all that is left.
                _LOG.error("request %s failed in the middle of its response", number, exc_info=error)
                raise
            await api_error(error).response()(scope, receive, numbered)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.responses.labels(route, str(status)).inc()
            if status in (401, 403, 413, 429, 503):
                self._metrics.refused.labels(str(status)).inc()


class Gate:
    """Checks the key, and that no web page of somebody else sends the request.

    Args:
        app: what is behind it.
        keys: what `Authorization: Bearer KEY` may carry; none lets everybody in.
        hosts: names that the Host header may have; None allows all. A page that had its own name pointed at this
            machine (DNS rebinding) is found by it.
        rate: how often each key may ask; None is any number of times. Without keys all share one.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Collection[str] = (),
        hosts: Collection[str] | None = None,
        rate: Rate | None = None,
    ) -> None:
        self._app, self._hosts, self._rate = app, hosts, rate
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # No route speaks anything else.
            raise ClientGone
        refusal = self._refusal(Headers(scope=scope), scope["path"])
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await refusal.response()(scope, receive, send)

    def _refusal(self, headers: Headers, path: str) -> ApiError | None:
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            return ApiError(403, "the Host header names another machine; use the address of this server", "wrong_host")
        origin = headers.get("origin")
        if origin is not None and (not host or origin.partition("://")[2] != host):
            return ApiError(403, "requests from other web pages are not answered", "wrong_origin")
        if path in OPEN_PATHS:
            return None
        if not self._keys:
            return self._too_often(b"")
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(key.encode()).digest()
        # Every key is compared, and digests of one length, so that the time tells nothing.
        known = [hmac.compare_digest(given, own) for own in self._keys]
        if scheme == "Bearer" and any(known):
            return self._too_often(given)
        told = "the API key is wrong" if key else "an API key is needed; send Authorization: Bearer KEY"
        return ApiError(401, told, headers={"WWW-Authenticate": "Bearer"})

    def _too_often(self, key: bytes) -> ApiError | None:
        seconds = self._rate.wait(key) if self._rate is not None else 0
        if not seconds:
            return None
        assert self._rate is not None
        told = f"{self._rate.per_minute} requests a minute are answered to one key; try again in {seconds} seconds"
        return ApiError(429, told, headers={"Retry-After": str(seconds)})


class Room:
    """Refuses work where there is no room for it, before it is parsed: parsing holds up what runs.

    A request whose body is there counts until its response begins, so that of many at once only those are parsed that
    can have a place. One whose body is still to come counts for nothing.

    Args:
        app: what is behind it.
        service: says whether there is room.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        self._most = service.limits.batch + service.limits.queue
        self._inside, self._turn = 0, asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in WORK_PATHS:
            await self._app(scope, receive, send)
            return
        if (full := self._full()) is not None:
            await full.response()(scope, receive, send)
            return
        counted = whole = False

        async def watched() -> Message:
            nonlocal counted, whole
            message = await receive()
            if not whole and message["type"] == "http.request" and not message.get("more_body", False):
                whole = True
                if (full := self._full()) is not None:
                    raise full
                counted = True
                self._inside += 1
                # One is parsed each time around the loop: whoever is refused meanwhile does not wait for all of them.
                async with self._turn:
                    await asyncio.sleep(0)
            return message

        async def told(message: Message) -> None:
            done()
            await send(message)

        def done() -> None:
            nonlocal counted
            self._inside -= counted
            counted = False

        try:
            await self._app(scope, watched, told)
        finally:
            done()

    def _full(self) -> ApiError | None:
        try:
            self._service.check_room(1 if self._inside < self._most else self._most + 1)
        except BusyError as error:
            return api_error(error)
        return None


class Bounded:
    """Refuses bodies that are too large, or take too long to come."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with a watched body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._limits.body_bytes
        too_large = ApiError(413, f"the body is larger than {most} bytes; send less")
        told = Headers(scope=scope).get("content-length", "0")
        if not told.isdecimal() or int(told[:19]) > most:
            await too_large.response()(scope, receive, send)
            return
        until = asyncio.get_running_loop().time() + self._limits.body_seconds
        seen, whole = 0, False

        async def watched() -> Message:
            nonlocal seen, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, "the body took too long to come; send it again", headers=_CLOSE) from None
            seen += len(message.get("body", b""))
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            if seen > most:
                raise too_large
            return message

        await self._app(scope, watched, send)


_CLOSE = {"connection": "close"}


def _name(host: str) -> str:
    """The name in a Host header, without its port; an empty one where there is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
