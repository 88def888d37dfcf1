"""The only place where the three machines meet: pictures become codes, codes meet words, codes become pictures.

```
draw   text --language--> codes --TA-Tok's feature decoder--> features --de-tokenizer--> picture
read   picture --TA-Tok--> codes --language--> text
```
Parts are loaded when they are first needed: describing a picture loads no de-tokenizer.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack, overload

import torch

from opentar import __version__, asking
from opentar.checkpoints import model_folder
from opentar.checkpoints.find import find_model
from opentar.checkpoints.parts import ModelParts
from opentar.checkpoints.settings import MAX_ANSWER, MAX_PICTURES, MAX_SEED, check_range
from opentar.core.remarks import warn_caller
from opentar.drawing import DrawOptions, Previews, Steps, draw, paint, plan, settings_of, texts
from opentar.engine.backends.choose import ar_in_openvino, choose_engine, opener
from opentar.engine.engine import BATCH, Engine
from opentar.engine.jobs import check_passes
from opentar.engine.pixels import encode_all, encode_picture
from opentar.engine.request import Request, Text
from opentar.image_to_tokens.neighbours import Neighbours
from opentar.language.known_words import KnownWords
from opentar.refining import CoarseFirst, finer, origin_of, with_draft
from opentar.vocab import Scale

if TYPE_CHECKING:
    from PIL import Image

    from opentar.asking import Picture, Pictures, Questions, Scales
    from opentar.core.progress import Progress
    from opentar.engine.backends.protocol import Backend


class UnknownWordsWarning(UserWarning):
    """A prompt or a question holds words that the model never learned."""


@dataclass(frozen=True, kw_only=True)
class TokenGrid:
    """What the dialect says about a picture."""

    scale: Scale
    """The grid."""
    codes: list[list[int]]
    """Rows of codes, `scale.side` by `scale.side`."""
    words: list[list[list[str]]]
    """For each code its nearest words, nearest first; empty lists where the model ships no words."""


class Tar:
    """A whole model: draws, reads and reconstructs pictures.

    Args:
        parts: the model's parts; `Tar.from_pretrained` makes them from a name or a folder.
        engine: as in `from_pretrained`.
    """

    def __init__(self, parts: ModelParts, *, engine: str | None = None) -> None:
        self.parts = parts
        self._engine = choose_engine(parts, engine)
        parts.ar_in_openvino = ar_in_openvino(parts, engine, self._engine)
        self.known_words = KnownWords(parts.config.known_words)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = "nano",
        *,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        engine: str | None = None,
        encoder: str = "torch",
    ) -> Tar:
        """Load a bundled model by its name, any model folder by its path, or a fetched published model by its name.

        Nothing is ever downloaded here: `opentar pull` fetches a published model ("csuhan/Tar-1.5B"), and so does
        `opentar.checkpoints.hub.pull.pull`.

        Args:
            name_or_path: a bundled name, a folder, or a published name.
            device: "cpu", "cuda", "mps"; None is the best there is.
            dtype: "float32", "bfloat16" or (on cuda and mps) "float16" to compute in; None is the type the parts are
                stored in, or the nearest that the device has.
            engine: what runs the language model, "torch", "llamacpp" or "openvino"; None is what its folder was made
                for. OpenVINO runs the AR de-tokenizer as well, and that of a quantized folder wherever it is installed
                and "torch" was not asked for.
            encoder: what runs the encoder of pictures, "torch", or with OpenVINO "openvino-float32",
                "openvino-bfloat16" (some codes differ) or "openvino-int8" (more do).

        Raises:
            ModelError: the name is unknown and no such folder exists, or a published model has not been fetched.
            WeightsError, ConfigError: the folder is damaged or no model; an unknown dtype or engine.
        """
        parts = ModelParts(find_model(name_or_path), device=device, dtype=dtype, encoder=encoder)
        return cls(parts, engine=engine)

    def __repr__(self) -> str:
        types = ", ".join(f"{part} {kind}" for part, kind in self.parts.running.items())
        return f"<Tar {self.parts.config.name!r} on {self.parts.device}: {types}>"

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model to `folder`, which must not exist or be empty: parts, config, manifest and a model card.

        The parts are copied as they are stored. Weights that were changed in memory are saved by the part's own class.

        Raises:
            OutputError: `folder` holds something already, or the disk is too small or refuses.
        """
        from opentar.checkpoints.hub.card import CARD, write_card
        from opentar.core.disk import check_room

        folder, own = Path(folder), self.parts.folder
        check_room(folder, sum(size for _, size in model_folder.part_files(own)))
        model_folder.write_model(folder, self.parts.config, {part: own / part for part in self.parts.config.parts})
        if (own / CARD).is_file():
            shutil.copyfile(own / CARD, folder / CARD)
        write_card(folder)

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of `prompt` that the model never learned, in order; empty when it does not list its words.

        Judged is the text that is encoded, so a capital or a non-breaking space makes no word unknown.
        """
        if not self.known_words:
            return []
        return self.known_words.split(self.parts.builder.heard(prompt, "prompt"))[1]

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        n: int = 1,
        seed: int = 0,
        coarse_first: bool = False,
        callback_on_step_end: Progress | None = None,
        callback_on_preview: Previews | None = None,
        **options: Unpack[DrawOptions],
    ) -> list[Image.Image]:
        """Draw `n` pictures of each prompt.

        Picture i of a prompt is drawn with seed `seed + i` whatever else is in the call, so that it can be repeated
        alone. Options that are left out or None are the model's defaults. Unlearned words raise an UnknownWordsWarning
        and are left out of what is encoded: encoded in pieces, they would spoil the words beside them.

        Args:
            prompt: a text in English or Chinese, or several.
            n: pictures per prompt, 1 to 1000.
            seed: of the first picture, from 0.
            coarse_first: draw each picture on the coarsest grid first, and then as `refine` does.
            callback_on_step_end: called as (work, step, total); the works are "codes" and "picture", with
                `coarse_first` "coarse codes" and "coarse picture" before them.
            callback_on_preview: called with the pictures of a batch as they stand, at most once a second while they are
                painted; looking costs a fifth of the time at most. With `coarse_first` it is called once a batch, with
                the finished coarse pictures.
            scale: index of the code grid, 0 (finest) to 2 (coarsest).
            detok: "diffusion" or "ar".
            guidance: of the language model over codes, 1 (none) to 50.
            temperature: of the language model over codes, 0 to 10; 0 takes the likeliest.
            detok_guidance: of the de-tokenizer, 1 (none) to 50.
            steps: of a diffusion de-tokenizer, 1 to 1000.
            code_passes: of the language model: "one" code a pass; "jacobi", the same codes in fewer passes; "zipar",
                rows of codes side by side, another picture in far fewer passes (experimental).
            passes: of the AR de-tokenizer: "one" code a pass; "jacobi", the same picture in fewer passes; "zipar",
                "drafts" or "late", other pictures in fewer or cheaper passes (experimental).

        Returns:
            RGB pictures, the n of the first prompt first; `info` of each holds its settings as texts: the prompt as it
            was given and, where another text was encoded, that one under "encoded".

        Raises:
            PromptError: empty, wordless or too long prompts, or ones that are not text.
            ConfigError, ModelError: an option out of range, an unknown scale or de-tokenizer.
        """
        pictures = self.generate_iter(
            prompt,
            n=n,
            seed=seed,
            coarse_first=coarse_first,
            callback_on_step_end=callback_on_step_end,
            callback_on_preview=callback_on_preview,
            **options,
        )
        return list(pictures)

    def generate_iter(
        self,
        prompt: str | Sequence[str],
        *,
        n: int = 1,
        seed: int = 0,
        batch_size: int = BATCH,
        coarse_first: bool = False,
        callback_on_step_end: Progress | None = None,
        callback_on_preview: Previews | None = None,
        **options: Unpack[DrawOptions],
    ) -> Iterator[Image.Image]:
        """Draw as `generate` does, and give the pictures one by one: each batch when it is done, the next when asked.

        Everything is checked in the call itself, before the first picture is asked for.

        Args:
            batch_size: pictures drawn side by side, 1 to 1000; more is faster and takes more memory. The other
                arguments, the pictures and the errors are those of `generate`.
        """
        settings = settings_of(self.parts.config, options)
        batch_size = check_range("batch_size", batch_size, 1, MAX_PICTURES, whole=True)
        prompts = asking.prompts(prompt)
        n = check_range("n", n, 1, MAX_PICTURES, whole=True)
        seed = check_range("seed", seed, 0, MAX_SEED, whole=True)
        rows = min(batch_size, n * len(prompts)) * (1 if settings.guidance == 1 else 2)
        self._check_memory("language", detok=settings.detok, rows=rows)
        planned = plan(self.parts, self.known_words, prompts, n, seed, settings)
        # Loaded before anything is drawn: damaged weights are told at once.
        self.parts.detokenizer(settings.detok)
        engine, batches = self.engine(batch_size), -(-len(planned) // batch_size)
        steps, first = Steps(callback_on_step_end, batches, callback_on_preview), None
        if coarse_first:
            # Whoever has seen the finished coarse picture does not want to see noise after it.
            steps.previews = None
            coarse = Steps(callback_on_step_end, batches, callback_on_preview, before="coarse ")
            first = CoarseFirst(self.parts, engine, settings, coarse)
        self._warn_of_unknown_words(prompts, "prompt")
        check_passes(planned[0].request, engine.backend)
        return draw(self.parts, engine, planned, settings, self.made_by, steps, first)

    @torch.no_grad()
    def refine(
        self,
        image: Picture,
        *,
        prompt: str | None = None,
        seed: int | None = None,
        fit: str | None = None,
        callback_on_step_end: Progress | None = None,
        callback_on_preview: Previews | None = None,
        **options: Unpack[DrawOptions],
    ) -> Image.Image:
        """A finer version of a picture: the same scene in more codes.

        The picture is encoded on the finer grid; codes that the language model finds likely enough given the prompt
        stay, others are drawn anew. Without a prompt all stay, and the picture is only painted again.

        Args:
            image: a picture drawn on a coarser grid, or any other.
            prompt: what it shows; None is what a picture file or `image.info` says, "" is none.
            seed: of codes and painting; None is that of the picture, or 0.
            fit: as in `ask`.
            scale: index of the finer grid; None is one finer than the picture's own, or 0 where it does not say.
            detok: None is what painted the picture, where the model has it. The other options, callbacks and errors are
                those of `generate`.

        Raises:
            ImageError: the picture cannot be read.
            PromptError: the prompt cannot be drawn; give another one, or "".
        """
        origin = origin_of(image)
        settings = settings_of(self.parts.config, finer(self.parts.config, origin, options))
        seed = check_range("seed", (origin.seed or 0) if seed is None else seed, 0, MAX_SEED, whole=True)
        told = origin.prompt if prompt is None else prompt
        if not told:
            options = {**options, "scale": settings.scale, "detok": settings.detok}
            return self.reconstruct(
                image,
                fit=fit,
                seed=seed,
                callback_on_step_end=callback_on_step_end,
                callback_on_preview=callback_on_preview,
                **options,
            )
        self._check_memory("language", detok=settings.detok, rows=1 if settings.guidance == 1 else 2)
        planned = plan(self.parts, self.known_words, asking.prompts(told), 1, seed, settings)
        self.parts.detokenizer(settings.detok)
        self._warn_of_unknown_words([told], "prompt")
        one = with_draft(self.parts, planned[0], image, fit)
        steps = Steps(callback_on_step_end, previews=callback_on_preview)
        come_from = {} if origin.scale is None else {"refined_from": str(origin.scale)}
        (picture,) = draw(self.parts, self.engine(1), [one], settings, self.made_by | come_from, steps)
        return picture

    def engine(self, batch: int | None = None, *, keep: bool = True) -> Engine:
        """An engine over the language model that runs up to `batch` requests side by side; None is BATCH.

        `keep` as in `Engine`: keep pictures for further questions about them.
        """
        return Engine(self._open_backend(), self.parts.builder, BATCH if batch is None else batch, keep)

    @cached_property
    def _open_backend(self) -> Callable[[], Backend]:
        return opener(self.parts, self._engine)

    @overload
    def ask(
        self,
        image: Pictures,
        question: str,
        *,
        scale: Scales = None,
        fit: str | None = None,
        max_new_tokens: int | None = None,
    ) -> str: ...

    @overload
    def ask(
        self,
        image: Picture | Sequence[Pictures],
        question: Questions,
        *,
        scale: int | Sequence[Scales] | None = None,
        fit: str | None = None,
        max_new_tokens: int | None = None,
    ) -> list[str]: ...

    @torch.no_grad()
    def ask(
        self,
        image: Picture | Sequence[Pictures],
        question: str | Questions,
        *,
        scale: int | Sequence[Scales] | None = None,
        fit: str | None = None,
        max_new_tokens: int | None = None,
    ) -> str | list[str]:
        """Answer a question about a picture, or about several; the likeliest answer, the same every time.

        A list of questions is a batch: it gives the list of answers, each as if asked alone. Unlearned words raise an
        UnknownWordsWarning.

        Args:
            image: a picture, or a list of pictures that are shown together. In a batch one picture for all questions,
                or a list with one entry a question: a picture or a list of pictures.
            question: a text, or a list of texts.
            scale: index of the code grid the pictures are read at, 0 (finest) to 2 (coarsest): one for all, or a list
                that has the form of `image`. None is the model's default.
            fit: "squash" or "letterbox", how a picture that is not square is read; None is the model's default.
            max_new_tokens: longest answer, 1 to 100000; None is the model's default.

        Raises:
            ImageError: a picture cannot be read.
            PromptError: a question is empty, wordless, too long or not text, or there are not as many pictures.
            ConfigError: an unknown scale or fit, or not as many scales as pictures.
        """
        defaults = self.parts.config.defaults.read
        asked = asking.questions(image, question, scale, self.parts.vocab, defaults.scale)
        length = defaults.max_new_tokens if max_new_tokens is None else max_new_tokens
        length = check_range("max_new_tokens", length, 1, MAX_ANSWER, whole=True)
        self._check_memory("language", rows=min(BATCH, len(asked)))
        codes = iter(encode_all(self.parts, [picture for one in asked for picture in one.pictures], fit))
        # The model's own question behind `describe` is nobody's to mend.
        own = [one.text for one in asked if one.text != defaults.describe]
        self._warn_of_unknown_words(own, "question")
        engine, grammar = self.engine(), Text(max_new_tokens=length)
        requests = [
            Request(turns=engine.builder.reading([next(codes) for _ in one.pictures], one.text), grammar=grammar)
            for one in asked
        ]
        tokenizer = engine.builder.tokenizer
        answers = [tokenizer.decode(list(done.ids)).strip() for done in engine.results(requests)]
        return answers[0] if isinstance(question, str) else answers

    def describe(self, image: Pictures, *, scale: Scales = None, fit: str | None = None) -> str:
        """Say what is in a picture, or in several shown together; arguments and errors as in `ask`."""
        return self.ask(image, self.parts.config.defaults.read.describe, scale=scale, fit=fit)

    @torch.no_grad()
    def reconstruct(
        self,
        image: Picture,
        *,
        fit: str | None = None,
        seed: int = 0,
        callback_on_step_end: Progress | None = None,
        callback_on_preview: Previews | None = None,
        **options: Unpack[DrawOptions],
    ) -> Image.Image:
        """Encode a picture and decode it again: the square that the model sees.

        The arguments are those of `generate`, and `fit` as in `ask`; the language model takes no part, so its options
        change nothing. `scale` None is the model's default for reading.

        Raises:
            ImageError: the picture cannot be read.
            ConfigError, ModelError: an option out of range, an unknown scale, fit or de-tokenizer.
        """
        seed = check_range("seed", seed, 0, MAX_SEED, whole=True)
        if options.get("scale") is None:
            options["scale"] = self.parts.config.defaults.read.scale
        settings = settings_of(self.parts.config, options)
        self._check_memory(detok=settings.detok)
        self.parts.detokenizer(settings.detok)
        codes_1N = encode_picture(self.parts, image, (self.parts.vocab.scale(settings.scale),), fit)[0]
        picture = paint(
            self.parts, codes_1N, [seed], settings, Steps(callback_on_step_end, previews=callback_on_preview)
        )[0]
        painted = ("scale", "detok", "detok_guidance", "steps", "passes")
        told = {"seed": seed, "fit": fit or self.parts.config.fit}
        picture.info.update(texts(told | {name: getattr(settings, name) for name in painted}) | self.made_by)
        return picture

    @torch.no_grad()
    def encode(self, image: Picture, scale: int | None = None, *, words: int = 1, fit: str | None = None) -> TokenGrid:
        """The codes of a picture, and for each code the words its row of the codebook lies nearest to.

        Args:
            image: the picture.
            scale: index of the code grid; None is the model's default for reading.
            words: words per code, 0 to 20. The first is the word the row was made from, the others are those of
                the nearest other rows.
            fit: as in `ask`.

        Raises:
            ImageError: the picture cannot be read.
            ConfigError: an unknown scale or fit, or `words` out of range.
        """
        words = check_range("words", words, 0, 20, whole=True)
        grid = self.parts.vocab.scale(self.parts.config.defaults.read.scale if scale is None else scale)
        self._check_memory()
        side, flat = grid.side, encode_picture(self.parts, image, (grid,), fit)[0][0].tolist()
        names: list[list[str]] = [[] for _ in flat]
        if words and self.parts.words:
            nearest = Neighbours(self.parts.ta_tok.codebook()).nearest(flat, words)
            names = [[self.parts.words[row] for row in rows] for rows in nearest]
        return TokenGrid(
            scale=grid,
            codes=[flat[row * side : (row + 1) * side] for row in range(side)],
            words=[names[row * side : (row + 1) * side] for row in range(side)],
        )

    def tokens(self, image: Picture, scale: int | None = None, *, words: int = 1, fit: str | None = None) -> TokenGrid:
        """The old name of `encode`."""
        warnings.warn("Tar.tokens is called Tar.encode now", DeprecationWarning, stacklevel=2)
        return self.encode(image, scale, words=words, fit=fit)

    def _check_memory(self, *parts: str, detok: str | None = None, rows: int = 1) -> None:
        own = () if detok is None else (model_folder.detok_part(self.parts.config, detok),)
        # Whatever engine runs the language model, once it is open its weights are there.
        needed = [part for part in parts if part != "language" or "_open_backend" not in self.__dict__]
        self.parts.check_memory("ta_tok", *needed, *own, rows=rows)

    @property
    def made_by(self) -> dict[str, str]:
        """What every picture carries in its metadata."""
        return {"model": self.parts.config.name, "model_hash": self.parts.hash, "version": f"opentar {__version__}"}

    def _warn_of_unknown_words(self, texts: Sequence[str], what: Literal["prompt", "question"]) -> None:
        """Warn of each text that holds some as it is heard, and say what becomes of them."""
        heard = [self.parts.builder.heard(text, what) for text in texts] if self.known_words else []
        for text in dict.fromkeys(heard):
            if remark := self.known_words.remark(text):
                left_out = what == "prompt" and self.known_words.known_part(text) != text
                so = f"the {'picture' if what == 'prompt' else 'answer'} may be wrong"
                so = "left out of the picture" if left_out else so
                warn_caller(f"{self.parts.config.name} never learned {remark}; {so}", UnknownWordsWarning)
