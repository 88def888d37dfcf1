"""Our classes against reference values of the authors' published inference code: every value that a folder holds.

A folder holds weights.json (tiny checkpoints in the published formats, see rebuild.py), .npz files with inputs and
outputs, a language model and a SANA folder. Keys are read, never assumed: another folder of the same form may have
other pictures, scales, guidance, lengths and sizes. What a key means stands in the pattern that finds it. The weights
are random; they pin the arithmetic, not quality.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rebuild
import torch
from PIL import Image
from torch.nn import functional

import sequences as built
from decoding import draw_codes, next_logits
from opentar.engine.backends.torch_backend import TorchBackend
from opentar.image_to_tokens.decoder import resize_positions
from opentar.image_to_tokens.encoder import pool_grid
from opentar.image_to_tokens.preprocess import to_pixels
from opentar.image_to_tokens.published import read_ta_tok
from opentar.image_to_tokens.ta_tok import TATok
from opentar.language.model import TarLanguageModel
from opentar.language.prompt import PUBLISHED_TEMPLATE, PromptBuilder
from opentar.language.published import read_llm
from opentar.nn.sampling import guide, probabilities, top_k_top_p
from opentar.tokens_to_image.ar import ARTransformer
from opentar.tokens_to_image.ar_decoding import sample_codes
from opentar.tokens_to_image.published import read_ar_dtok, read_vqgan
from opentar.tokens_to_image.vqgan import VQGAN
from opentar.vocab import Vocab

FLOATS = 2e-4
"""Largest absolute difference of float32 results."""
ROUNDED = 2e-2
"""The same where the reference computed in bfloat16."""
PROBABILITIES = 1e-5
TIE = 1e-4
"""Margin or gap below which either of the two best choices is right."""
BLOCK = 12
"""Side of the blocks of a test picture that pictures.json does not name."""
Values = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison."""

    part: str
    """ta_tok, ar, vq, llm, sampling or sana"""
    what: str
    """what was compared"""
    key: str
    """key of the reference value"""
    largest: float
    """largest absolute difference, or the number of wrong integers"""
    tolerance: float
    """most that is right; 0 for integers"""
    values: int
    """numbers compared"""

    @property
    def right(self) -> bool:
        """Whether the difference is within the tolerance; NaN never is."""
        return self.largest <= self.tolerance


class Reference:
    """A folder of reference values and the checkpoints rebuilt from it.

    Args:
        folder: weights.json, *.npz, tar_llm/, tar_sana/; pictures.json may name further test pictures.
        out: where checkpoints are written, once each.
    """

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder, self.out = Path(folder), Path(out)

    def values(self, stem: str) -> Values:
        """The arrays of `stem`.npz."""
        return dict(np.load(self.folder / f"{stem}.npz"))

    def checkpoint(self, start: str) -> Path:
        """The rebuilt file of weights.json whose name begins with `start`."""
        names = json.loads((self.folder / "weights.json").read_text())
        name = next(name for name in names if name.startswith(start))
        path = self.out / name
        return path if path.exists() else rebuild.write_checkpoint(self.folder, name, self.out)

    def ta_tok(self) -> TATok:
        """The tokenizer of ta_tok.pth."""
        config, state = read_ta_tok(self.checkpoint("ta_tok"))
        model = TATok(config)
        model.load_state_dict(state)
        return model.eval()

    def picture(self, name: str) -> np.ndarray:
        """The test picture `name`, uint8 (H, W, 3): "sq384" is 384 x 384, "any480x640" 480 high and 640 wide."""
        listed = self.folder / "pictures.json"
        if listed.is_file() and name in (known := json.loads(listed.read_text())):
            return rebuild.picture(name, *known[name])
        height, width = re.fullmatch(r"\D+(\d+)(?:x(\d+))?", name).groups()
        return rebuild.picture(name, int(height), int(width or height), BLOCK)


