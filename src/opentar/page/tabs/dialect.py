"""Dialect: the picture as codes that can be looked at, replaced, painted again and compared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from opentar.core.errors import ConfigError, ImageError
from opentar.core.picture_formats import encode_picture
from opentar.core.pictures import open_picture
from opentar.page.asked import Drawn, told
from opentar.page.dialect import Codebook, Grid, differing, replaced
from opentar.page.overlay import overlay, words_html
from opentar.page.shared import EVENT, Page, file_bytes, status
from opentar.page.tabs.draw import DrawTab

_KEYS = """
element.addEventListener('click', (event) => {
  const cell = event.target.closest('[data-cell]');
  if (!cell) return;
  element.querySelectorAll('[aria-pressed="true"]').forEach((one) => one.setAttribute('aria-pressed', 'false'));
  cell.setAttribute('aria-pressed', 'true');
  trigger('click', {cell: Number(cell.dataset.cell)});
});
element.addEventListener('keydown', (event) => {
  const cell = event.target.closest('[data-cell]');
  if (!cell) return;
  const side = Number(cell.parentElement.dataset.side), at = Number(cell.dataset.cell);
  const column = at % side;
  const to = {ArrowRight: column < side - 1 ? at + 1 : at, ArrowLeft: column ? at - 1 : at,
    ArrowDown: at + side, ArrowUp: at - side, Home: at - column, End: at - column + side - 1}[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const next = cell.parentElement.querySelector('[data-cell="' + to + '"]');
  if (!next) return;
  cell.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});
"""
"""Cells are chosen by pointer or Enter; the arrow keys go from cell to cell."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The picture that is looked at."""

    grid: Grid
    book: Codebook = field(repr=False, compare=False)
    picture: Image.Image
    changes: dict[int, int] = field(default_factory=dict)
    """Cell -> its new code."""
    cell: int | None = None
    seed: int = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Opened:
        """Itself: nothing of it changes, and the codebook is large."""
        return self

    @property
    def now(self) -> Grid:
        """The codes with the changes."""
        return replaced(self.grid, self.changes)


def dialect_tab(page: Page, draw: DrawTab) -> None:
    """Build the tab inside a `gr.Tab`."""
    parts, acts = _Parts(page), _Acts(page)
    opened = gr.State(None)
    view = [opened, parts.codes, parts.cell, parts.near, parts.status]
    asked = [page.model, parts.picture, parts.scale, opened]
    gr.on([parts.picture.input, parts.scale.input], acts.read, asked, view, **EVENT)
    drawn = [*view, page.tabs, parts.scale, parts.picture]
    draw.see_codes.click(acts.read_drawn, [page.model, draw.chosen], drawn, **EVENT)
    parts.codes.click(acts.choose, opened, [opened, parts.cell, parts.near], **EVENT)
    parts.replace.click(acts.change, [opened, parts.near, parts.own], [*view, parts.own], **EVENT)
    parts.undo.click(acts.undo, opened, view, **EVENT)
    painting = parts.paint.click(acts.paint, [page.model, opened], [parts.painted, parts.status], **EVENT)
    page.model.change(acts.look, None, view, cancels=[painting], **EVENT)
    parts.compare.click(acts.compare, [page.model, opened, parts.other], [parts.pair, parts.compared], **EVENT)


class _Acts:
    """What happens when something is pressed. Most give the values of: picture, codes, cell, neighbours, status."""

    def __init__(self, page: Page) -> None:
        self._page, self._say = page, page.say

    def look(self, one: Opened | None = None, text: str = "", kind: str = "") -> tuple[Any, ...]:
        """Show a picture, or none."""
        page = self._page
        if one is None:
            return None, _empty(page), "", gr.update(choices=[], value=None), status(text, kind)
        return one, _overlay(page, one), *_chosen(page, one), status(text or _changed(page, one), kind)

    async def read(self, model: str, path: str | None, scale: int, one: Opened | None) -> tuple[Any, ...]:
        """Another picture, or another grid."""
        try:
            # A drawn picture has no file; it is read again where another grid is chosen.
            content = file_bytes(path) if path or one is None else encode_picture(one.picture, "PNG")
            return self.look(await self._opened(model, content, scale))
        except Exception as error:
            return self.look(None, told(error), "error")

    async def read_drawn(self, model: str, one: Drawn | None) -> tuple[Any, ...]:
        """The picture of the other tab; values more: tab, scale, file."""
        if one is None:
            return (*self.look(None, self._say("no_picture")), *[gr.skip()] * 3)
        try:
            grid, book = await self._page.asker.grid(model, one.codes)
        except Exception as error:
            return (*self.look(None, told(error), "error"), *[gr.skip()] * 3)
        found = Opened(grid=grid, book=book, picture=one.picture, seed=one.seed)
        return (*self.look(found), gr.Tabs(selected="dialect"), grid.scale.index, None)

    def choose(self, one: Opened | None, event: gr.EventData) -> tuple[Any, ...]:
        """A cell; values of: picture, cell, neighbours."""
        # The page marks the cell by itself; drawing the grid anew would lose the focus.
        cell = event._data.get("cell") if isinstance(event._data, dict) else None
        if one is None or not isinstance(cell, int) or not 0 <= cell < one.grid.scale.length:
            return gr.skip(), gr.skip(), gr.skip()
        found = replace(one, cell=cell)
        return found, *_chosen(self._page, found)

    def change(self, one: Opened | None, near: int | None, own: float | None) -> tuple[Any, ...]:
        """Another code in the cell; one value more: the code that was typed."""
        try:
            if one is None or one.cell is None:
                raise ConfigError(self._say("choose_cell"))
            code = one.book.checked(own if own is not None else near)
            found = replace(one, changes={**one.changes, one.cell: code})
        except ConfigError as error:
            return (*self.look(one, str(error), "error"), own)
        return (*self.look(found), None)

    def undo(self, one: Opened | None) -> tuple[Any, ...]:
        """The codes that were read."""
        return self.look(replace(one, changes={}) if one else None)

    async def paint(self, model: str, one: Opened | None) -> AsyncIterator[tuple[Any, str]]:
        """Values of: painted picture, status."""
        if one is None:
            yield gr.skip(), status(self._say("no_picture"))
            return
        try:
            async for step in self._page.asker.paint(model, one.now, one.seed):
                yield step.picture, status(_changed(self._page, one))
        except Exception as error:
            yield gr.skip(), status(told(error), "error")

    async def compare(self, model: str, one: Opened | None, path: str | None) -> tuple[str, str]:
        """Values of: both pictures, how many cells differ."""
        try:
            if one is None:
                raise ImageError(self._say("no_picture"))
            return _compared(self._page, one, await self._opened(model, file_bytes(path), one.grid.scale.index))
        except Exception as error:
            return "", status(told(error), "error")

    async def _opened(self, model: str, content: bytes, scale: int) -> Opened:
        grid, book = await self._page.asker.grid(model, content, scale)
        picture = await asyncio.to_thread(open_picture, content, "the picture", 0)
        return Opened(grid=grid, book=book, picture=picture)


class _Parts:
    """The components."""

    def __init__(self, page: Page) -> None:
        say = page.say
        gr.HTML(status(say("dialect_about"), "ot-about"))
        with gr.Row(elem_classes="ot-sides"):
            with gr.Column(scale=3, min_width=280):
                with gr.Row():
                    self.picture = gr.Image(
                        label=say("picture"), type="filepath", image_mode=None, sources=["upload", "clipboard"],
                        height=130, buttons=[], elem_id="dialect-picture", min_width=200,
                    )  # fmt: skip
                    own = page.asker.config().defaults.read.scale
                    self.scale = gr.Radio(page.scales(), value=own, label=say("scale"), min_width=200)
                self.codes = gr.HTML(_empty(page), js_on_load=_KEYS, elem_id="codes", label=say("codes"))
                self.status = gr.HTML(status(), elem_id="dialect-status")
            with gr.Column(scale=2, min_width=280):
                self.cell = gr.HTML("", elem_id="cell")
                self.near = gr.Radio([], label=say("neighbours"), elem_id="near")
                self.own = gr.Number(None, label=say("own_code"), minimum=0, precision=0, elem_id="own-code")
                with gr.Row(elem_classes="ot-buttons"):
                    self.replace = gr.Button(say("replace"), size="sm", elem_id="replace")
                    self.undo = gr.Button(say("undo"), size="sm", elem_id="undo")
                self.paint = gr.Button(say("paint"), variant="primary", elem_id="paint")
                self.painted = gr.Image(
                    label=say("painted"), show_label=False, interactive=False, format="png", height=260,
                    buttons=["download"], alt_text=say("painted"), elem_id="painted", elem_classes="ot-picture",
                )  # fmt: skip
        with gr.Accordion(say("compare"), open=False, elem_id="compare-box"):
            with gr.Row():
                self.other = gr.Image(
                    label=say("other_picture"), type="filepath", image_mode=None, sources=["upload", "clipboard"],
                    height=140, buttons=[], elem_id="other-picture",
                )  # fmt: skip
                with gr.Column(min_width=160):
                    self.compare = gr.Button(say("compare_them"), elem_id="compare")
                    self.compared = gr.HTML(status(), elem_id="compared")
            self.pair = gr.HTML("", elem_id="pair")


def _empty(page: Page) -> str:
    return f'<p class="ot-empty">{escape(page.say("no_codes"))}</p>'


def _overlay(page: Page, one: Opened) -> str:
    say = page.say
    cell_label = say("cell_is", row="{row}", column="{column}", name="{name}")
    marked = [cell for cell, code in one.changes.items() if code != one.grid.codes[cell]]
    return overlay(
        one.now, one.picture, one.book, label=say("codes"), cell_label=cell_label, marked=marked, pressed=one.cell
    )


def _chosen(page: Page, one: Opened) -> tuple[str, Any]:
    if one.cell is None:
        return status(page.say("choose_cell")), gr.update(choices=[], value=None)
    code = one.now.codes[one.cell]
    row, column = one.grid.place(one.cell)
    choices = [(one.book.name(near), near) for near in one.book.neighbours(code)]
    title = page.say("cell", row=row, column=column)
    return words_html(one.book, code, title), gr.update(choices=choices, value=choices[0][1] if choices else None)


def _changed(page: Page, one: Opened) -> str:
    count = len(differing(one.grid, one.now))
    return page.say("changed", count=count, total=one.grid.scale.length) if count else ""


def _compared(page: Page, one: Opened, other: Opened) -> tuple[str, str]:
    """HTML of both pictures with the cells that differ, and how many they are."""
    say = page.say
    cells = differing(one.now, other.grid)
    cell_label = say("cell_is", row="{row}", column="{column}", name="{name}")
    count = say("differ", count=len(cells), total=one.grid.scale.length)
    sides = [
        overlay(
            grid, picture, one.book, label=f"{say(name)}: {count}", cell_label=cell_label, marked=cells, buttons=False
        )
        for name, grid, picture in (
            ("first_picture", one.now, one.picture),
            ("second_picture", other.grid, other.picture),
        )
    ]
    return f'<div class="ot-pair">{"".join(sides)}</div>', status(count)
