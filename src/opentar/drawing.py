"""The pictures of one call: what is drawn, with which settings, and how codes become pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from PIL import Image

from opentar.checkpoints import model_folder
from opentar.core.config import plain_number
from opentar.core.errors import ModelError, PromptError
from opentar.core.progress import Progress
from opentar.engine.events import CodeDrawn, Done, Failed
from opentar.engine.request import Codes, Request, Sampling
from opentar.tokens_to_image.passes import NAMED, OF_LANGUAGE
from opentar.tokens_to_image.previews import with_previews

if TYPE_CHECKING:
    from torch import Tensor

    from opentar.checkpoints.parts import ModelParts
    from opentar.checkpoints.settings import DrawSettings, ModelConfig
    from opentar.engine.engine import Engine
    from opentar.language.known_words import KnownWords
    from opentar.tokens_to_image.detokenizer import Callback


class DrawOptions(TypedDict, total=False):
    """What a call may choose of `DrawSettings`; what is left out or None is the model's default."""

    scale: int | None
    detok: str | None
    guidance: float | None
    temperature: float | None
    detok_guidance: float | None
    steps: int | None
    code_passes: str | None
    passes: str | None


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One picture to draw."""

    prompt: str
    """What to draw, as it was given."""
    heard: str
    """The text that is encoded."""
    request: Request
    """What the engine is asked for; its seed is that of this picture alone."""
    index: int
    """Its place among the pictures of the prompt, from 0."""


Previews = Callable[[list[Image.Image]], object]
"""Takes the pictures of a batch as they stand, while they are painted."""


class Steps:
    """Joins the steps of several batches into one count for each kind of work, "codes" and "picture".

    `previews`: who looks on meanwhile. `before`: what the names of works begin with, such as "coarse ".
    """

    def __init__(
        self, callback: Progress | None, batches: int = 1, previews: Previews | None = None, before: str = ""
    ) -> None:
        self._callback, self._batches, self._done = callback, batches, 0
        self.previews, self._before = previews, before

    def step(self, work: str, step: int, total: int) -> None:
        """One more step of this batch."""
        if self._callback is not None:
            self._callback(self._before + work, self._done * total + step, self._batches * total)

    def watch(self) -> Callback:
        """What a de-tokenizer is to call after every step of a batch."""

        def told(step: int, total: int, _: Callable[[], Tensor]) -> None:
            self.step("picture", step, total)

        show = self.previews
        return told if show is None else with_previews(lambda pixels: show(pictures_of(pixels)), told)

    def next_batch(self) -> None:
        """This batch is drawn."""
        self._done += 1


def settings_of(config: ModelConfig, options: DrawOptions) -> DrawSettings:
    """The model's defaults with what a call chooses; checked, the de-tokenizer's name included.

    Raises ConfigError for a value out of range, ModelError for an unknown de-tokenizer, TypeError for an unknown name.
    """
    defaults = config.defaults.draw
    chosen: dict[str, Any] = {name: plain_number(value) for name, value in options.items() if value is not None}
    if unknown := sorted(set(options) - DrawOptions.__optional_keys__):
        raise TypeError(
            f"unexpected keyword argument {unknown[0]!r}; there are {', '.join(DrawOptions.__annotations__)}"
        )
    if chosen.get("detok", defaults.detok) != defaults.detok:
        # They were chosen for the default de-tokenizer and mean nothing to another one.
        defaults = dataclasses.replace(defaults, steps=None, detok_guidance=None, passes=None)
    settings = dataclasses.replace(defaults, **chosen)
    model_folder.detok_part(config, settings.detok)
    return settings


def plan(
    parts: ModelParts, known_words: KnownWords, prompts: Sequence[str], n: int, seed: int, settings: DrawSettings
) -> list[Drawing]:
    """The pictures of a call, n of each prompt. All are built before the first is drawn, so that a bad last prompt
    costs nothing. Raises PromptError, which names the prompt where there are several.
    """
    grid, builder = parts.vocab.scale(settings.scale), parts.builder
    grammar = Codes(scale=grid, passes=OF_LANGUAGE[settings.code_passes or "one"])
    sampling = Sampling(
        temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p, guidance=settings.guidance
    )
    planned: list[Drawing] = []
    for number, text in enumerate(prompts, start=1):
        try:
            # Without the words that the model never learned: encoded in pieces, they would spoil those beside them.
            known = known_words.known_part(builder.heard(text, "prompt"))
            heard, turns = builder.heard(known, "prompt"), builder.drawing(known)
            builder.prefix(turns, grid)
        except PromptError as error:
            raise PromptError(f"prompt {number} of {len(prompts)}: {error}" if len(prompts) > 1 else error) from error
        for index in range(n):
            request = Request(turns=turns, grammar=grammar, sampling=sampling, seed=seed + index)
            planned.append(Drawing(prompt=text, heard=heard, request=request, index=index))
    return planned


@torch.no_grad()
def draw(
    parts: ModelParts,
    engine: Engine,
    planned: Sequence[Drawing],
    settings: DrawSettings,
    made_by: dict[str, str],
    steps: Steps,
    first: Callable[[Sequence[Drawing]], Sequence[Drawing]] | None = None,
) -> Iterator[Image.Image]:
    """The pictures, `engine.batch` of them at a time; `info` of each says how to repeat it, and `made_by`.

    `first` is done with each batch before it is drawn, and may put drafts into it.
    """
    size = engine.batch
    for start in range(0, len(planned), size):
        batch = planned[start : start + size]
        if first is not None:
            batch = first(batch)
        codes_BN = draw_codes(engine, [one.request for one in batch], steps)
        pictures = paint(parts, codes_BN, [one.request.seed for one in batch], settings, steps)
        steps.next_batch()
        for one, picture in zip(batch, pictures, strict=True):
            picture.info.update(facts(one, settings) | made_by)
            yield picture


def facts(drawing: Drawing, settings: DrawSettings) -> dict[str, str]:
    """How a picture can be drawn again, as its metadata say it."""
    drawn = {"prompt": drawing.prompt, "seed": drawing.request.seed, "index": drawing.index}
    drawn |= {"encoded": drawing.heard} if drawing.heard != drawing.prompt else {}
    return texts(drawn | dataclasses.asdict(settings))


def texts(settings: Mapping[str, object]) -> dict[str, str]:
    """What a picture carries in its metadata: settings as texts, those that are None left out."""
    return {key: str(value) for key, value in settings.items() if value is not None}


def draw_codes(engine: Engine, requests: Sequence[Request], steps: Steps) -> Tensor:
    """Codes (B, N) int64 of drawings of one scale."""
    rows: dict[int, tuple[int, ...]] = {}
    for event in engine.run(requests):
        match event:
            case CodeDrawn(step=step, total=total):
                steps.step("codes", step, total)
            case Failed(error=error):
                raise error
            case Done(ticket=ticket, ids=ids):
                rows[ticket] = ids
    return torch.tensor([rows[ticket] for ticket in sorted(rows)])


def paint(
    parts: ModelParts, codes_BN: Tensor, seeds: Sequence[int], settings: DrawSettings, steps: Steps
) -> list[Image.Image]:
    """Pictures of codes (B, N). Raises ModelError where the de-tokenizer computes no numbers."""
    features_BND = parts.ta_tok.decode(codes_BN.to(parts.device))
    detokenizer = parts.detokenizer(settings.detok)
    decode = detokenizer.decode
    if settings.passes is not None:
        from opentar.tokens_to_image.ar import ARDetokenizer

        assert isinstance(detokenizer, ARDetokenizer), settings
        decode = partial(detokenizer.decode, passes=NAMED[settings.passes])

    pixels_B3HW = decode(
        features_BND, seed=seeds, guidance=settings.detok_guidance, steps=settings.steps, callback=steps.watch()
    )
    if not bool(torch.isfinite(pixels_B3HW).all()):
        raise ModelError(
            f"the de-tokenizer {settings.detok} computed NaN or infinity: its weights or its config are damaged, "
            "or numbers were too large for their type; load it in float32"
        )
    return pictures_of(pixels_B3HW)


def pictures_of(pixels_B3HW: Tensor) -> list[Image.Image]:
    """RGB pictures of pixels (B, 3, H, W) in [0, 1]."""
    bytes_BHW3 = pixels_B3HW.float().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in bytes_BHW3]
