"""Edit: no model edits yet, so this tab says what the model can do instead."""

from __future__ import annotations

from html import escape

import gradio as gr

from opentar.page.shared import EVENT, Page


def edit_tab(page: Page) -> None:
    """Build the tab inside a `gr.Tab`."""
    about = gr.HTML(_about(page, page.asker.models[0]), elem_id="edit-about")
    page.model.change(lambda model: _about(page, model), page.model, about, **EVENT)


def _about(page: Page, model: str) -> str:
    say, able = page.say, page.asker.abilities(model)
    draws = ["can_draw"] if "draw" in able else []
    codes = ["can_codes"] if "draw" in able else []
    listed = "".join(f"<li>{escape(say(name))}</li>" for name in [*draws, "can_read", *codes])
    return (
        f'<div class="ot-note"><h3>{escape(say("no_edit", model=model))}</h3>'
        f"<p>{escape(say('can'))}</p><ul>{listed}</ul><p>{escape(say('edit_later'))}</p></div>"
    )
