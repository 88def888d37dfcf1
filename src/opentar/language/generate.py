"""Generation: drawings that are complete by construction, and text that can hold nothing but text.

A drawing is exactly `scale.length` choices among the code rows of the head; no other id exists while it is spelled, so
a short, long or mixed grid cannot come out and nothing is ever repaired. <im_end> needs no choice and is never asked.
Noise comes from one seeded CPU generator per drawing: the same seed gives the same codes alone, in a batch, and on
every device whose logits agree. The folder's generation settings (repetition penalty and the like) play no part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from opentar.core.errors import ModelError, PromptError
from opentar.language.model import TarLanguageModel
from opentar.nn.sampling import check_sampling, generators, guide, sample
from opentar.vocab import Scale

Prompts = Sequence[Sequence[int]]
StepCallback = Callable[[int, Tensor], None]
"""Called after each code with the number of codes spelled so far and the codes (B, so far)."""


class Decoding:
    """A batch of prompts being continued: ids go in, the hidden state that predicts the next id comes out.

    Prompts of different lengths are filled up on the left and masked; `hidden_BH` predicts the id after the last one.
    """

    def __init__(self, model: TarLanguageModel, prompts: Prompts) -> None:
        if not prompts or not all(prompts):
            raise PromptError("no prompt was given, or an empty one; give at least one id each")
        self._model = model
        # Appending to this cache copies it, which costs little beside reading the weights; a preallocated one makes
        # every step attend over all positions and needs a mask each time.
        self._cache = DynamicCache()
        ids_BT, real_BT = pad_left(prompts, model.config.padding)
        self._real_BS = None if bool(real_BT.all()) else real_BT.to(model.device)
        self.hidden_BH = model.hidden(ids_BT.to(model.device), self._real_BS, self._cache)[:, -1]

    def push(self, tokens_B: Tensor) -> None:
        """Append one id per prompt, (B,) int64."""
        if self._real_BS is not None:
            self._real_BS = torch.cat([self._real_BS, self._real_BS.new_ones(len(tokens_B), 1)], 1)
        ids_B1 = tokens_B.to(self._model.device)[:, None]
        self.hidden_BH = self._model.hidden(ids_B1, self._real_BS, self._cache)[:, -1]


def pad_left(prompts: Prompts, padding: int) -> tuple[Tensor, Tensor]:
    """Ids (B, T) int64 filled up on the left with `padding`, and where they are real (B, T) bool."""
    longest = max(len(prompt) for prompt in prompts)
    rows = [[padding] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    return torch.tensor(rows), torch.arange(longest)[None] >= longest - lengths[:, None]


@torch.no_grad()
def spell(
    model: TarLanguageModel,
    prompts: Prompts,
    scale: Scale,
    seeds: int | Sequence[int],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance: float | None = None,
    unconditional: Prompts | None = None,
) -> Iterator[Tensor]:
    """Yield the codes of each step, (B,) int64 on the CPU, `scale.length` times.

    prompts: what `PromptBuilder.draw` or `.edit` gave; seeds: one per prompt, or one to count up from; temperature 0
    takes the likeliest code; top_k 0 and top_p 1 are off. Guidance other than 1 needs `unconditional`: one prompt per
    drawing, or one for all, from `PromptBuilder.unconditional`.
    Raises ModelError if a prompt does not open a drawing of this scale, ConfigError for settings out of range.
    """
    check_sampling(temperature, top_k, top_p)
    sources = generators(seeds, len(prompts))
    _check_drawing(model, prompts, scale)
    guided = guidance is not None and guidance != 1.0
    batch = len(prompts)
    if guided:
        prompts = [*prompts, *_other_side(model, unconditional, scale, batch)]
    decoding = Decoding(model, prompts)
    for step in range(scale.length):
        logits = model.code_logits(decoding.hidden_BH).float()
        if guided:
            assert guidance is not None
            logits = guide(logits[:batch], logits[batch:], guidance)
        codes_B = sample(logits, temperature, top_k, top_p, sources).cpu()
        yield codes_B
        if step + 1 < scale.length:
            tokens = model.vocab.code_token(codes_B)
            decoding.push(torch.cat([tokens, tokens]) if guided else tokens)


def draw_codes(
    model: TarLanguageModel,
    prompts: Prompts,
    scale: Scale,
    seeds: int | Sequence[int],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance: float | None = None,
    callback: StepCallback | None = None,
    unconditional: Prompts | None = None,
) -> Tensor:
    """`spell` to the end: a complete grid for each prompt, (B, scale.length) int64 in 0 .. codebook_size-1."""
    steps = spell(
        model,
        prompts,
        scale,
        seeds,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        guidance=guidance,
        unconditional=unconditional,
    )
    codes_BN = torch.empty(len(prompts), scale.length, dtype=torch.int64)
    for step, codes_B in enumerate(steps):
        codes_BN[:, step] = codes_B
        if callback is not None:
            callback(step + 1, codes_BN[:, : step + 1])
    return codes_BN


@torch.no_grad()
def stream_batch(
    model: TarLanguageModel,
    prompts: Prompts,
    max_new_tokens: int = 128,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seeds: Sequence[int] | None = None,
) -> Iterator[list[int | None]]:
    """Yield one text id per prompt and step, None for prompts whose answer has ended; stops when all have.

    Only text ids and <|im_end|> can be chosen; <|im_end|> itself is not given out. temperature 0 is greedy.
    Raises PromptError if a prompt leaves no room for an answer or max_new_tokens is below 1.
    """
    if max_new_tokens < 1:
        raise PromptError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    check_sampling(temperature, top_k, top_p)
    sources = generators(0 if seeds is None else seeds, len(prompts))
    room = model.config.max_length - max((len(prompt) for prompt in prompts), default=0)
    if room < 1:
        raise PromptError(f"the prompt fills all {model.config.max_length} positions; shorten it")
    decoding = Decoding(model, prompts)
    ended = [False] * len(prompts)
    most = min(max_new_tokens, room)
    for step in range(most):
        tokens_B = sample(model.text_logits(decoding.hidden_BH), temperature, top_k, top_p, sources)
        ended = [was or token == model.config.end for was, token in zip(ended, tokens_B.tolist(), strict=True)]
        if all(ended):
            return
        yield [None if over else token for over, token in zip(ended, tokens_B.tolist(), strict=True)]
        if step + 1 < most:
            decoding.push(tokens_B)


def stream_text(
    model: TarLanguageModel,
    prompt: Sequence[int],
    max_new_tokens: int = 128,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[int]:
    """Yield the ids of one answer as they come; `TextTokenizer.stream` turns them into text."""
    steps = stream_batch(
        model, [prompt], max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seeds=[seed]
    )
    for (token,) in steps:
        assert token is not None
        yield token


def generate_text(
    model: TarLanguageModel,
    prompts: Prompts,
    max_new_tokens: int = 128,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seeds: Sequence[int] | None = None,
) -> list[list[int]]:
    """The whole answers: text ids, without <|im_end|>."""
    answers: list[list[int]] = [[] for _ in prompts]
    steps = stream_batch(model, prompts, max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seeds=seeds)
    for tokens in steps:
        for answer, token in zip(answers, tokens, strict=True):
            if token is not None:
                answer.append(token)
    return answers


@torch.no_grad()
def choice_scores(model: TarLanguageModel, prompts: Prompts, choices: Prompts) -> Tensor:
    """How likely each of a few answers is: (B, number of choices) fp32, each row sums to 1.

    choices: ids of each answer (`PromptBuilder.answer`), the same for all prompts. An answer counts as a whole, its
    <|im_end|> included, so that "no" does not win by being the beginning of another. Yes/no is `choices` of two.
    """
    if not choices or not all(choices):
        raise PromptError("no choice was given, or an empty one; give at least one word each")
    config = model.config
    answers = [[*choice, config.end] for choice in choices]
    rows = [[*prompt, *answer] for prompt in prompts for answer in answers]
    ids_RT, real_RT = pad_left(rows, config.padding)
    ids_RT, real_RT = ids_RT.to(model.device), real_RT.to(model.device)
    # Rows end together, so the last ids of each row are its answer and the positions before them predict it.
    longest = max(len(answer) for answer in answers)
    hidden_RAH = model.hidden(ids_RT, None if bool(real_RT.all()) else real_RT)[:, -longest - 1 : -1]
    lengths_R = torch.tensor([len(answer) for answer in answers], device=ids_RT.device).repeat(len(prompts))
    inside_RA = torch.arange(longest, device=ids_RT.device)[None] >= longest - lengths_R[:, None]
    # Before a short answer stand ids of the prompt, codes perhaps; they are looked up as <|im_end|> and left out.
    said_RA = ids_RT[:, -longest:].masked_fill(~inside_RA, config.end)
    logs_RA = model.text_logits(hidden_RAH).log_softmax(-1).gather(-1, said_RA[..., None])[..., 0]
    scores = logs_RA.masked_fill(~inside_RA, 0.0).sum(1).view(len(prompts), len(choices))
    return scores.softmax(-1).cpu()


def _check_drawing(model: TarLanguageModel, prompts: Prompts, scale: Scale) -> None:
    opening = [model.vocab.image_start, model.vocab.scale_token(scale.index)]
    for prompt in prompts:
        if list(prompt[-2:]) != opening:
            raise ModelError(
                f"a prompt does not open a drawing at scale {scale.index}; build it with PromptBuilder.draw"
            )
    needed = max((len(prompt) for prompt in prompts), default=0) + scale.length
    if needed > model.config.max_length:
        raise PromptError(f"prompt and picture need {needed} positions; this model has {model.config.max_length}")


def _other_side(model: TarLanguageModel, unconditional: Prompts | None, scale: Scale, batch: int) -> Prompts:
    if not unconditional or len(unconditional) not in (1, batch):
        given = 0 if unconditional is None else len(unconditional)
        raise ModelError(f"guidance of {batch} drawings came with {given} unconditional prompts; give 1 or {batch}")
    _check_drawing(model, unconditional, scale)
    return unconditional if len(unconditional) == batch else list(unconditional) * batch
