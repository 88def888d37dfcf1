"""The flow that OpenTar is compared with: the published one, as a user runs it with transformers, on the same weights.

Prompts are one string through a tokenizer with all image tokens; transformers' `generate` with its DynamicCache
computes the whole head for every id; codes are parsed back from text, and a short run is filled up with zeros. The
image tokenizer runs in float32 and projects its codebook at every call; the AR de-tokenizer draws one code at a time
over a cache of full length. Language model and AR run in the type they are stored in (bfloat16 for published weights;
int8 as float32, and exported for transformers first), canvases in float32. Diffusion de-tokenizers run through our own
loop: the published one takes a single number of codes.
"""

from __future__ import annotations

import re
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from opentar.bench.published_ar import published_codes
from opentar.bench.rows import Measured
from opentar.bench.sides import Side, touch
from opentar.bench.work import PROMPT, QUESTION, Work
from opentar.checkpoints.parts import ModelParts
from opentar.core.folder import load_part, read_config

if TYPE_CHECKING:
    from PIL.Image import Image

    from opentar.core.storage import LoadDtype
    from opentar.language.prompt import PromptBuilder


class Baseline(Side):
    """The published flow on a model folder.

    Args:
        folder: the model.
        place: an empty folder for what transformers reads instead of the model's own files; stays as long as this.
        device: cpu, cuda, mps; None is the best there is.
        dtype: of the language model and the AR; None is the type they are stored in.
    """

    def __init__(self, folder: Path, place: Path, device: str | None = None, dtype: str | None = None) -> None:
        self.folder, self.dtype = folder, dtype
        self.parts = ModelParts(folder, device=device, dtype="float32")
        self._painters = ModelParts(folder, device=device, dtype=dtype)
        self._states: dict[str, dict[str, Tensor]] = {}
        self._place = place

    @cached_property
    def language(self) -> tuple[Any, Any, PromptBuilder]:
        """transformers' model and tokenizer, and the builder that knows the template."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from opentar.checkpoints.convert.qwen2 import export_qwen2

        stored = read_config(self.folder / "language").get("storage")
        place = self._place
        builder = write_full_tokenizer(self.folder, place)
        tokenizer = AutoTokenizer.from_pretrained(place)
        plain = self.folder / "language"
        if stored not in ("float32", "bfloat16"):
            # transformers cannot read these numbers; a user would export them first.
            stored, plain = "float32", place / "plain"
            export_qwen2(self.folder, plain, dtype="fp32")
        model = AutoModelForCausalLM.from_pretrained(plain, dtype=self.dtype or stored)
        return model.eval().to(self.parts.device), tokenizer, builder

    def _codebook(self) -> Tensor:
        """The table (K, C), projected anew."""
        quantizer = self.parts.ta_tok.quantizer
        rows_KE, projection = quantizer.embedding.weight.float(), quantizer.embedding_proj
        if isinstance(projection, torch.nn.Linear):
            rows_KE = functional.linear(rows_KE, projection.weight.float(), projection.bias.float())
        return functional.normalize(rows_KE, dim=-1) if quantizer.config.l2_normalized else rows_KE

    def encode(self, picture: Image, scale: int) -> list[int]:
        """Codes of a picture: every distance to every row, the codebook projected first."""
        from opentar.image_to_tokens.encoder import pool_grid
        from opentar.image_to_tokens.preprocess import to_pixels

        ta_tok = self.parts.ta_tok
        pixels_13HW = to_pixels(picture, ta_tok.config.vision.image_size)[None].to(self.parts.device)
        pooled_1ND = pool_grid(ta_tok.encoder(pixels_13HW), self.parts.vocab.scale(scale).pool)
        z_NC, table_KC = ta_tok.bottleneck(pooled_1ND)[0].float(), self._codebook()
        if ta_tok.quantizer.config.l2_normalized:
            z_NC = functional.normalize(z_NC, dim=-1)
        distances_NK = z_NC.square().sum(1, keepdim=True) + table_KC.square().sum(1) - 2 * z_NC @ table_KC.T
        return [int(code) for code in distances_NK.argmin(1)]

    def answer(self, codes: list[int], tokens: int) -> int:
        """Answer a question about a picture that stands in the prompt as text."""
        text = "".join(f"<I{code}>" for code in codes) + f"\n{QUESTION}"
        return self._generate(text, "", tokens, eos_token_id=self.language[2].tokenizer.special("<|im_end|>"))[0]

    def spell(self, scale: int, count: int = 1) -> Tensor:
        """Codes (count, N) of drawings one after another, parsed from text and filled up with zeros."""
        return torch.tensor([self._spelled(scale, None) for _ in range(count)])

    def _spelled(self, scale: int, streamer: Any) -> list[int]:
        length = self.parts.vocab.scale(scale).length
        settings = {"do_sample": True, **vars(self.settings()), "min_new_tokens": length, "streamer": streamer}
        said = self._generate(PROMPT, f"<im_start><S{scale}>", length, **settings)[1]
        codes = [int(code) for code in re.findall(r"<I(\d+)>", self.language[1].decode(said))]
        return (codes + [0] * length)[:length]

    def decode(self, scale: int) -> Measured:
        """From the first id to the last, by a streamer."""
        clock = _Clock()
        self._spelled(scale, clock)
        # The first call of a streamer shows it the prompt.
        return Measured(clock.times[-1] - clock.times[1], len(clock.times) - 2)

    def prompt(self, text: str, opening: str) -> list[int]:
        """Ids of the chat template's string with the beginning of the answer."""
        system = self.language[2].template.system
        turns = [] if system is None else [f"<|im_start|>system\n{system}<|im_end|>\n"]
        string = "".join([*turns, f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n{opening}"])
        ids: list[int] = self.language[1](string).input_ids
        return ids

    def _generate(self, text: str, opening: str, tokens: int, **settings: Any) -> tuple[int, list[int]]:
        """The length of the prompt, and the ids that were made."""
        given = {"do_sample": False} | settings
        ids = torch.tensor([self.prompt(text, opening)], device=self.parts.device)
        said = self.language[0].generate(ids, max_new_tokens=tokens, pad_token_id=self.parts.vocab.image_end, **given)
        return ids.shape[1], said[0, ids.shape[1] :].tolist()

    def features(self, codes_BN: Tensor) -> Tensor:
        """Features of codes, the codebook projected once more."""
        rows_BNC = functional.embedding(codes_BN.to(self.parts.device), self._codebook())
        return self.parts.ta_tok.decoder(rows_BNC)

    def paint(self, detok: str, features_BND: Tensor, steps: int | None) -> Tensor:
        """Pixels of features."""
        painter: Any = self._painters.detokenizer(detok)
        if not self.painted(detok):
            return painter.decode(features_BND, seed=0, steps=steps)
        config = painter.transformer.config
        codes_BL = published_codes(config, self._state(detok), features_BND, config.guidance)
        pixels: Tensor = painter.canvas.decode_codes(codes_BL)
        return pixels

    def painted(self, detok: str) -> int:
        """Codes that a de-tokenizer draws."""
        config = getattr(getattr(self._painters.detokenizer(detok), "transformer", None), "config", None)
        return int(getattr(config, "codes", 0))

    def _state(self, detok: str) -> dict[str, Tensor]:
        """The tensors of an AR transformer, as they are stored."""
        if detok not in self._states:
            dtype: LoadDtype = "stored" if self.dtype is None else getattr(torch, self.dtype)
            state = load_part(self.folder / f"detok_{detok}" / "transformer", dtype)[1]
            self._states[detok] = {name: tensor.to(self.parts.device) for name, tensor in state.items()}
        return self._states[detok]

    @torch.no_grad()
    def warm(self, work: Work) -> None:
        """Touch the weights and run each part for a moment."""
        if "language" in work.parts:
            touch(self.language[0])
            self.answer(self.some_codes(2), 1)
        if "ta_tok" in work.parts:
            touch(self.parts.ta_tok)
            self.encode(self.picture(), 2)
        if work.detok:
            self._warm_painter(work)

    def _warm_painter(self, work: Work) -> None:
        painter: Any = self._painters.detokenizer(work.detok)
        for part in (painter, getattr(painter, "transformer", None), getattr(painter, "vae", None)):
            touch(part)
        if codes := self.painted(work.detok):
            self._state(work.detok)
            painter.canvas.decode_codes(torch.zeros(1, codes, dtype=torch.int64, device=self.parts.device))
        else:
            painter.decode(self.features(torch.tensor([self.some_codes(work.scale)])), seed=0, steps=1)


class _Clock:
    """What `generate` takes for a streamer: notes when each id came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _: Tensor) -> None:
        """One more id, or the prompt."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is left to print."""


def write_full_tokenizer(folder: Path, out: Path) -> PromptBuilder:
    """The tokenizer of a model folder with all image tokens, as libraries load it; returns the builder of prompts."""
    from opentar.checkpoints.convert.qwen2 import image_tokens
    from opentar.core.config import from_dict
    from opentar.language.model import LanguageConfig
    from opentar.language.prompt import ChatTemplate, PromptBuilder
    from opentar.language.tokenizer import FILE, TextTokenizer

    ours = read_config(folder / "language")["opentar"]
    sizes = from_dict(LanguageConfig, ours["language"])
    tokenizer = TextTokenizer.load(folder / "language")
    builder = PromptBuilder(tokenizer, sizes.vocab, from_dict(ChatTemplate, ours["template"]), sizes.max_length)
    (out / FILE).write_text(tokenizer.to_json(list(image_tokens(builder))), encoding="utf-8")
    (out / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    (out / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}', encoding="utf-8")
    return builder
