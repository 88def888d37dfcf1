"""Show a picture inside the terminal with half blocks: one character cell carries two pixels."""

import sys
from typing import TYPE_CHECKING, TextIO

from opentar.core import environment

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.text import Text

_HALF_BLOCK = "▀"
_MAX_COLUMNS = 64


def half_blocks(image: "Image", columns: int) -> "Text":
    """Render `image` as text, `columns` characters wide: the upper pixel is the ink, the lower one the paper.

    Args:
        image: RGB picture of any size.
        columns: width in characters, at least 1; the height follows from the picture's proportions.
    """
    import numpy as np
    from PIL import Image as PILImage
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    rows = max(1, round(columns * image.height / image.width / 2))
    pixels = image.convert("RGB").resize((columns, rows * 2), PILImage.Resampling.BOX)
    values = np.asarray(pixels).tolist()
    text = Text(no_wrap=True, end="")
    for row in range(rows):
        for column in range(columns):
            upper, lower = (Color.from_rgb(*values[2 * row + half][column]) for half in (0, 1))
            text.append(_HALF_BLOCK, Style(color=upper, bgcolor=lower))
        text.append("\n")
    return text


def show(image: "Image", stream: TextIO | None = None) -> bool:
    """Print `image` to `stream` (stdout by default) when it is a terminal that has colours.

    Returns:
        True when the picture was shown; False for pipes, files, colourless terminals and NO_COLOR.
    """
    stream = stream or sys.stdout
    if not stream.isatty() or not environment.terminal_pictures():
        return False
    try:
        _HALF_BLOCK.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    # Sixteen colours make a stranger's picture of it; 256 still look right.
    if console.no_color or console.color_system not in ("256", "truecolor"):
        return False
    columns = min(_MAX_COLUMNS, console.width - 1)
    if columns < 8:
        return False
    console.print(half_blocks(image, columns), end="")
    return True
