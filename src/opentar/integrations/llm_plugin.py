"""Models for `llm` (https://llm.datasette.io): `llm -m opentar/nano "What color is it?" -a car.png`.

`llm` finds `plugin` by the entry point of this package. It is made when it is asked for, so that this module can be
imported where `llm` is not installed.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentar.core.errors import ConfigError, ImageError, OpenTarError, PromptError, shown

if TYPE_CHECKING:
    from PIL.Image import Image

    from opentar.language.prompt import Turn
    from opentar.pipeline import Tar

KINDS = frozenset(f"image/{kind}" for kind in ("png", "jpeg", "webp", "gif", "bmp", "tiff", "avif", "heic", "heif"))
"""Media types of attachments that are passed on; what they hold is found by reading them."""
_OF_DRAWINGS = ("seed", "detok")


def __getattr__(name: str) -> Any:
    if name == "plugin":
        return _plugin()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def model_names() -> list[str]:
    """Bundled models and published ones that were fetched: what can run without fetching anything."""
    from opentar.checkpoints.find import PUBLISHED, bundled_models, cached_model

    return [*bundled_models(), *(name for name in PUBLISHED if cached_model(name).is_dir())]


@cache
def _plugin() -> Any:
    """The object whose hooks `llm` calls."""
    import llm

    model = _model_class()

    class Plugin:
        @llm.hookimpl
        def register_models(self, register: Any) -> None:
            for name in model_names():
                register(model(name))

    return Plugin()


@cache
def _model_class() -> Any:
    import llm
    from pydantic import Field

    class TarModel(llm.Model):
        """One model; it is loaded by its first prompt and stays in memory as long as this object."""

        attachment_types = KINDS

        class Options(llm.Options):
            draw: str | None = Field(
                None, description="Draw the prompt into this picture file; the answer is its name."
            )
            seed: int | None = Field(None, description="Seed of the drawing, from 0. Default: 0.")
            detok: str | None = Field(None, description="De-tokenizer of the drawing: diffusion, ar, ...")
            scale: int | None = Field(
                None, description="Grid of codes to draw or read at, 0 (finest) to 2 (coarsest). Default: the model's."
            )
            max_tokens: int | None = Field(None, description="Longest answer. Default: the model's own.")

        def __init__(self, name: str) -> None:
            self.model_id = f"opentar/{name}"
            self._name = name
            self._tar: Any = None

        def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any = None) -> Iterator[str]:
            try:
                if self._tar is None:
                    # torch comes with it, and `llm` starts for other models too.
                    from opentar.pipeline import Tar

                    self._tar = Tar.from_pretrained(self._name)
                if prompt.options.draw is None:
                    text, count = _answer(self._tar, prompt)
                    response.set_usage(output=count)
                else:
                    text = _drawn(self._tar, prompt)
            except OpenTarError as error:
                raise llm.ModelError(str(error)) from error
            yield text

    return TarModel


def _drawn(tar: "Tar", prompt: Any) -> str:
    """Draw the prompt; the name of the file. A name that is taken is refused before the work."""
    from opentar.core.picture_files import check_picture_path, keep_picture

    options = prompt.options
    if prompt.attachments:
        raise ImageError("no model here edits pictures; draw from text alone, or ask about them without -o draw")
    if options.max_tokens is not None:
        raise ConfigError("max_tokens is of answers in words; leave it out beside draw")
    path = check_picture_path(Path(options.draw))
    seed = 0 if options.seed is None else options.seed
    picture = tar.generate(prompt.prompt, seed=seed, scale=options.scale, detok=options.detok)[0]
    kept = keep_picture(picture, path, {str(key): str(value) for key, value in picture.info.items()})
    return str(kept.path)


def _answer(tar: "Tar", prompt: Any) -> tuple[str, int]:
    """The likeliest answer to the conversation so far, and how many tokens it has."""
    from opentar.checkpoints.settings import MAX_ANSWER, check_range
    from opentar.engine.request import Request, Text

    options = prompt.options
    for name in _OF_DRAWINGS:
        if getattr(options, name) is not None:
            raise ConfigError(f"{name} is of drawings; name a file with -o draw FILE, or leave it out")
    defaults = tar.parts.config.defaults.read
    most = defaults.max_new_tokens if options.max_tokens is None else options.max_tokens
    grammar = Text(max_new_tokens=check_range("max_tokens", most, 1, MAX_ANSWER, whole=True))
    engine = tar.engine()
    (done,) = engine.results([Request(turns=_turns(tar, prompt.messages, options.scale), grammar=grammar)])
    return engine.builder.tokenizer.decode(list(done.ids)).strip(), len(done.ids)


def _turns(tar: "Tar", messages: Sequence[Any], scale: int | None) -> "list[Turn]":
    """Turns of the messages of `llm`; pictures come before the words of their message, as models are trained."""
    from opentar.core.remarks import warn_caller
    from opentar.engine.pixels import encode_all
    from opentar.language.prompt import Shown, Turn

    if not messages or messages[-1].role != "user":
        raise PromptError("the prompt is empty; write at least one word, or attach a picture with -a")
    read = tar.parts.config.defaults.read
    grid = tar.parts.vocab.scale(read.scale if scale is None else scale)
    opened = [[_opened(part.attachment) for part in one.parts if hasattr(part, "attachment")] for one in messages]
    codes = iter(encode_all(tar.parts, [(picture, grid) for some in opened for picture in some], None))
    turns = []
    for message, pictures in zip(messages, opened, strict=True):
        if message.role not in ("system", "user", "assistant"):
            raise PromptError(f"a message of {shown(message.role)} cannot be answered; there are no tools here")
        text = "\n".join(part.text for part in message.parts if hasattr(part, "text")).strip()
        parts: list[Any] = [piece for _ in pictures for piece in (Shown(tuple(next(codes))), "\n")]
        if message.role == "user":
            # A picture alone asks the model's own question.
            own = not text and bool(pictures)
            text = tar.parts.builder.heard(read.describe if own else text, "question")
            if message is messages[-1] and not own and (remark := tar.known_words.remark(text)):
                warn_caller(f"{tar.parts.config.name} never learned {remark}; the answer may be wrong")
        # An answer may have been empty.
        turns.append(Turn(message.role, (*parts, *([text] if text else ()))))
    return turns


def _opened(attachment: Any) -> "Image":
    from opentar.core.pictures import open_picture

    try:
        content = attachment.content_bytes()
    except OSError as error:
        raise ImageError(f"the attachment cannot be read ({error.strerror}); check the name") from error
    return open_picture(content, "the attachment")
