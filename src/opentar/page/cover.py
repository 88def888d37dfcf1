"""What every response of the page is given: nothing may be loaded from elsewhere, and the HTML says its language."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_POLICY = (
    # Gradio builds some of its parts from texts, hence eval; its camera and its downloads are blobs.
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; form-action 'self'; "
    "base-uri 'self'; object-src 'none'"
)
_MOST = 8 << 20
"""Bytes of a page's HTML."""


class Cover:
    """Middleware around the page.

    Args:
        app: what is behind it.
        path: where the page is.
        languages: code -> what `lang` says; `path`/code/ is the page of each.
    """

    def __init__(self, app: ASGIApp, path: str, languages: dict[str, str]) -> None:
        self._app, self._path = app, path
        self._pages = {f"{path}/{code}/": tag for code, tag in languages.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or not scope["path"].startswith(f"{self._path}/"):
            await self._app(scope, receive, send)
            return
        tag = self._pages.get(scope["path"])
        start: Message | None = None
        body = b""

        async def covered(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = _POLICY
                headers["referrer-policy"] = "no-referrer"
                if tag is not None and headers.get("content-type", "").startswith("text/html"):
                    start = message
                    return
            elif start is not None:
                body += message.get("body", b"")
                if message.get("more_body", False) and len(body) < _MOST:
                    return
                body = spoken(body, tag or "en")
                MutableHeaders(scope=start)["content-length"] = str(len(body))
                await send(start)
                start, message = None, {"type": "http.response.body", "body": body}
            await send(message)

        if tag is not None:
            # Only HTML that is not packed can be changed.
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]}
        await self._app(scope, receive, covered)


def spoken(page: bytes, tag: str) -> bytes:
    """HTML that says its language, for screen readers and for Gradio's own texts, which follow the browser's."""
    told = (
        f"<head><script>for(const [name,value] of [['language','{tag}'],['languages',['{tag}']]])"
        "Object.defineProperty(navigator,name,{get:()=>value})</script>"
    )
    page = page.replace(b'lang="en"', f'lang="{tag}"'.encode(), 1)
    return page.replace(b"<head>", told.encode(), 1)
