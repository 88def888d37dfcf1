"""The language model: an unmodified Qwen2 over the extended alphabet, and the parts of its head we use.

Shapes: B sequences, T positions, H hidden width, K codes, C codebook width.
What is added to Qwen2 is only what the alphabet asks for: heads over a part of the rows, code rows that start from the
image codebook, and a loss that computes the head where something is learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from opentar.core.blank import blank
from opentar.core.bounds import EPS, LAYERS, POSITIONS, SIZE, THETA, bounded_by, within
from opentar.core.errors import ConfigError, ModelError, WeightsError
from opentar.language.prompt import IGNORED
from opentar.language.qwen2 import Qwen2
from opentar.nn.quantized import rows_of
from opentar.vocab import Vocab

if TYPE_CHECKING:
    from transformers import Qwen2Config


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Sizes of the language model; the defaults are nano's. Raises ConfigError on sizes that cannot be built."""

    text_size: int
    """Ids of the text tokenizer, specials included."""
    codebook_size: int
    """Codes of the image codebook."""
    grid_side: int = 12
    """Rows and columns of the base grid (27 published)."""
    text_pieces: int | None = None
    """Ordinary text ids; specials follow from there (<|endoftext|>, <|im_start|>, <|im_end|>). None: text_size - 3."""
    first_new: int | None = None
    """Id of <im_start> where it does not follow the text at once."""
    rows: int | None = None
    """Rows of the embedding table where it is larger than the alphabet."""
    hidden: int = 256
    """Width. A multiple of 256 suits the quantized kernels of other engines."""
    layers: int = 6
    """Transformer blocks."""
    heads: int = 4
    """Query heads."""
    kv_heads: int = 4
    """Key and value heads; divides `heads`."""
    head_size: int = 64
    """Width of a head; 64 is the smallest that other engines' CPU kernels take."""
    mlp: int = 768
    """Inner width of the gated MLP."""
    tie: bool = True
    """Input and output table are one."""
    rope_theta: float = 10000.0
    """Base of the rotary positions (1,000,000 published)."""
    norm_eps: float = 1e-6
    """Epsilon of RMSNorm."""
    attention: Literal["eager", "sdpa"] = "eager"
    """eager trains 1.3 times faster on a CPU at 70 positions; sdpa is the choice for long sequences and GPUs."""
    max_length: int = 1024
    """Most positions of a sequence."""

    def __post_init__(self) -> None:
        where = "language."
        within(self, SIZE, "hidden", "heads", "kv_heads", "head_size", "mlp", "rows", where=where)
        within(self, LAYERS, "layers", where=where)
        within(self, POSITIONS, "max_length", where=where)
        within(self, EPS, "norm_eps", where=where)
        within(self, THETA, "rope_theta", where=where)
        if self.heads % self.kv_heads:
            raise ConfigError(f"language.kv_heads is {self.kv_heads}; it must divide heads = {self.heads}")
        if self.head_size % 2:
            raise ConfigError(f"language.head_size is {self.head_size}; rotary positions need an even number")
        if not 0 < self.pieces <= self.text_size - 3:
            raise ConfigError(f"language.text_pieces is {self.pieces}; text_size {self.text_size} minus 3 is the most")
        if self.table_rows < self.vocab.size:
            raise ConfigError(f"language.rows is {self.table_rows}; the alphabet needs {self.vocab.size}")

    @property
    def vocab(self) -> Vocab:
        """The alphabet of these sizes."""
        return Vocab(
            text_size=self.text_size,
            codebook_size=self.codebook_size,
            grid_side=self.grid_side,
            first_new=self.first_new,
        )

    @property
    def pieces(self) -> int:
        """Ordinary text ids: 0 .. pieces-1."""
        return self.text_size - 3 if self.text_pieces is None else self.text_pieces

    @property
    def padding(self) -> int:
        """Id of <|endoftext|>, used to fill up batches."""
        return self.pieces

    @property
    def end(self) -> int:
        """Id of <|im_end|>, which ends an answer."""
        return self.pieces + 2

    @property
    def table_rows(self) -> int:
        """Rows of the embedding table."""
        return self.vocab.size if self.rows is None else self.rows

    def qwen(self) -> Qwen2Config:
        """The same sizes in transformers' words; only for files, its import takes seconds."""
        from transformers import Qwen2Config

        config = Qwen2Config(
            vocab_size=self.table_rows,
            hidden_size=self.hidden,
            intermediate_size=self.mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_size,
            max_position_embeddings=self.max_length,
            rms_norm_eps=self.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            tie_word_embeddings=self.tie,
            use_sliding_window=False,
            bos_token_id=None,
            eos_token_id=self.end,
            # A padding id would freeze that row's gradient; padding is masked here instead.
            pad_token_id=None,
        )
        config._attn_implementation = self.attention
        return config