def _floats(part: str, what: str, key: str, ours: Any, theirs: np.ndarray, tolerance: float = FLOATS) -> Check:
    ours = np.asarray(ours.detach() if isinstance(ours, torch.Tensor) else ours)
    assert ours.shape == theirs.shape, (key, ours.shape, theirs.shape)
    largest = float(np.abs(ours.astype(np.float64) - theirs).max())
    return Check(part=part, what=what, key=key, largest=largest, tolerance=tolerance, values=theirs.size)


def _integers(part: str, what: str, key: str, ours: Any, theirs: np.ndarray, sure: np.ndarray | None = None) -> Check:
    """Counts what differs, except where `sure` is False."""
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape, (key, ours.shape, theirs.shape)
    sure = np.ones(theirs.shape, dtype=bool) if sure is None else np.broadcast_to(sure, theirs.shape)
    wrong = int((ours != theirs)[sure].sum())
    return Check(part=part, what=what, key=key, largest=wrong, tolerance=0, values=int(sure.sum()))


def _until_tie(gaps: np.ndarray) -> np.ndarray:
    """True up to the first tie of each row: after it a sequence may rightly go another way."""
    return np.cumsum(gaps < TIE, axis=-1) == 0


@torch.no_grad()
def check_ta_tok(reference: Reference) -> Iterator[Check]:
    """Codes, features before the quantizer, decoder outputs, codebook rows."""
    model, values = reference.ta_tok(), reference.values("ta_tok")
    vision = model.config.vision
    vocab = Vocab(text_size=1, codebook_size=model.config.quantizer.codebook_size, grid_side=vision.grid_side)
    for key in values:
        if match := re.fullmatch(r"((.+)\.aa([01])\.p(\d))\.indices", key):
            front, scale = match[1], vocab.scale(int(match[4]) - 1)
            pixels = _pixels(reference.picture(match[2]), vision.image_size, antialias=match[3] == "1")
            sure = values[f"{front}.margin"] >= TIE
            yield _integers("ta_tok", "codes", key, model.encode(pixels, scale), values[key], sure)
            z_BNC = model.task_features(model.features(pixels, scale))
            yield from _given(values, front, {"vq_feats": ("features before the bottleneck", z_BNC)})
            yield from _bottleneck(model, values, front)
        elif match := re.fullmatch(r"dec\.indices(.+)", key):
            out = f"dec.out{match[1]}"
            yield _floats("ta_tok", "decoder", out, model.decode(torch.from_numpy(values[key])), values[out])
        elif match := re.fullmatch(r"emb_first(\d+)", key):
            yield _floats("ta_tok", "codebook rows", key, model.codebook()[: int(match[1])], values[key])


def _bottleneck(model: TATok, values: Values, front: str) -> Iterator[Check]:
    """From the reference's own features on, so that a tie in the codes cannot carry over."""
    codes_BN = torch.from_numpy(values[f"{front}.indices"])
    z_BNC = model.in_linear(torch.from_numpy(values[f"{front}.vq_feats"]))
    rows_BNC = model.quantizer.look_up(codes_BN)
    normed = functional.normalize(z_BNC, dim=-1) if model.config.quantizer.l2_normalized else z_BNC
    yield from _given(
        values,
        front,
        {
            "projected_z": ("bottleneck", z_BNC),
            "unregularized_z": ("bottleneck", normed),
            "regularized_z": ("bottleneck", rows_BNC),
            "bottleneck_out": ("bottleneck", model.decoder.out_linear(rows_BNC)),
            "rec": ("decoder", model.decode(codes_BN)),
            "decode_from_bottleneck": ("decoder", model.decode(codes_BN)),
        },
    )


def _given(values: Values, front: str, made: Mapping[str, tuple[str, torch.Tensor]]) -> Iterator[Check]:
    """Checks of those of `made` that the reference holds."""
    for name, (what, ours) in made.items():
        if f"{front}.{name}" in values:
            yield _floats("ta_tok", what, f"{front}.{name}", ours, values[f"{front}.{name}"])


