"""Draw: a prompt becomes pictures that sharpen while they are drawn."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from opentar.drawing import DrawOptions
from opentar.page.asked import MOST_PICTURES, Drawn, Looked, Spelled, default_options, told
from opentar.page.overlay import mosaic
from opentar.page.shared import EVENT, Page, caption_of, status

_PAUSE = 0.12
"""Seconds between two looks at codes that are spelled."""
_PIXELS = 384
_KEPT = 24
"""Pictures of one reader that are kept."""


@dataclass(frozen=True, kw_only=True)
class DrawTab:
    """What other tabs take from this one."""

    chosen: gr.State
    """The Drawn that is shown, or None."""
    see_codes: gr.Button
    ask_about: gr.Button


def draw_tab(page: Page) -> DrawTab:
    """Build the tab inside a `gr.Tab`."""
    say = page.say
    parts = _Parts(page)
    drawn, chosen = gr.State([]), gr.State(None)
    options = [parts.detok, parts.scale, parts.guidance]
    asked = [page.model, parts.prompt, parts.number, parts.seed, parts.random, *options, drawn]
    shown = [parts.picture, parts.status, parts.gallery, parts.seed, drawn, chosen, parts.draw, parts.stop, parts.about]

    async def draw(*values: Any) -> AsyncIterator[Any]:
        async for one in _drawing(page, *values):
            yield one

    def again(one: Drawn | None, random: bool) -> tuple[Any, Any, Any]:
        if one is None:
            return gr.skip(), gr.skip(), random
        return one.prompt, one.seed, False

    async def describe(model: str, one: Drawn | None) -> AsyncIterator[str]:
        if one is None:
            yield status(say("no_picture"))
            return
        try:
            async for answer in page.asker.ask(model, one.codes, None):
                yield status(answer.text, "ot-said")
        except Exception as error:
            yield status(told(error), "error")

    def choose(event: gr.SelectData, pictures: list[Drawn]) -> tuple[Any, Any, str]:
        one = pictures[len(pictures) - 1 - event.index] if event.index < len(pictures) else None
        return one, one.picture if one else None, status()

    describing = parts.describe.click(describe, [page.model, chosen], parts.about, **EVENT)
    # A description that still grows would end up below another picture.
    others = [parts.prompt.submit, parts.draw.click, parts.again.click, parts.gallery.select]
    gr.on(others, None, None, None, cancels=[describing], queue=False, api_visibility="private")
    running = gr.on([parts.prompt.submit, parts.draw.click], draw, asked, shown, **EVENT)
    follow = parts.again.click(again, [chosen, parts.random], [parts.prompt, parts.seed, parts.random], **EVENT)
    repeated = follow.then(draw, asked, shown, **EVENT)
    ended = [parts.status, parts.draw, parts.stop]
    buttons = (gr.update(visible=True), gr.update(visible=False))
    parts.stop.click(
        lambda: (status(say("stopped")), *buttons), None, ended, cancels=[running, repeated], queue=False,
        api_visibility="private",
    )  # fmt: skip
    parts.gallery.select(choose, drawn, [chosen, parts.picture, parts.about], **EVENT)
    page.model.change(lambda model: _of_model(page, model), page.model, options, **EVENT)
    return DrawTab(chosen=chosen, see_codes=parts.see_codes, ask_about=parts.ask_about)


class _Parts:
    """The components."""

    def __init__(self, page: Page) -> None:
        say = page.say
        with gr.Row(elem_classes="ot-sides"):
            with gr.Column(scale=2, min_width=280):
                self.prompt = gr.Textbox(
                    label=say("prompt"), placeholder=say("prompt_hint"), lines=1, max_lines=4,
                    autofocus=True, elem_id="prompt",
                )  # fmt: skip
                with gr.Row(elem_classes="ot-buttons"):
                    self.draw = gr.Button(say("draw_it"), variant="primary", elem_id="draw")
                    self.stop = gr.Button(say("stop"), variant="stop", visible=False, elem_id="stop")
                gr.Examples([[text] for text in page.say.examples], self.prompt, label=say("examples"))
                with gr.Accordion(say("settings"), open=False, elem_id="draw-settings"):
                    config = page.asker.config()
                    scale, guidance = default_options(config)
                    self.detok = gr.Radio(
                        list(config.detokenizers), value=config.defaults.draw.detok, label=say("detok")
                    )
                    self.scale = gr.Radio(page.scales(), value=scale, label=say("scale"))
                    self.guidance = gr.Slider(1, 10, value=guidance, step=0.5, label=say("guidance"))
                    self.number = gr.Slider(1, MOST_PICTURES, value=1, step=1, label=say("number"), elem_id="number")
                    self.seed = gr.Number(0, label=say("seed"), minimum=0, precision=0, elem_id="seed")
                    self.random = gr.Checkbox(True, label=say("random_seed"), elem_id="random-seed")
            with gr.Column(scale=3, min_width=280):
                self.picture = gr.Image(
                    label=say("picture"), show_label=False, interactive=False, format="png", height=400,
                    buttons=["download"], alt_text=say("picture"), elem_id="drawn", elem_classes="ot-picture",
                )  # fmt: skip
                self.status = gr.HTML(status(), elem_id="draw-status")
                with gr.Row(elem_classes="ot-buttons"):
                    self.describe = gr.Button(say("describe_it"), size="sm", elem_id="describe")
                    self.again = gr.Button(say("again"), size="sm", elem_id="again")
                    self.ask_about = gr.Button(say("ask_about"), size="sm", elem_id="ask-about")
                    self.see_codes = gr.Button(say("see_codes"), size="sm", elem_id="see-codes")
                self.about = gr.HTML(status(), elem_id="described")
                self.gallery = gr.Gallery(
                    label=say("gallery"), show_label=False, format="png", columns=6, height=124, allow_preview=False,
                    fit_columns=False, buttons=[], elem_id="gallery", object_fit="cover", visible=False,
                )  # fmt: skip


async def _drawing(
    page: Page, model: str, prompt: str, number: float, seed: float | None, random: bool, detok: str, scale: int,
    guidance: float, kept: list[Drawn],
) -> AsyncIterator[Any]:  # fmt: skip
    """Values of: picture, status, gallery, seed, drawn, chosen, the buttons draw and stop, what describes."""
    say, skip = page.say, gr.skip()
    began = looked = time.monotonic()
    first = secrets.randbelow(10_000) if random or seed is None else int(seed)
    count, done = int(number), 0
    options: DrawOptions = {"detok": detok, "scale": scale, "guidance": guidance}
    busy = (gr.update(visible=False), gr.update(visible=True))
    yield skip, status(say("queued")), skip, first, skip, skip, *busy, status()
    ended = (gr.update(visible=True), gr.update(visible=False))
    try:
        async for step in page.asker.draw(model, prompt, count, first, options):
            now = time.monotonic()
            if isinstance(step, Spelled):
                total = step.side**2
                if now - looked < _PAUSE and len(step.codes) < total:
                    continue
                looked = now
                told_now = status(say("spelling", step=len(step.codes), total=total))
                picture = mosaic(step.codes, step.side, step.book.colours(), _PIXELS)
                yield picture, told_now, skip, skip, skip, skip, skip, skip, skip
            elif isinstance(step, Looked):
                told_now = status(say("painting", number=step.index + 1, total=count))
                yield step.picture, told_now, skip, skip, skip, skip, skip, skip, skip
            else:
                done += 1
                kept = [*kept, step][-_KEPT:]
                shown = [(one.picture, caption_of(one, say)) for one in reversed(kept)]
                told_now = status(_ended(page, step, now - began))
                pictures = gr.update(value=shown, visible=True)
                yield step.picture, told_now, pictures, skip, kept, step, skip, skip, skip
    except Exception as error:
        yield skip, status(told(error), "error"), skip, skip, skip, skip, *ended, skip
        return
    yield skip, skip, skip, skip, skip, skip, *ended, skip


def _ended(page: Page, drawn: Drawn, seconds: float) -> str:
    text = page.say("drawn", seed=drawn.seed, seconds=f"{seconds:.1f}")
    if drawn.left_out:
        text += f" · {page.say('left_out', words=', '.join(drawn.left_out))}"
    return text


def _of_model(page: Page, model: str) -> tuple[Any, Any, Any]:
    config = page.asker.config(model)
    scale, guidance = default_options(config)
    return gr.update(choices=list(config.detokenizers), value=config.defaults.draw.detok), scale, guidance
