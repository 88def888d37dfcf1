"""Pictures as requests ask for them and as responses carry them."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import TYPE_CHECKING, Literal

from opentar import asking
from opentar.core.picture_formats import encode_picture
from opentar.drawing import DrawOptions, plan, settings_of
from opentar.serve.models import abilities
from opentar.serve.refused import UnsupportedError
from opentar.serve.sketching import can_sketch
from opentar.serve.work import Draw

if TYPE_CHECKING:
    from PIL import Image

    from opentar.checkpoints.settings import DrawSettings
    from opentar.serve.admission import Admission
    from opentar.serve.events import Picture
    from opentar.serve.models import ServedModel

Format = Literal["png", "jpeg", "webp"]
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


async def settings_for(admission: Admission, options: DrawOptions, size: str = "auto") -> DrawSettings:
    """The settings of a drawing; its de-tokenizer is loaded then. `size` chooses one where none is named.

    Raises:
        UnsupportedError: the model does not draw, or not at this size.
        ConfigError, ModelError: an option out of range, an unknown de-tokenizer.
    """
    model = admission.model
    if not model.config.detokenizers:
        able = ", ".join(abilities(model.config))
        raise UnsupportedError(f"{model.name} does not draw, it has no de-tokenizer; {model.name} can {able}", "model")
    settings = settings_of(model.config, options)
    own = _named(await admission.side(settings.detok))
    if size in ("auto", own):
        return settings
    if not _SIZE.fullmatch(size):
        raise UnsupportedError(f"size is no WIDTHxHEIGHT such as {own}, and not auto", "size")
    sizes = {own: settings.detok}
    if options.get("detok") is None:
        for name in model.config.detokenizers:
            # Those of further sizes say theirs in their name, and need not be loaded for it.
            number = name.rpartition("_")[2]
            sizes.setdefault(_named(int(number) if number.isdecimal() else await admission.side(name)), name)
    if size in sizes:
        await admission.side(sizes[size])
        return settings_of(model.config, options | {"detok": sizes[size]})
    raise UnsupportedError(
        f"{model.name} draws {', '.join(sizes)}, not {size}; leave size out, and enlarge the picture afterwards", "size"
    )


def _named(side: int) -> str:
    return f"{side}x{side}"


def drawings(
    model: ServedModel, prompt: str, n: int, seed: int, settings: DrawSettings, previews: int = 0, early: bool = False
) -> list[Draw]:
    """`n` pictures of a prompt, with seeds that count up. Raises PromptError.

    `previews`: looks at each before it is finished. `early`: the first half of them while the codes are drawn, where
    the de-tokenizer can do that; `settings_for` has loaded it.
    """
    planned = plan(model.tar.parts, model.tar.known_words, asking.prompts(prompt), n, seed, settings)
    sketches = (previews + 1) // 2 if early and can_sketch(model.tar.parts, settings) else 0
    return [Draw(drawing=one, settings=settings, previews=previews, sketches=sketches) for one in planned]


async def as_base64(admission: Admission, event: Picture, kind: Format) -> str:
    """The file of a finished picture. Its codes are remembered, for when the client sends it back."""
    content = await asyncio.to_thread(_file, event.picture, kind)
    admission.remember(content, event.codes)
    return base64.b64encode(content).decode()


async def preview_as_base64(picture: Image.Image, kind: Format) -> str:
    """The file of a picture that is not finished."""
    return base64.b64encode(await asyncio.to_thread(_file, picture, kind)).decode()


def _file(picture: Image.Image, kind: Format) -> bytes:
    return encode_picture(picture, kind.upper(), {str(key): str(value) for key, value in picture.info.items()})
