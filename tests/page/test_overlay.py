"""HTML of grids: every cell is there, words of others cannot become markup."""

import base64
import io
import re

import torch
from PIL import Image

from opentar.page.dialect import Codebook, Grid
from opentar.page.overlay import as_url, mosaic, overlay, words_html
from opentar.vocab import Scale

GRID = Grid(scale=Scale(index=2, pool=2, side=2, length=4), codes=(0, 1, 2, 1))
EVIL = '"><img src=x onerror=alert(1)>'
BOOK = Codebook(torch.eye(3), ["apple", EVIL, "dog"])


def _html(**options: object) -> str:
    options = {"label": "codes", "cell_label": "row {row}, column {column}: {name}"} | options
    return overlay(GRID, Image.new("RGB", (8, 8), "red"), BOOK, **options)


def test_every_cell_can_be_chosen_and_says_what_it_is() -> None:
    html = _html(marked=[2], pressed=1)
    assert re.findall(r'data-cell="(\d)"', html) == ["0", "1", "2", "3"]
    assert 'aria-label="row 1, column 1: apple · 0"' in html
    assert html.count("ot-marked") == 1 and html.count('aria-pressed="true"') == 1
    # One stop for the tab key; the arrow keys do the rest.
    assert html.count('tabindex="0"') == 1 and html.count('tabindex="-1"') == 3


def test_words_are_escaped() -> None:
    for html in (_html(), _html(buttons=False), words_html(BOOK, 1, EVIL), _html(label=EVIL)):
        assert "<img src=x" not in html and "&lt;img" in html


def test_cells_that_cannot_be_chosen_are_no_buttons() -> None:
    html = _html(buttons=False, label="first picture", marked=[0])
    assert "<button" not in html and 'role="img" aria-label="first picture"' in html


def test_a_mosaic_shows_the_codes_so_far() -> None:
    picture = mosaic((1, None, 0, None), 2, [(9, 9, 9), (255, 0, 0)], 4)
    assert picture.size == (4, 4)
    assert picture.getpixel((0, 0)) == (255, 0, 0) and picture.getpixel((0, 3)) == (9, 9, 9)
    assert picture.getpixel((3, 0)) == picture.getpixel((3, 3)) == (226, 232, 240)


def test_a_picture_in_a_page_is_small() -> None:
    url = as_url(Image.new("RGBA", (2000, 1000), "blue"))
    kind, content = url.split(",")
    assert kind == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (480, 240)
