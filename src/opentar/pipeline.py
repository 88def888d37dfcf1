"""The only place where the three machines meet: pictures become codes, codes meet words, codes become pictures.

```
draw   text --language--> codes --TA-Tok's feature decoder--> features --de-tokenizer--> picture
read   picture --TA-Tok--> codes --language--> text
```
Parts are loaded when they are first needed: describing a picture loads no de-tokenizer.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from opentar import __version__, model_folder
from opentar.core.errors import PromptError
from opentar.core.pictures import open_picture
from opentar.known_words import KnownWords, has_words
from opentar.model_folder import MAX_PICTURES, MAX_SEED, DrawSettings, check_range
from opentar.model_parts import ModelParts
from opentar.vocab import Scale

StepCallback = Callable[[str, int, int], None]
"""Called after each step with (stage, steps done, steps in all); the stages are "codes" and "picture"."""
Picture = str | Path | bytes | Image.Image

_BATCH = 16
"""Pictures drawn side by side; more only costs memory."""


class UnknownWordsWarning(UserWarning):
    """A prompt holds words that the model never learned."""


@dataclass(frozen=True, kw_only=True)
class TokenGrid:
    """What the dialect says about a picture."""

    scale: Scale
    """The grid."""
    codes: list[list[int]]
    """Rows of codes, `scale.side` by `scale.side`."""
    words: list[list[list[str]]]
    """For each code its nearest words, nearest first; empty lists where the model ships no words."""


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    """One picture to draw."""

    prompt: str
    prefix: list[int]
    seed: int
    index: int


class Tar:
    """A whole model: draws, reads and reconstructs pictures.

    Args:
        parts: the model's parts; `Tar.from_pretrained` makes them from a name or a folder.
    """

    def __init__(self, parts: ModelParts) -> None:
        self.parts = parts
        self.known_words = KnownWords(parts.config.known_words)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path = "nano", *, device: str | None = None) -> "Tar":
        """Load a bundled model by its name, or any model folder by its path. Nothing is ever downloaded.

        Raises:
            ModelError: the name is unknown and no such folder exists.
            WeightsError, ConfigError: the folder is damaged or no model.
        """
        return cls(ModelParts(model_folder.find_model(name_or_path), device=device))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model to `folder`, which must not exist or be empty.

        Raises:
            OutputError: `folder` holds something already or cannot be written.
        """
        sources = {part: self.parts.folder / part for part in self.parts.config.parts}
        model_folder.write_model(Path(folder), self.parts.config, sources)

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of `prompt` that the model never learned, in order; empty when it does not list its words."""
        return self.known_words.split(prompt)[1] if self.known_words else []

    @torch.no_grad()
    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        n: int = 1,
        scale: int | None = None,
        detok: str | None = None,
        seed: int = 0,
        guidance: float | None = None,
        temperature: float | None = None,
        detok_guidance: float | None = None,
        steps: int | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> list[Image.Image]:
        """Draw `n` pictures of each prompt.

        Picture i of a prompt is drawn with seed `seed + i` whatever else is in the call, so that it can be repeated
        alone. Settings left at None are the model's defaults. Unlearned words raise an UnknownWordsWarning.

        Args:
            prompt: a text in English or Chinese, or several.
            n: pictures per prompt, 1 to 1000.
            scale: index of the code grid, 0 (finest) to 2 (coarsest).
            detok: "diffusion" or "ar".
            seed: of the first picture, from 0.
            guidance: of the language model over codes, 1 (none) to 50.
            temperature: of the language model over codes, 0 to 10; 0 takes the likeliest.
            detok_guidance: of the de-tokenizer, 1 (none) to 50.
            steps: of a diffusion de-tokenizer, 1 to 1000.
            callback_on_step_end: called as (stage, step, total).

        Returns:
            RGB pictures, the n of the first prompt first; `info` of each holds its settings as texts.

        Raises:
            PromptError: empty, wordless or too long prompts, or ones that are not text.
            ConfigError, ModelError: a setting out of range, an unknown scale or de-tokenizer.
        """
        prompts = _checked_prompts(prompt)
        check_range("n", n, 1, MAX_PICTURES, whole=True)
        check_range("seed", seed, 0, MAX_SEED, whole=True)
        settings = self._settings(
            scale=scale,
            detok=detok,
            guidance=guidance,
            temperature=temperature,
            detok_guidance=detok_guidance,
            steps=steps,
        )
        grid = self.parts.vocab.scale(settings.scale)
        # All prompts are built before the first picture, so that a bad last one costs nothing.
        jobs = [
            _Drawing(prompt=text, prefix=self.parts.language.builder.draw(text, grid), seed=seed + index, index=index)
            for text in prompts
            for index in range(n)
        ]
        # Loaded before anything is spelled: damaged weights are told at once.
        self.parts.detokenizer(settings.detok)
        self._warn_of_unknown_words(prompts)
        return self._draw(jobs, settings, grid, callback_on_step_end)

    def _draw(
        self, jobs: Sequence[_Drawing], settings: DrawSettings, grid: Scale, callback: StepCallback | None
    ) -> list[Image.Image]:
        progress = _Progress(callback, batches=-(-len(jobs) // _BATCH))
        pictures: list[Image.Image] = []
        for start in range(0, len(jobs), _BATCH):
            batch = jobs[start : start + _BATCH]
            seeds = [job.seed for job in batch]
            codes_BN = self._spell([job.prefix for job in batch], seeds, settings, grid, progress)
            for job, picture in zip(batch, self._paint(codes_BN, seeds, settings, progress), strict=True):
                drawn = {"prompt": job.prompt, "seed": job.seed, "index": job.index}
                picture.info.update(self._metadata(drawn | dataclasses.asdict(settings)))
                pictures.append(picture)
            progress.next_batch()
        return pictures

    @torch.no_grad()
    def ask(self, image: Picture, question: str, *, max_new_tokens: int | None = None) -> str:
        """Answer a question about a picture; the likeliest answer, the same every time.

        Raises:
            ImageError: the picture cannot be read.
            PromptError: the question is empty, wordless, too long or not text.
        """
        from opentar.language.generate import generate_text

        defaults = self.parts.config.defaults.read
        _check_text(question, "question")
        length = defaults.max_new_tokens if max_new_tokens is None else max_new_tokens
        check_range("max_new_tokens", length, 1, 100_000, whole=True)
        codes = self._encode(image, self.parts.vocab.scale(defaults.scale))[0].tolist()
        model, builder = self.parts.language
        ids = generate_text(model, [builder.read([codes], question)], length)[0]
        return builder.tokenizer.decode(ids).strip()

    def describe(self, image: Picture) -> str:
        """Say what is in a picture. Raises ImageError when it cannot be read."""
        return self.ask(image, self.parts.config.defaults.read.describe)

    @torch.no_grad()
    def reconstruct(
        self,
        image: Picture,
        *,
        scale: int | None = None,
        detok: str | None = None,
        seed: int = 0,
        detok_guidance: float | None = None,
        steps: int | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> Image.Image:
        """Spell a picture in codes and paint it again from them.

        The arguments are those of `generate`; the language model takes no part.

        Raises:
            ImageError: the picture cannot be read.
            ConfigError, ModelError: a setting out of range, an unknown scale or de-tokenizer.
        """
        check_range("seed", seed, 0, MAX_SEED, whole=True)
        settings = self._settings(scale=scale, detok=detok, detok_guidance=detok_guidance, steps=steps)
        self.parts.detokenizer(settings.detok)
        codes_1N = self._encode(image, self.parts.vocab.scale(settings.scale))
        progress = _Progress(callback_on_step_end, batches=1)
        picture = self._paint(codes_1N, [seed], settings, progress)[0]
        painted = ("scale", "detok", "detok_guidance", "steps")
        picture.info.update(self._metadata({"seed": seed} | {name: getattr(settings, name) for name in painted}))
        return picture

    @torch.no_grad()
    def tokens(self, image: Picture, scale: int | None = None, *, words: int = 1) -> TokenGrid:
        """The codes of a picture, and for each code the words its row of the codebook lies nearest to.

        Args:
            image: the picture.
            scale: index of the code grid; None is the model's default for reading.
            words: words per code, 0 to 20. The first is the word the row was made from, the others are those of
                the nearest other rows.

        Raises:
            ImageError: the picture cannot be read.
            ConfigError: an unknown scale, or `words` out of range.
        """
        check_range("words", words, 0, 20, whole=True)
        grid = self.parts.vocab.scale(self.parts.config.defaults.read.scale if scale is None else scale)
        codes_N = self._encode(image, grid)[0]
        names: list[list[str]] = [[] for _ in range(grid.length)]
        if words and self.parts.words:
            table_KC = torch.nn.functional.normalize(self.parts.ta_tok.codebook().float(), dim=-1)
            nearest = (table_KC[codes_N] @ table_KC.T).topk(min(words, len(table_KC)), dim=-1).indices.tolist()
            for place, (code, rows) in enumerate(zip(codes_N.tolist(), nearest, strict=True)):
                # Rows that coincide tie with the code itself; its own word still comes first.
                ordered = [code, *(row for row in rows if row != code)][:words]
                names[place] = [self.parts.words[row] for row in ordered]
        side = grid.side
        flat = codes_N.tolist()
        return TokenGrid(
            scale=grid,
            codes=[flat[row * side : (row + 1) * side] for row in range(side)],
            words=[names[row * side : (row + 1) * side] for row in range(side)],
        )

    def _settings(self, **given: Any) -> DrawSettings:
        """The model's defaults with what the call gives; checked, the de-tokenizer's name included."""
        defaults = self.parts.config.defaults.draw
        chosen = {name: value for name, value in given.items() if value is not None}
        if chosen.get("detok", defaults.detok) != defaults.detok:
            # They were chosen for the default de-tokenizer and mean nothing to another one.
            defaults = dataclasses.replace(defaults, steps=None, detok_guidance=None)
        settings = dataclasses.replace(defaults, **chosen)
        model_folder.detok_part(self.parts.config, settings.detok)
        return settings

    def _spell(
        self, prefixes: list[list[int]], seeds: list[int], settings: DrawSettings, grid: Scale, progress: "_Progress"
    ) -> Tensor:
        """Codes (B, N) that the language model says after the prefixes."""
        from opentar.language.generate import draw_codes

        guided = settings.guidance != 1
        return draw_codes(
            self.parts.language.model,
            prefixes,
            grid,
            seeds,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            guidance=settings.guidance if guided else None,
            unconditional=[self.parts.language.builder.unconditional(grid)] if guided else None,
            callback=lambda step, _: progress.step("codes", step, grid.length),
        )

    def _paint(
        self, codes_BN: Tensor, seeds: list[int], settings: DrawSettings, progress: "_Progress"
    ) -> list[Image.Image]:
        """Pictures of codes (B, N)."""
        features_BND = self.parts.ta_tok.decode(codes_BN.to(self.parts.device))
        pixels_B3HW = self.parts.detokenizer(settings.detok).decode(
            features_BND,
            seed=seeds,
            guidance=settings.detok_guidance,
            steps=settings.steps,
            callback=lambda step, total, _: progress.step("picture", step, total),
        )
        bytes_BHW3 = pixels_B3HW.float().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(picture) for picture in bytes_BHW3]

    def _encode(self, image: Picture, grid: Scale) -> Tensor:
        """Codes (1, N) of a picture."""
        from opentar.image_to_tokens.preprocess import to_pixels

        pixels_3HW = to_pixels(
            open_picture(image), self.parts.ta_tok.config.vision.image_size, fit=self.parts.config.fit
        )
        return self.parts.ta_tok.encode(pixels_3HW[None].to(self.parts.device), grid)

    def _warn_of_unknown_words(self, prompts: Sequence[str]) -> None:
        for text in dict.fromkeys(prompts):
            unknown = self.unknown_words(text)
            if unknown:
                listed = ", ".join(repr(word) for word in unknown[:10]) + (", ..." if len(unknown) > 10 else "")
                every = "" if self.known_words.split(text)[0] else " (no word of this prompt is known to it)"
                warnings.warn(
                    f"{self.parts.config.name} never learned {listed}{every}; the picture may not show it",
                    UnknownWordsWarning,
                    # Past generate and the wrapper that switches gradients off, to the line that called.
                    stacklevel=4,
                )

    def _metadata(self, settings: dict[str, Any]) -> dict[str, str]:
        given = {key: str(value) for key, value in settings.items() if value is not None}
        return given | {
            "model": self.parts.config.name,
            "model_hash": self.parts.hash,
            "version": f"opentar {__version__}",
        }


def _checked_prompts(prompt: str | Sequence[str]) -> list[str]:
    prompts = [prompt] if isinstance(prompt, (str, bytes)) or not isinstance(prompt, Sequence) else list(prompt)
    if not prompts:
        raise PromptError("the list of prompts is empty; give at least one")
    for text in prompts:
        _check_text(text, "prompt")
    return prompts


def _check_text(text: object, what: str) -> None:
    if not isinstance(text, str):
        raise PromptError(f"the {what} is {type(text).__name__}, not text; give a string")
    if text.strip() and not has_words(text):
        raise PromptError(f"the {what} holds no word, only signs; write at least one word")


class _Progress:
    """Joins the steps of several batches into one count a stage."""

    def __init__(self, callback: StepCallback | None, batches: int) -> None:
        self._callback = callback
        self._batches = batches
        self._done = 0

    def step(self, stage: str, step: int, total: int) -> None:
        if self._callback is not None:
            self._callback(stage, self._done * total + step, self._batches * total)

    def next_batch(self) -> None:
        self._done += 1
