"""What the tabs share: the service, the texts, the model that is chosen, and the small parts they are built of."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from opentar.core.errors import ImageError

if TYPE_CHECKING:
    from opentar.page.asked import Asker, Drawn
    from opentar.page.texts import Texts

EVENT: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
"""Of every event: no place in an API of Gradio's, no spinner over what is shown, no queue beside the service's."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Shared by all tabs of one language."""

    asker: Asker
    say: Texts
    model: gr.Dropdown
    """Name of the chosen model."""
    tabs: gr.Tabs

    def scales(self) -> list[tuple[str, int]]:
        """The grids, for people."""
        return [(self.say(name), index) for index, name in enumerate(("fine", "middle", "coarse"))]


def status(text: str = "", kind: str = "") -> str:
    """HTML of a line that a screen reader reads when it changes. `kind` error makes it red."""
    return f'<p class="ot-status {kind}" role="status" aria-live="polite">{escape(text)}</p>'


def file_bytes(path: str | None) -> bytes:
    """The file that a reader chose. Raises ImageError where none is."""
    if path is None:
        raise ImageError("there is no picture yet; choose one, or draw one")
    return Path(path).read_bytes()


def caption_of(drawn: Drawn, say: Texts) -> str:
    """What stands below a drawn picture."""
    return say("gallery_seed", seed=drawn.seed)
