"""A contact sheet: many pictures with their captions on one page, for looking with one's own eyes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from opentar.core.errors import DataError

_LINE, _LINES, _PAD = 12, 4, 6


def wrap(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    """Lines of at most `width` pixels; breaks at spaces, or anywhere in a text without spaces."""
    lines: list[str] = []
    line = ""
    for part in text.replace(" ", " \0").split("\0"):
        if line and font.getlength((line + part).rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        while font.getlength(part.rstrip()) > width and len(part) > 1:
            cut = next((n for n in range(len(part), 1, -1) if font.getlength(part[:n]) <= width), 1)
            lines.append(part[:cut])
            part = part[cut:]
        line += part
    return [*lines, line.rstrip()] if line.strip() else lines


def contact_sheet(
    pictures: Sequence[np.ndarray | Image.Image],
    captions: Sequence[str],
    columns: int = 8,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont | None = None,
) -> Image.Image:
    """Pictures (RGB, uint8 (H, W, 3) or PIL, all of one size) row by row, each over its caption of up to four lines.

    Pillow's own font has no Chinese; pass one that has, or English captions. Raises DataError when the numbers of
    pictures and captions differ, there are none, or columns < 1.
    """
    if not pictures or len(pictures) != len(captions) or columns < 1:
        raise DataError(
            f"a sheet needs as many captions as pictures, at least one, and columns >= 1: "
            f"given {len(pictures)} pictures, {len(captions)} captions, {columns} columns"
        )
    face = font or ImageFont.load_default(size=10)
    images = [p if isinstance(p, Image.Image) else Image.fromarray(p) for p in pictures]
    width, height = images[0].size
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell_width, cell_height = width + _PAD, height + _LINES * _LINE + _PAD
    sheet = Image.new("RGB", (columns * cell_width + _PAD, rows * cell_height + _PAD), (250, 250, 250))
    pen = ImageDraw.Draw(sheet)
    for number, (image, text) in enumerate(zip(images, captions, strict=True)):
        x, y = _PAD + number % columns * cell_width, _PAD + number // columns * cell_height
        sheet.paste(image.convert("RGB"), (x, y))
        pen.rectangle((x - 1, y - 1, x + width, y + height), outline=(170, 170, 170))
        for row, line in enumerate(wrap(text, width, face)[:_LINES]):
            pen.text((x, y + height + 1 + row * _LINE), line, fill=(20, 20, 20), font=face)
    return sheet