def _pixels(picture: np.ndarray, size: int, *, antialias: bool) -> torch.Tensor:
    if antialias:
        return to_pixels(Image.fromarray(picture), size)[None]
    # Some published runs resized without it; ours never does, so only the rest of the way can be compared.
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    return functional.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False)


@torch.no_grad()
def check_ar(reference: Reference) -> Iterator[Check]:
    """Teacher-forced logits with and without the condition, guided logits, guided greedy codes with the cache."""
    stems = [path.stem for path in sorted(reference.folder.glob("ar_dtok*.npz"))]
    assert stems
    for stem in stems:
        config, state = read_ar_dtok(reference.checkpoint(stem))
        model = ARTransformer(config)
        model.load_state_dict(state)
        yield from _ar(model.eval(), reference.values(stem))


def _ar(model: ARTransformer, values: Values) -> Iterator[Check]:
    for key in values:
        name = key.split(".")[0]
        condition = torch.from_numpy(values[f"{name}.cond"])
        dropped = torch.ones(len(condition), dtype=torch.bool)
        if match := re.fullmatch(r".+\.tf_logits_(cond|uncond)", key):
            given = dropped if match[1] == "uncond" else None
            logits = model(condition, torch.from_numpy(values[f"{name}.tf_idx"]), given)
            yield _floats("ar", f"logits, {match[1]}itional", key, logits, values[key])
        elif match := re.fullmatch(r".+\.first_logits\.cfg([\d.]+)", key):
            nothing = torch.zeros(len(condition), 0, dtype=torch.int64)
            logits = guide(model(condition, nothing), model(condition, nothing, dropped), float(match[1]))[:, 0]
            yield _floats("ar", "first logits with guidance", key, logits, values[key])
        elif match := re.fullmatch(r".+\.greedy\.cfg([\d.]+\d)", key):
            codes = sample_codes(model, condition, temperature=0, guidance=float(match[1]))
            sure = _until_tie(values[f"{key}.gap"])
            yield _integers("ar", "guided greedy codes, cached", key, codes, values[key], sure)


@torch.no_grad()
def check_vq(reference: Reference) -> Iterator[Check]:
    """Pixels of codes, codes of pixels."""
    config, state = read_vqgan(reference.checkpoint("vq"))
    with torch.device("meta"):
        model = VQGAN(config)
    model.load_state_dict(state, assign=True)
    model.eval()
    values = reference.values("vq")
    for key in values:
        if match := re.fullmatch(r"idx(\d+)", key):
            pixels = f"px{match[1]}"
            yield _floats("vq", "pixels", pixels, model.decode_raw(torch.from_numpy(values[key])), values[pixels])
        elif match := re.fullmatch(r"(?:(.+)\.)?enc\.idx", key):
            front = key.removesuffix("idx")
            side = round(values[key].size ** 0.5) * model.factor
            picture = torch.from_numpy(reference.picture(match[1] or "sq384")[:side, :side].copy())
            z_BLC = model.codes_in(model.encoder(picture.permute(2, 0, 1)[None].float() / 127.5 - 1))
            z_BLC = functional.normalize(z_BLC.flatten(2).transpose(1, 2), dim=-1)
            if f"{front}z" in values:
                yield _floats("vq", "latents", f"{front}z", _as(z_BLC, values[f"{front}z"]), values[f"{front}z"])
            codes = model.encode(picture.permute(2, 0, 1)[None].float() / 127.5 - 1)
            sure = values[f"{front}margin"].reshape(values[key].shape) >= TIE
            yield _integers("vq", "codes", key, _as(codes, values[key]), values[key], sure)


def _as(ours: torch.Tensor, theirs: np.ndarray) -> torch.Tensor:
    """Without a batch of one, where the reference has none."""
    return ours[0] if ours.ndim == theirs.ndim + 1 and len(ours) == 1 else ours


