"""Ask: a conversation about a picture."""

from __future__ import annotations

from collections.abc import AsyncIterator
from html import escape
from typing import Any

import gradio as gr

from opentar.page.asked import Exchange, told
from opentar.page.shared import EVENT, Page, file_bytes, status
from opentar.page.tabs.draw import DrawTab


def ask_tab(page: Page, draw: DrawTab) -> None:
    """Build the tab inside a `gr.Tab`."""
    say = page.say
    with gr.Row(elem_classes="ot-sides"):
        with gr.Column(scale=2, min_width=280):
            picture = gr.Image(
                label=say("ask_picture"), type="filepath", image_mode=None, sources=["upload", "clipboard", "webcam"],
                height=340, format="png", buttons=[], elem_id="ask-picture",
            )  # fmt: skip
        with gr.Column(scale=3, min_width=280):
            chat = gr.Chatbot(
                label=say("chat"), height=340, render_markdown=False, sanitize_html=True, allow_tags=False,
                feedback_options=None, buttons=[], placeholder=say("chat_empty"), elem_id="chat",
            )  # fmt: skip
            question = gr.Textbox(
                label=say("question"), placeholder=say("question_hint"), lines=1, max_lines=3, elem_id="question"
            )
            with gr.Row(elem_classes="ot-buttons"):
                ask = gr.Button(say("ask_it"), variant="primary", elem_id="ask", min_width=120)
                fresh = gr.Button(say("new_chat"), elem_id="new-chat", min_width=120)
            gr.Examples([[text] for text in say.questions], question, label=say("examples"))
            line = gr.HTML(status(), elem_id="ask-status")
    before = gr.State([])

    async def answer(model: str, path: str | None, text: str, past: list[Exchange], shown: list[Any]) -> Any:
        async for one in _answering(page, model, path, text, past, shown):
            yield one

    asked = gr.on(
        [ask.click, question.submit], answer, [page.model, picture, question, before, chat],
        [chat, question, before, line], **EVENT,
    )  # fmt: skip
    draw.ask_about.click(
        lambda one: (one.picture if one else None, gr.Tabs(selected="ask")), draw.chosen, [picture, page.tabs], **EVENT
    )
    gr.on(
        [fresh.click, picture.change], lambda: ([], [], status()), None, [chat, before, line], cancels=[asked],
        queue=False, api_visibility="private",
    )  # fmt: skip


async def _answering(
    page: Page, model: str, path: str | None, text: str, before: list[Exchange], shown: list[Any]
) -> AsyncIterator[Any]:
    """Values of: conversation, question, exchanges, status."""
    skip = gr.skip()
    if path is None:
        yield skip, skip, skip, status(page.say("no_picture"))
        return
    # The conversation shows HTML: whatever somebody wrote, the model included, is escaped.
    said = [*shown, {"role": "user", "content": escape(text)}]
    answer = None
    try:
        async for answer in page.asker.ask(model, file_bytes(path), text, before):
            told_now = answer.text
            if answer.confidence is not None:
                told_now += f" · {page.say('confidence', share=round(100 * answer.confidence))}"
            yield [*said, {"role": "assistant", "content": escape(told_now)}], "", skip, status()
    except Exception as error:
        yield shown, text, skip, status(told(error), "error")
        return
    if answer is None or not answer.text.strip():
        yield [*said, {"role": "assistant", "content": "…"}], "", skip, status()
        return
    yield skip, skip, [*before, Exchange(question=text, answer=answer.text)], skip
