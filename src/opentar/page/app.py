"""The page put together, and mounted on the app of the server: `/ui` leads to the reader's language."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from functools import cache
from html import escape

import gradio as gr
from fastapi import FastAPI, Request
from starlette.responses import RedirectResponse, Response

from opentar.core import environment
from opentar.page import look
from opentar.page.asked import Asker
from opentar.page.cover import Cover
from opentar.page.door import Door
from opentar.page.shared import Page
from opentar.page.tabs.ask import ask_tab
from opentar.page.tabs.dialect import dialect_tab
from opentar.page.tabs.draw import draw_tab
from opentar.page.tabs.edit import edit_tab
from opentar.page.tabs.live import live_tab
from opentar.page.texts import LANGUAGES, Texts, language_of
from opentar.serve.service import Service

PATH = "/ui"
_WAITING = 64
"""Clicks that may wait for a place in Gradio; requests wait in the service."""
_HOUR = 3600


def mount_page(app: FastAPI, service: Service, keys: Collection[str] = ()) -> None:
    """Show the page at `/ui` of an app of `create_app`, and lead there from `/`.

    Args:
        app: not started yet.
        service: that of the app; the page submits to it as the other routes do.
        keys: API keys; the page asks for one where there are some.
    """
    environment.for_page(_folder().name)
    asker = Asker(service)

    async def choose(request: Request) -> Response:
        asked = request.path_params.get("lang", request.query_params.get("lang"))
        language = language_of(asked, request.headers.get("accept-language", ""))
        return RedirectResponse(f"{PATH}/{language}/", 303)

    for place in ("/", PATH, f"{PATH}/", f"{PATH}/{{lang}}"):
        app.add_api_route(place, choose, include_in_schema=False)
    app.add_api_route("/manifest.json", _manifest, include_in_schema=False)
    app.add_api_route("/favicon.ico", _icon, include_in_schema=False)
    for language in LANGUAGES:
        say = Texts(language)
        gr.mount_gradio_app(
            app,
            build(asker, say),
            f"{PATH}/{language}",
            footer_links=[],
            run_history=False,
            show_error=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
            max_file_size=service.limits.body_bytes,
            theme=look.theme(),
            css=look.CSS,
            app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        )
    app.add_middleware(Door, keys=keys, path=PATH)
    app.add_middleware(Cover, path=PATH, languages={"en": "en", "zh": "zh-CN"})


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Where pictures lie that readers send and get, an hour at most; it goes with the process.

    One for all pages of a process: Gradio looks it up again for each file.
    """
    return tempfile.TemporaryDirectory(prefix="opentar-page-", ignore_cleanup_errors=True)


async def _icon() -> Response:
    """Four codes of a picture."""
    return Response(look.ICON, media_type="image/svg+xml")


async def _manifest() -> dict[str, str]:
    """What a phone wants to know to put the page on its screen; every page of Gradio asks for it."""
    return {"name": "OpenTar", "short_name": "OpenTar", "start_url": PATH, "display": "standalone"}


def build(asker: Asker, say: Texts) -> gr.Blocks:
    """The page in one language."""
    models = asker.models
    with gr.Blocks(title=say("title"), analytics_enabled=False, delete_cache=(_HOUR, _HOUR)) as blocks:
        gr.HTML(_top(say))
        model = gr.Dropdown(
            models, value=models[0], label=say("model"), visible=len(models) > 1, elem_id="model", interactive=True
        )
        with gr.Tabs() as tabs:
            page = Page(asker=asker, say=say, model=model, tabs=tabs)
            with gr.Tab(say("draw"), id="draw", visible="draw" in asker.abilities()):
                draw = draw_tab(page)
            with gr.Tab(say("ask"), id="ask"):
                ask_tab(page, draw)
            with gr.Tab(say("edit"), id="edit"):
                edit_tab(page)
            with gr.Tab(say("dialect"), id="dialect"):
                dialect_tab(page, draw)
            with gr.Tab(say("live"), id="live"):
                live_tab(page)
    blocks.queue(max_size=_WAITING, default_concurrency_limit=None, api_open=False)
    return blocks


def _top(say: Texts) -> str:
    other = say.other
    return (
        f'<header class="ot-head"><h1>Open<b>Tar</b></h1><p>{escape(say("slogan"))}</p>'
        f'<a href="{PATH}?lang={other}" hreflang="{other}" lang="{other}">{escape(say("other_language"))}</a></header>'
    )
