"""Drawing the codes of pictures with the AR transformer: one code a pass, or several (``passes`` says which).

The noise of a code is fixed by (seed, its place in the picture), so it does not matter which pass draws it, nor beside
what. Every code has a slot of the cache from the start; a guess that was wrong is written over in its own slot.

Legend: B pictures, R rows (B, and with guidance B more without their condition), N features, P entries of a pass, S
slots, L codes of a picture, V codes in the codebook.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from opentar.nn.sampling import check_sampling, guide, gumbel_sample, seed_list
from opentar.tokens_to_image.ar_blocks import Places
from opentar.tokens_to_image.ar_session import Computes, Session
from opentar.tokens_to_image.detokenizer import Callback, check_guidance
from opentar.tokens_to_image.passes import ONE, Entry, PassCounts, Passes, Sheet

if TYPE_CHECKING:
    from opentar.tokens_to_image.ar import ARTransformer
    from opentar.tokens_to_image.vqgan import VQGAN, LatentVQ


@dataclass(frozen=True)
class _Sampler:
    """How codes are chosen from logits."""

    seeds: Sequence[int]
    guidance: float
    guided: int
    """codes from the front that are drawn with guidance"""
    temperature: float
    top_k: int
    top_p: float

    def __call__(
        self, cond_MV: Tensor, uncond_MV: Tensor | None, pictures: Sequence[int], places: Sequence[int]
    ) -> Tensor:
        """Codes int64 (M,) of these places of these pictures."""
        logits_MV = cond_MV.float()
        if uncond_MV is not None:
            logits_MV = guide(logits_MV, uncond_MV.float(), self.guidance)
            if max(places) >= self.guided:
                plain_M1 = torch.tensor(places, device=cond_MV.device)[:, None] >= self.guided
                logits_MV = torch.where(plain_M1, cond_MV.float(), logits_MV)
        seeds = [self.seeds[picture] for picture in pictures]
        return gumbel_sample(logits_MV, self.temperature, self.top_k, self.top_p, seeds, places)


Told = Callable[[int, Tensor], None]
"""Takes the number of codes that stand (of each picture, on average) and all codes (B, L), -1 where there is none."""


@torch.no_grad()
def sample_codes(
    model: ARTransformer,
    features_BND: Tensor,
    *,
    seed: int | Sequence[int] = 0,
    guidance: float | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    passes: Passes = ONE,
    counts: PassCounts | None = None,
    callback: Callback | None = None,
    canvas: VQGAN | LatentVQ | None = None,
    computes: Computes | None = None,
) -> Tensor:
    """Codes int64 (B, L) of features (B, N, D).

    Args: as in :class:`opentar.tokens_to_image.detokenizer.Detokenizer`; temperature 0 takes the likeliest code;
    `passes` says how many codes a pass draws and `counts` is told what that cost; `canvas` makes the callback's
    previews and is needed only with a callback; `computes` runs the blocks, by default the model itself.
    """
    config, pictures = model.config, len(features_BND)
    guidance = check_guidance(config.guidance if guidance is None else guidance)
    sampler = _Sampler(
        seeds=seed_list(seed, pictures),
        guidance=guidance,
        guided=round(passes.guided * config.codes) if guidance > 1 else 0,
        temperature=config.temperature if temperature is None else temperature,
        top_k=config.top_k if top_k is None else top_k,
        top_p=config.top_p if top_p is None else top_p,
    )
    check_sampling(sampler.temperature, sampler.top_k, sampler.top_p)
    counts = PassCounts() if counts is None else counts

    def told(done: int, codes_BL: Tensor) -> None:
        if callback is not None and canvas is not None:
            callback(done, config.codes, partial(_preview, canvas, codes_BL.clone()))

    logits_RV, session = _read_prefix(model, features_BND, computes or model, guided=sampler.guided > 0)
    draw = _several if passes.guesses or passes.lead else _one_by_one
    codes_BL = draw(model, logits_RV, session, sampler, passes, counts, told)
    counts.kept += codes_BL.numel()
    return codes_BL


def _read_prefix(
    model: ARTransformer, features_BND: Tensor, computes: Computes, *, guided: bool
) -> tuple[Tensor, Session]:
    """Logits (R, V) of the first code, and the drawing behind the prefix."""
    prefix_RNW, pictures = model.prefix(features_BND), len(features_BND)
    if guided:
        # Without a condition the prefixes of all pictures are one: it is read once.
        prefix_RNW = torch.cat([prefix_RNW, model.prefix(torch.zeros_like(features_BND[:1]))])
    session = computes.begin(pictures * (1 + guided), prefix_RNW.shape[1] + model.config.codes)
    logits_RV = session.step(prefix_RNW)
    if guided and pictures > 1:
        session.spread(pictures)
        logits_RV = torch.cat([logits_RV, logits_RV[-1:].expand(pictures - 1, -1)])
    return logits_RV, session


def _one_by_one(
    model: ARTransformer,
    logits_RV: Tensor,
    session: Session,
    sampler: _Sampler,
    passes: Passes,
    counts: PassCounts,
    told: Told,
) -> Tensor:
    pictures, length = len(sampler.seeds), model.config.codes
    codes_BL = torch.full((pictures, length), -1, device=logits_RV.device)
    for place in range(length):
        uncond_BV = logits_RV[pictures:] if len(logits_RV) > pictures else None
        codes_BL[:, place] = sampler(logits_RV[:pictures], uncond_BV, range(pictures), [place] * pictures)
        told(place + 1, codes_BL)
        if place + 1 == length:
            break
        inputs_R1W = model.codes_in(codes_BL[:, place : place + 1]).to(model.positions.dtype)
        if place + 1 < sampler.guided:
            inputs_R1W = inputs_R1W.repeat(2, 1, 1)
        elif uncond_BV is not None:
            session.first(pictures)
        logits_RV = session.step(inputs_R1W)
        counts.passes += 1
        counts.computed += pictures
        counts.rows += len(inputs_R1W)
    return codes_BL


def _several(
    model: ARTransformer,
    logits_RV: Tensor,
    session: Session,
    sampler: _Sampler,
    passes: Passes,
    counts: PassCounts,
    told: Told,
) -> Tensor:
    pictures, length, prefix = len(sampler.seeds), model.config.codes, session.filled
    device = logits_RV.device
    uncond_BV = logits_RV[pictures:] if len(logits_RV) > pictures else None
    first_B = sampler(logits_RV[:pictures], uncond_BV, range(pictures), [0] * pictures).tolist()
    sheets = [Sheet(passes, length, first) for first in first_B]
    # The slots whose code stands, or stands in; guesses are seen by their own line only, while they are guesses.
    stands_BS = torch.zeros(pictures, prefix + length, dtype=torch.bool, device=device)
    stands_BS[:, :prefix] = True
    while True:
        told(sum(sheet.kept for sheet in sheets) // pictures, _codes(sheets, device))
        plans = [sheet.entries() for sheet in sheets]
        if not any(entry.wanted for plan in plans for entry in plan):
            return _codes(sheets, device)
        guided = sampler.guided > 0 and any(sheet.missing(sampler.guided) for sheet in sheets)
        inputs_RPW, places = _arranged(model, plans, stands_BS, prefix, rows=pictures * (1 + guided))
        logits_RPV = session.several(inputs_RPW, places)
        _accept(logits_RPV, plans, sheets, sampler, stands_BS, prefix)
        counts.passes += 1
        counts.computed += sum(len(plan) for plan in plans)
        counts.rows += logits_RPV.shape[0] * logits_RPV.shape[1]


def _arranged(
    model: ARTransformer, plans: Sequence[Sequence[Entry]], stands_BS: Tensor, prefix: int, rows: int
) -> tuple[Tensor, Places]:
    """Embedded codes (R, P, W) of a pass and where they stand; marks those that are sure in `stands_BS`."""
    pictures, slots = stands_BS.shape
    most = max(len(plan) for plan in plans)
    # A shorter plan is filled up with entries in the last slot, which no code has: the last one is never an input.
    empty = Entry(slots - 1 - prefix, 0, -2, sure=False, wanted=False)
    table = [[*plan, *[empty] * (most - len(plan))] for plan in plans]
    columns = torch.tensor([[[*entry] for entry in plan] for plan in table], device=stands_BS.device).unbind(-1)
    slots_BP, codes_BP, lines_BP, sure_BP = columns[0] + prefix, columns[1], columns[2], columns[3] == 1
    stands_BS.scatter_(1, slots_BP, stands_BS.gather(1, slots_BP) | sure_BP)
    end = int(torch.where(lines_BP >= 0, slots_BP, 0).max()) + 1
    # Every slot has the line whose guess it holds now, or -1.
    guesses_BS = torch.full((pictures, slots), -1, device=stands_BS.device)
    guesses_BS.scatter_(1, slots_BP, torch.where(sure_BP, -1, lines_BP))
    seen_BPS = stands_BS[:, None, :end] | (guesses_BS[:, None, :end] == lines_BP[:, :, None])
    seen_BPS = seen_BPS & (torch.arange(end, device=stands_BS.device) <= slots_BP[:, :, None])
    inputs_BPW = model.codes_in(codes_BP).to(model.positions.dtype)
    again = rows // pictures
    return inputs_BPW.repeat(again, 1, 1), Places(slots_BP.repeat(again, 1), seen_BPS.repeat(again, 1, 1)[:, None])


def _accept(
    logits_RPV: Tensor,
    plans: Sequence[Sequence[Entry]],
    sheets: Sequence[Sheet],
    sampler: _Sampler,
    stands_BS: Tensor,
    prefix: int,
) -> None:
    """Draw what the entries predict and the guesses further ahead, in one call, and hand them to the sheets."""
    pictures, most = len(sheets), logits_RPV.shape[1]
    asked: list[tuple[int, int, int]] = []  # picture, column, place
    for picture, (plan, sheet) in enumerate(zip(plans, sheets, strict=True)):
        for column, entry in enumerate(plan):
            if entry.wanted:
                asked.append((picture, column, entry.place + 1))
                if column + 1 == len(plan) or plan[column + 1].line != entry.line:
                    asked += [(picture, column, place) for place in sheet.ahead(entry)]
    index_M = torch.tensor([picture * most + column for picture, column, _ in asked], device=logits_RPV.device)
    cond_MV, *uncond = (part.flatten(0, 1)[index_M] for part in logits_RPV.split(pictures))
    places = [place for _, _, place in asked]
    drawn = sampler(cond_MV, uncond[0] if uncond else None, [picture for picture, _, _ in asked], places).tolist()
    for picture, (plan, sheet) in enumerate(zip(plans, sheets, strict=True)):
        codes = {place: code for (one, _, place), code in zip(asked, drawn, strict=True) if one == picture}
        right = sheet.accept(plan, codes)
        if right:
            stands_BS[picture, [prefix + entry.place for entry in right]] = True


def _codes(sheets: Sequence[Sheet], device: torch.device) -> Tensor:
    return torch.tensor([[-1 if code is None else code for code in sheet.codes] for sheet in sheets], device=device)


def _preview(canvas: VQGAN | LatentVQ, codes_BL: Tensor) -> Tensor:
    """Pixels with the codes that are missing as copies of the last one before them."""
    places = torch.arange(codes_BL.shape[1], device=codes_BL.device)
    last_BL = torch.where(codes_BL >= 0, places, 0).cummax(1).values
    return canvas.decode_codes(codes_BL.gather(1, last_BL))