@torch.no_grad()
def check_llm(reference: Reference) -> Iterator[Check]:
    """Prompts, logits and greedy ids over the whole vocabulary, for drawing and for reading.

    Greedy over everything is not how we draw; it proves logits and cache. The authors' sequences with a repetition
    penalty, and their codes parsed from text, carry faults that are not to be had: only the logits before them count.
    """
    published = read_llm(reference.folder / "tar_llm")
    model = TarLanguageModel.from_state(published.config, published.state, "tar_llm")
    builder = PromptBuilder(
        published.tokenizer, published.config.vocab, PUBLISHED_TEMPLATE, published.config.max_length
    )
    values = reference.values("llm")
    for key in values:
        if match := re.fullmatch(r"(t2i\.s(\d)\.p\d+)\.last_logits", key):
            yield from _drawing(model, builder, values, match[1], int(match[2]))
        elif match := re.fullmatch(r"(i2t.*)\.ids", key):
            yield from _reading(model, builder, values, match[1])


def _drawing(
    model: TarLanguageModel, builder: PromptBuilder, values: Values, front: str, index: int
) -> Iterator[Check]:
    scale = builder.vocab.scale(index)
    opening = [builder.vocab.image_start, builder.vocab.scale_token(index)]
    logits_BV = values[f"{front}.last_logits"]
    sequences = [key for key in values if re.fullmatch(re.escape(front) + r"\.rp[\d.]+\d\.seq", key)]
    for key in sequences:
        for row, ids in enumerate(values[key].tolist()):
            start = next(place for place in range(len(ids)) if ids[place - 2 : place] == opening)
            prompt = built.draw(builder, _said_by_user(builder, ids[: start - 2])[1], scale)
            yield _integers("llm", "prompt of a drawing", key, prompt, np.array(ids[:start]))
            logits = next_logits(model, prompt)
            yield _floats("llm", "logits of a drawing", f"{front}.last_logits", logits, logits_BV[row : row + 1])
            columns = logits_BV[row, builder.vocab.first_code : builder.vocab.size]
            best = np.sort(columns)[-2:]
            first = draw_codes(model, [prompt], scale, [0], temperature=0)[0, :1]
            sure = np.array([best[1] - best[0] >= TIE])
            yield _integers("llm", "constrained first code", key, first, np.array([columns.argmax()]), sure)
            if ".rp1.0." in key:
                gaps = values[key.removesuffix("seq") + "gap"][row]
                yield _greedy(model, key, prompt, np.array(ids[start:]), gaps, "greedy ids of a drawing")


def _reading(model: TarLanguageModel, builder: PromptBuilder, values: Values, front: str) -> Iterator[Check]:
    for row, ids in enumerate(values[f"{front}.ids"].tolist()):
        codes, text = _said_by_user(builder, ids)
        prompt = built.read(builder, [codes], text.removeprefix("\n"))
        yield _integers("llm", "prompt of a reading", f"{front}.ids", prompt, np.array(ids))
        logits = next_logits(model, prompt)
        key = f"{front}.last_logits"
        yield _floats("llm", "logits of a reading", key, logits, values[key][row : row + 1])
        if f"{front}.seq" in values:
            said = values[f"{front}.seq"][row, len(prompt) :]
            gaps = values[f"{front}.gap"][row]
            yield _greedy(model, f"{front}.seq", prompt, said, gaps, "greedy ids of a reading")


def _greedy(
    model: TarLanguageModel, key: str, prompt: list[int], theirs: np.ndarray, gaps: np.ndarray, what: str
) -> Check:
    """Argmax over the whole vocabulary with the cache."""
    backend = TorchBackend(model)
    slots = backend.open(1)
    ours, piece = list[int](), list(prompt)
    for _ in theirs:
        backend.extend(slots, [piece])
        piece = [int(backend.logits(slots, range(model.config.table_rows))[0].argmax())]
        ours += piece
    return _integers("llm", what, key, ours, theirs, _until_tie(gaps[: len(theirs)]))


