"""HTML and pictures of a grid of codes. All text of others is escaped here."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Sequence
from html import escape

from PIL import Image

from opentar.page.dialect import Codebook, Grid

_SIDE = 480
"""Pixels of the picture below a grid."""
_NOT_YET = (226, 232, 240)
"""Colour of a cell whose code is not drawn yet."""
_ROOMY = 6
"""Cells a side up to which there is room for words on a phone."""


def mosaic(codes: Sequence[int | None], side: int, colours: Sequence[tuple[int, int, int]], pixels: int) -> Image.Image:
    """A picture of `pixels` a side whose cells have the colours of the codes; those not yet drawn (None) are grey."""
    cells = Image.new("RGB", (side, side))
    cells.putdata([_NOT_YET if code is None else colours[code] for code in codes])
    return cells.resize((pixels, pixels), Image.Resampling.NEAREST)


def overlay(
    grid: Grid,
    picture: Image.Image | None,
    book: Codebook,
    *,
    label: str,
    cell_label: str,
    marked: Collection[int] = (),
    pressed: int | None = None,
    buttons: bool = True,
) -> str:
    """HTML of a picture with its grid of codes over it.

    Args:
        grid: the codes.
        picture: what they were made of; None shows the colours of the codes.
        book: gives words and colours.
        label: what a screen reader calls the whole.
        cell_label: what it calls a cell; `{row}`, `{column}` and `{name}` are filled in.
        marked: cells to mark.
        pressed: the chosen cell.
        buttons: whether cells can be chosen: by pointer, and by the arrow keys.
    """
    side = grid.scale.side
    shown = picture if picture is not None else mosaic(grid.codes, side, book.colours(), _SIDE)
    cells = []
    for cell, code in enumerate(grid.codes):
        row, column = grid.place(cell)
        told = escape(cell_label.format(row=row, column=column, name=book.name(code)), quote=True)
        word = escape(book.word(code) or str(code), quote=True)
        kinds = " ".join(["ot-cell", *(["ot-marked"] if cell in marked else [])])
        if buttons:
            first = (pressed or 0) == cell
            chosen = "true" if pressed == cell else "false"
            more = f'tabindex="{0 if first else -1}" aria-pressed="{chosen}" data-cell="{cell}" type="button"'
            cells.append(f'<button class="{kinds}" {more} aria-label="{told}" title="{told}"><i>{word}</i></button>')
        else:
            cells.append(f'<span class="{kinds}" title="{told}"></span>')
    role = f'role="group" aria-label="{escape(label, quote=True)}"' if buttons else 'aria-hidden="true"'
    told = "" if buttons else f'role="img" aria-label="{escape(label, quote=True)}"'
    size = "ot-grid ot-small" if side > _ROOMY else "ot-grid"
    return (
        f'<div class="ot-overlay" {told}><img alt="" src="{as_url(shown)}">'
        f'<div class="{size}" style="--ot-side:{side}" data-side="{side}" {role}>{"".join(cells)}</div></div>'
    )


def as_url(picture: Image.Image) -> str:
    """A small copy of a picture as a data URL."""
    small = picture.convert("RGB")
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    kept = io.BytesIO()
    small.save(kept, "WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(kept.getvalue()).decode()}"


def words_html(book: Codebook, code: int, title: str) -> str:
    """HTML that tells of one code: where it stands, its word, its colour."""
    red, green, blue = book.colours()[code]
    word = escape(book.word(code))
    name = f"<strong>{word}</strong> <span>{code}</span>" if word else f"<strong>{code}</strong>"
    dot = f'<b class="ot-dot" style="background:rgb({red},{green},{blue})" aria-hidden="true"></b>'
    return f'<p class="ot-code" role="status"><small>{escape(title)}</small>{dot}{name}</p>'
