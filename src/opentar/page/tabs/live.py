"""Live: captions of a camera or a film as its pictures come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr

from opentar.page.asked import told
from opentar.page.live import Frame, Watcher, frames
from opentar.page.shared import EVENT, Page, file_bytes, status

_EVERY = 0.5
"""Seconds from one frame to the next."""
_NOISE = 0.04
"""Share of the cells in which a camera's frames differ without showing anything new."""
_KEPT = 30
"""Captions that stay on the page."""


@dataclass(frozen=True, kw_only=True)
class _Caption:
    second: float
    text: str
    milliseconds: int


def live_tab(page: Page) -> None:
    """Build the tab inside a `gr.Tab`."""
    say = page.say
    gr.HTML(status(say("live_about"), "ot-about"))
    with gr.Row(elem_classes="ot-sides"):
        with gr.Column(scale=2, min_width=280):
            film = gr.File(
                label=say("film"), file_types=["video", ".gif", ".webp"], type="filepath", height=150, elem_id="film"
            )
            with gr.Row(elem_classes="ot-buttons"):
                start = gr.Button(say("caption_it"), variant="primary", elem_id="caption", min_width=120)
                stop = gr.Button(say("stop"), elem_id="live-stop", min_width=120)
            camera = gr.Image(
                label=say("camera"), sources=["webcam"], streaming=True, type="filepath", image_mode=None, height=260,
                buttons=[], elem_id="camera",
            )  # fmt: skip
        with gr.Column(scale=3, min_width=280):
            frame = gr.Image(
                label=say("frame"), show_label=False, interactive=False, height=260, buttons=[],
                alt_text=say("frame"), visible=False, elem_id="frame", elem_classes="ot-picture",
            )  # fmt: skip
            line = gr.HTML(status(), elem_id="live-status")
            captions = gr.HTML(_listed(page, []), elem_id="captions")
    watched = gr.State(None)

    async def watch(model: str, path: str | None) -> Any:
        async for one in _watching(page, model, path):
            yield one

    async def snap(model: str, path: str | None, state: Any) -> tuple[Any, ...]:
        return await _snapped(page, model, path, state)

    running = start.click(watch, [page.model, film], [frame, line, captions], **EVENT)
    camera.stream(
        snap, [page.model, camera, watched], [watched, line, captions], stream_every=_EVERY, time_limit=600,
        concurrency_limit=None, show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    stop.click(lambda: status(say("stopped")), None, line, cancels=[running], queue=False, api_visibility="private")


async def _watching(page: Page, model: str, path: str | None) -> AsyncIterator[Any]:
    """Values of: frame, status, captions."""
    told_so_far: list[_Caption] = []
    watcher = Watcher()
    try:
        coming = frames(file_bytes(path), _EVERY)
        while (frame := await asyncio.to_thread(next, coming, None)) is not None:
            caption = await _captioned(page, model, watcher, frame)
            if caption is not None:
                told_so_far = [*told_so_far, caption][-_KEPT:]
            shown = gr.update(value=frame.picture, visible=True) if caption is not None else gr.skip()
            yield shown, status(_counted(page, watcher)), _listed(page, told_so_far)
    except Exception as error:
        yield gr.skip(), status(told(error), "error"), gr.skip()


async def _snapped(page: Page, model: str, path: str | None, state: Any) -> tuple[Any, ...]:
    """Values of: state, status, captions; the state is a watcher, its captions and when it began."""
    if path is None:
        return gr.skip(), gr.skip(), gr.skip()
    watcher, told_so_far, began = state or (Watcher(tolerance=_NOISE), [], time.monotonic())
    try:
        frame = Frame(second=time.monotonic() - began, file=file_bytes(path))
        caption = await _captioned(page, model, watcher, frame)
    except Exception as error:
        return gr.skip(), status(told(error), "error"), gr.skip()
    if caption is not None:
        told_so_far = [*told_so_far, caption][-_KEPT:]
    return (watcher, told_so_far, began), status(_counted(page, watcher)), _listed(page, told_so_far)


async def _captioned(page: Page, model: str, watcher: Watcher, frame: Frame) -> _Caption | None:
    """The caption of a frame that shows something new."""
    began = time.monotonic()
    grid, _ = await page.asker.grid(model, frame.content)
    if not watcher.is_new(grid.codes):
        return None
    caption = _Caption(second=frame.second, text="", milliseconds=0)
    async for answer in page.asker.ask(model, grid.codes, None):
        caption = replace(caption, text=answer.text)
    return replace(caption, milliseconds=round(1000 * (time.monotonic() - began)))


def _counted(page: Page, watcher: Watcher) -> str:
    return page.say("live_status", seen=watcher.seen, skipped=watcher.skipped)


def _listed(page: Page, told_so_far: list[_Caption]) -> str:
    """HTML, the newest first."""
    say = page.say
    if not told_so_far:
        return f'<p class="ot-status">{escape(say("no_captions"))}</p>'
    rows = "".join(
        f"<li><time>{one.second:.1f} s</time><span>{escape(one.text)}</span>"
        f"<small>{escape(say('latency', milliseconds=one.milliseconds))}</small></li>"
        for one in reversed(told_so_far)
    )
    return f'<ol class="ot-captions" aria-label="{escape(say("captions"))}" aria-live="polite">{rows}</ol>'
