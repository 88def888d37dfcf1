"""The door of the page where the server wants a key: a form takes it, a cookie carries it from then on.

A browser cannot send `Authorization` by itself. The cookie is for the page alone, not for scripts and not for requests
from other pages; behind the door the guard of the server checks the key as ever.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from html import escape
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from opentar.page.look import DOOR_CSS
from opentar.page.texts import Texts, language_of

_COOKIE = "opentar_key"
_MOST = 4096
"""Bytes of a form; a key is shorter."""


class Door:
    """Middleware before the guard.

    Args:
        app: what is behind it.
        keys: as the guard has them; none leaves the door open.
        path: where the page is.
    """

    def __init__(self, app: ASGIApp, keys: Collection[str], path: str) -> None:
        self._app, self._keys, self._path = app, tuple(keys), path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with the key of its cookie; ask for one where the page is wanted without."""
        if scope["type"] != "http" or not self._keys or not self._is_page(scope["path"]):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        key = _cookie(headers.get("cookie", ""))
        known = self._known(key)
        if known or "authorization" in headers:
            if known:
                scope = {**scope, "headers": list(scope["headers"])}
                MutableHeaders(scope=scope)["authorization"] = f"Bearer {known}"
            await self._app(scope, receive, send)
            return
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            await self._app(scope, receive, send)
            return
        wants_page = "text/html" in headers.get("accept", "")
        answer = await self._form(Request(scope, receive)) if wants_page else None
        await (answer or self._app)(scope, receive, send)

    def _is_page(self, path: str) -> bool:
        return path == "/" or path == self._path or path.startswith(f"{self._path}/")

    def _known(self, token: str) -> str | None:
        """The key whose token a cookie has. All are compared, so that the time tells nothing."""
        met = [key for key in self._keys if hmac.compare_digest(_token(key), token)]
        return met[0] if met else None

    async def _form(self, request: Request) -> Response:
        say = Texts(language_of(request.query_params.get("lang"), request.headers.get("accept-language", "")))
        wrong = ""
        if request.method == "POST":
            body = b""
            async for part in request.stream():
                body += part
                if len(body) > _MOST:
                    return Response(status_code=413)
            given = parse_qs(body.decode("utf-8", "replace")).get("key", [""])[0]
            token = _token(given)
            if self._known(token):
                answer = RedirectResponse(self._path, 303)
                answer.set_cookie(_COOKIE, token, httponly=True, samesite="strict", path="/")
                return answer
            wrong = f'<p role="alert">{escape(say("key_wrong"))}</p>'
        return HTMLResponse(
            f'<!doctype html><html lang="{say.language}"><meta charset="utf-8"><title>OpenTar</title>'
            f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{DOOR_CSS}</style>'
            f'<form method="post" action="{self._path}"><h1>OpenTar</h1><p>{escape(say("key_wanted"))}</p>{wrong}'
            f'<label>{escape(say("key"))}<input name="key" type="password" autocomplete="current-password" autofocus '
            f"required></label><button>{escape(say('enter'))}</button></form></html>",
            401,
            {"cache-control": "no-store"},
        )


def _token(key: str) -> str:
    """What the cookie holds: it proves the key and does not tell it."""
    return hashlib.sha256(b"opentar page " + key.encode("utf-8", "replace")).hexdigest()


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(_COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None and found.value.isascii() else ""
