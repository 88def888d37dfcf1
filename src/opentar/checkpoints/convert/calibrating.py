"""4-bit weights of a stack of blocks, chosen by what the blocks are given; one block's sums are held at a time.

Each block runs twice: as it is, to sum up the inputs of its layers, and with its new weights, whose outputs are what
the next block is given. So later blocks can make up for what earlier ones lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from opentar.core.errors import ModelError
from opentar.core.quantization import WITH_ZERO, Quantized, group_of
from opentar.nn.gptq import InputGram, quantize_for

if TYPE_CHECKING:
    from opentar.language.model import TarLanguageModel

Run = Callable[[nn.Module, Tensor], Tensor]
"""Runs a block on the hidden states (1, T, H) of a sequence."""


@torch.no_grad()
def calibrated_language(
    model: TarLanguageModel, sequences: Sequence[Sequence[int]], forms: Mapping[str, str]
) -> Iterator[tuple[str, Quantized]]:
    """The 4-bit weights of a language model, block by block; the weights of `model` are used up.

    Args:
        model: as it is stored; nobody else may use it afterwards.
        sequences: ids that it is given, each at most as long as the model allows.
        forms: weight of `model.qwen` -> form; those that are int8 are left out.

    Raises:
        ModelError: no ids.
    """
    if not any(sequences):
        raise ModelError("there is nothing to calibrate with; give a text with some words")
    inner: Any = model.qwen.model
    hidden = [inner.embed_tokens(torch.tensor([list(ids)])) for ids in sequences if ids]

    def run(block: nn.Module, x_1TH: Tensor) -> Tensor:
        places = torch.arange(x_1TH.shape[1])[None]
        cos, sin = (part[:, None] for part in inner.rotary_emb(x_1TH, places))
        made: Tensor = block(x_1TH, cos, sin, model.causal_mask(x_1TH.shape[1]))
        return made

    yield from calibrated(inner.layers, "model.layers.", hidden, run, forms)


@torch.no_grad()
def calibrated(
    blocks: Sequence[nn.Module] | nn.ModuleList, prefix: str, hidden: list[Tensor], run: Run, forms: Mapping[str, str]
) -> Iterator[tuple[str, Quantized]]:
    """The 4-bit weights of blocks, whose own weights are used up; `hidden` is overwritten with their outputs.

    Args:
        blocks: in the order they run in.
        prefix: of their names in `forms`, before the number.
        hidden: what the first block is given, one tensor a sequence.
        run: runs a block.
        forms: weight -> form.
    """
    for number, block in enumerate(blocks):
        names = {
            name: f"{prefix}{number}.{name}.weight"
            for name, layer in block.named_modules()
            if isinstance(layer, nn.Linear)
        }
        narrow = {name: full for name, full in names.items() if group_of(forms.get(full, "int8")) is not None}
        grams = _sums(block, list(narrow), hidden, run)
        for name, full in narrow.items():
            layer = block.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            form, gram_KK = forms[full], grams[name].sum_KK
            made = quantize_for(layer.weight, gram_KK, group_of(form) or 0, zero=form.startswith(WITH_ZERO))
            layer.weight.data = made.numbers().to(layer.weight.dtype)
            yield full, made
        del grams
        hidden[:] = [run(block, x) for x in hidden]
        for name in narrow:
            # Nobody needs them any more, and all of them together would be the model once more.
            block.get_submodule(name).weight.data = torch.empty(0)


def _sums(block: nn.Module, names: Sequence[str], hidden: Sequence[Tensor], run: Run) -> dict[str, InputGram]:
    """The products of the inputs of each layer; layers that are given the same tensor share them."""
    grams: dict[str, InputGram] = {}
    last: list[Any] = [None, ""]

    def see(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            if given[0] is last[0]:
                grams[name] = grams[last[1]]
                return
            last[:] = given[0], name
            grams.setdefault(name, InputGram(given[0].shape[-1])).add(given[0])

        return hook

    hooks = [block.get_submodule(name).register_forward_pre_hook(see(name)) for name in names]
    try:
        for x in hidden:
            run(block, x)
    finally:
        for one in hooks:
            one.remove()
    return grams