class LossParts(NamedTuple):
    """Mean cross-entropy (nats per id) over all learned ids, over codes, and over everything else; NaN where none."""

    total: Tensor
    codes: Tensor
    text: Tensor


class TarLanguageModel(nn.Module):
    """Qwen2 with one table for words and codes; `qwen` has the modules and names of transformers."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab = config.vocab
        self.qwen = Qwen2(config)

    @classmethod
    def from_state(
        cls, config: LanguageConfig, state: Mapping[str, Tensor], where: str = "language"
    ) -> TarLanguageModel:
        """Build around existing weights (Qwen2's own names), in their dtype, without initializing anything first.

        The tensors are taken over, not copied: training the model changes them. Starts in eval mode.
        Raises WeightsError that names missing, unknown and misshapen tensors.
        """
        with blank(), bounded_by([tensor.numel() for tensor in state.values()], where):
            model = cls(config)
        state = dict(state)
        wanted = {name: tuple(tensor.shape) for name, tensor in model.qwen.state_dict().items()}
        if config.tie:
            state["lm_head.weight"] = state.get("model.embed_tokens.weight", torch.empty(0))
        wrong = _difference(wanted, {name: tuple(tensor.shape) for name, tensor in state.items()})
        if wrong:
            raise WeightsError(f"{where} does not fit its config: {wrong}")
        model.qwen.load_state_dict(state, strict=True, assign=True)
        model.qwen.tie_weights()
        return model.eval()

    def state(self) -> dict[str, Tensor]:
        """Weights under Qwen2's own names; a tied head is not repeated."""
        state = dict(self.qwen.state_dict())
        if self.config.tie:
            state.pop("lm_head.weight")
        return state

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.qwen.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the hidden states: that of the weights, float32 for float16 and quantized ones (nn/)."""
        return self.qwen.model.norm.weight.dtype

    def hidden(self, ids_BT: Tensor) -> Tensor:
        """Last hidden states after the final norm, (B, T, H).

        ids_BT: int64 ids, filled up on the right where rows are shorter: what is real never sees what comes after it.
        Raises ModelError beyond max_length.
        """
        seen = ids_BT.shape[1]
        if seen > self.config.max_length:
            raise ModelError(f"{seen} positions were asked for; this model has {self.config.max_length}")
        hidden_BTH: Tensor = self.qwen.model(ids_BT, self.causal_mask(seen))
        return hidden_BTH

    def causal_mask(self, seen: int) -> Tensor | None:
        """Additive causal mask (1, 1, T, T), or None where the attention makes its own."""
        if seen == 1 or self.config.attention == "sdpa":
            return None
        later = torch.ones(seen, seen, dtype=torch.bool, device=self.device).triu_(1)
        return torch.zeros_like(later, dtype=self.dtype).masked_fill_(later, float("-inf"))[None, None]

    def head(self, hidden: Tensor, ids: range) -> Tensor:
        """(..., H) -> (..., len(ids)): only these rows of the head are computed."""
        return rows_of(self.qwen.lm_head, hidden, ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., rows) over everything."""
        return self.head(hidden, range(self.config.table_rows))

    def loss(self, ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
        """Mean cross-entropy over the labels that are not -100, a scalar in fp32.

        ids (B, T) int64, filled up on the right; labels (B, T) as prompt.py gives them (not shifted). Sequences that
        are filled up on the right need no mask: what is real never sees what comes after it.
        """
        return self._losses(ids_BT, labels_BT)[0].mean()

    def loss_parts(
        self, ids_BT: Tensor, labels_BT: Tensor, *, group: int | None = None, by_answer: bool = False
    ) -> LossParts:
        """`loss` together with its means over codes and over text, for logs and weighting.

        `group`: run so many rows of like length at a time, cut to their longest; same result, less padding computed.
        `by_answer`: the text mean is over answers, so that "yes" counts as much as a long description.
        """
        places_T = torch.arange(labels_BT.shape[1], device=labels_BT.device)
        ends_B = ((labels_BT != IGNORED) * places_T).amax(1) + 1
        runs = []
        for rows in ends_B.argsort().split(group or len(ends_B)):
            length = int(ends_B[rows].max())
            runs.append(self._losses(ids_BT[rows, :length], labels_BT[rows, :length]))
        losses, said, weights = (torch.cat(parts) for parts in zip(*runs, strict=True))
        codes = self.vocab.is_code(said)
        weights = weights[~codes] if by_answer else torch.ones_like(losses[~codes])
        return LossParts(losses.mean(), losses[codes].mean(), (losses[~codes] * weights).sum() / weights.sum())

    def _losses(self, ids_BT: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cross-entropy of each learned id, the ids, and one by the length of the answer that each stands in."""
        hidden_BTH = self.hidden(ids_BT[:, :-1])
        next_BT = labels_BT[:, 1:]
        learned = next_BT != IGNORED
        said = next_BT[learned]
        begins = learned & ~functional.pad(learned, (1, 0))[:, :-1]
        answer = begins.flatten().cumsum(0)[learned.flatten()] - 1
        weights = 1 / torch.bincount(answer).clamp(min=1)[answer]
        # The head is a third of a nano step over all positions; most positions are given, not learned.
        logits = self.logits(hidden_BTH[learned])
        return functional.cross_entropy(logits.float(), said, reduction="none"), said, weights

    @torch.no_grad()
    def start_code_rows(self, codebook_KC: Tensor) -> str:
        """Start the code rows of input and output table from the projected codebook; returns what was done.

        Rows are scaled so that their mean norm is the mean norm of the table's text rows. If C = H they are copied.
        Otherwise an explicit linear map comes first: wider models get a fixed orthonormal embedding (all angles between
        codes are kept exactly), narrower ones the first H principal directions (the angles kept best by any linear
        map). Raises ModelError if K is not the codebook's size.
        """
        size = self.vocab.codebook_size
        if codebook_KC.ndim != 2 or codebook_KC.shape[0] != size:
            raise ModelError(f"the codebook has shape {tuple(codebook_KC.shape)}; this alphabet has {size} codes")
        rows_KH, note = _to_width(codebook_KC.detach().float().cpu(), self.config.hidden)
        tables = [self.qwen.model.embed_tokens.weight]
        if not self.config.tie:
            tables.append(self.qwen.lm_head.weight)
        for table in tables:
            typical = table[: self.config.pieces].float().norm(dim=1).mean().cpu()
            scaled = rows_KH * (typical / rows_KH.norm(dim=1).mean().clamp(min=1e-12))
            table[self.vocab.first_code : self.vocab.size] = scaled.to(table)
        return f"code rows started from the codebook: {note}"


def _to_width(codebook_KC: Tensor, width: int) -> tuple[Tensor, str]:
    given = codebook_KC.shape[1]
    if given == width:
        return codebook_KC, f"copied, both {width} wide"
    if given < width:
        generator = torch.Generator().manual_seed(0)
        basis_HC, _ = torch.linalg.qr(torch.randn(width, given, generator=generator))
        return codebook_KC @ basis_HC.T, f"{given} -> {width} by a fixed orthonormal map, angles kept"
    gram_CC = codebook_KC.T @ codebook_KC
    _, directions_CC = torch.linalg.eigh(gram_CC)
    kept_CH = directions_CC[:, -width:]
    rows_KH = codebook_KC @ kept_CH
    share = float(rows_KH.square().sum() / codebook_KC.square().sum())
    return rows_KH, f"{given} -> {width} by principal directions, {share:.0%} of the squared length kept"


def _difference(wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> str:
    """Readable difference of two name -> shape tables, empty if they agree."""
    parts = []
    if missing := sorted(set(wanted) - set(given)):
        parts.append(f"missing {', '.join(missing[:3])} ({len(missing)} in all)")
    if unknown := sorted(set(given) - set(wanted)):
        parts.append(f"unknown {', '.join(unknown[:3])} ({len(unknown)} in all)")
    for name in sorted(set(wanted) & set(given)):
        if wanted[name] != given[name]:
            parts.append(f"{name} has shape {given[name]}, expected {wanted[name]}")
            break
    return "; ".join(parts)