def _said_by_user(builder: PromptBuilder, ids: list[int]) -> tuple[list[int], str]:
    """Codes and text of the last user turn of a prompt."""
    opened, closed = builder.tokenizer.special("<|im_start|>"), builder.tokenizer.special("<|im_end|>")
    head = [opened, *builder.tokenizer.encode("user\n")]
    start = max(place for place in range(len(ids)) if ids[place : place + len(head)] == head) + len(head)
    turn = ids[start : ids.index(closed, start)]
    codes = [builder.vocab.code_of(token) for token in turn if builder.vocab.is_code(token)]
    return codes, builder.tokenizer.decode([token for token in turn if not builder.vocab.is_code(token)])


def check_sampling(reference: Reference) -> Iterator[Check]:
    """Top-k and nucleus masks, probabilities, pooling, position tables."""
    values = reference.values("sampling_pooling")
    logits = torch.from_numpy(values["logits"])
    for key in values:
        if match := re.fullmatch(r"keep\.k(\d+)\.p([\d.]+)", key):
            kept = top_k_top_p(logits, int(match[1]), float(match[2])).isfinite()
            yield _integers("sampling", "what is kept", key, *_tied_alike(kept, values[key], logits))
        elif match := re.fullmatch(r"probs\.t([\d.]+)\.k(\d+)\.p([\d.]+)", key):
            made = probabilities(logits, float(match[1]), int(match[2]), float(match[3]))
            pair = _tied_alike(made, values[key], logits)
            yield _floats("sampling", "probabilities", key, *pair, PROBABILITIES)
        elif match := re.fullmatch(r"pool_out(\d)", key):
            pooled = pool_grid(torch.from_numpy(values["pool_in"]), int(match[1]))
            yield _floats("sampling", "pooling", key, pooled, values[key])
        elif match := re.fullmatch(r"pe_(\d+)", key):
            table = resize_positions(torch.from_numpy(values["pe_in"]).flatten(0, 1), int(match[1]))
            yield _floats("sampling", "position table", key, table[None], values[key])


def _tied_alike(ours: torch.Tensor, theirs: np.ndarray, logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Both with tied entries in one order: sorts of different processors order them differently."""
    pair = ours.numpy().copy(), theirs.copy()
    for row, scores in enumerate(logits):
        for score in scores.unique():
            tied = (scores == score).numpy()
            for array in pair:
                array[row, tied] = np.sort(array[row, tied])
    return pair


@torch.no_grad()
def check_sana(reference: Reference) -> Iterator[Check]:
    """Latents and pixels; the condition is what the feature decoder gave for the first picture at pool 1."""
    from opentar.tokens_to_image.sana import SanaDetokenizer

    values, tokenizer = reference.values("sana"), reference.values("ta_tok")
    model = SanaDetokenizer.from_folder(reference.folder / "tar_sana", dtype=torch.float32)
    features = torch.from_numpy(next(tokenizer[key] for key in tokenizer if key.endswith(".aa1.p1.rec")))
    for key in values:
        if match := re.fullmatch(r"(gs([\d.]+)\.steps(\d+)\.\d+)\.init", key):
            front = match[1]
            init = torch.from_numpy(values[key])
            made = model.denoise(features, init, guidance=float(match[2]), steps=int(match[3]))
            for name, tolerance in (("latent_fp32tr", FLOATS), ("latent", ROUNDED)):
                if f"{front}.{name}" in values:
                    what = "latents" if tolerance == FLOATS else "latents, reference in bfloat16"
                    yield _floats("sana", what, f"{front}.{name}", made, values[f"{front}.{name}"], tolerance)
            pixels = model.pixels(torch.from_numpy(values[f"{front}.latent"])).permute(0, 2, 3, 1)
            yield _floats("sana", "pixels", f"{front}.image", pixels, values[f"{front}.image"])


CHECKS: dict[str, Callable[[Reference], Iterator[Check]]] = {
    "ta_tok": check_ta_tok,
    "llm": check_llm,
    "ar": check_ar,
    "vq": check_vq,
    "sana": check_sana,
    "sampling": check_sampling,
}
