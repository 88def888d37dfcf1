"""float16 weights: nothing overflows, whatever the numbers, and results are as near as the weights allow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from decoding import generate_text
from opentar.checkpoints.sizes import size_of
from opentar.core.errors import WeightsError
from opentar.language.folder import load_language, save_language
from opentar.language.model import TarLanguageModel
from opentar.language.prompt import PromptBuilder
from opentar.language.tokenizer import train_bpe
from opentar.nn.half import HalfLinear, halve, product
from opentar.tokens_to_image.ar import ARDetokenizer, ARTransformer
from opentar.tokens_to_image.vqgan import VQGAN

TINY = size_of("tar-tiny")
HALF, WIDE = torch.float16, torch.float32


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-6, 1.0, 3e4, 1e9, 1e30])
def test_products_of_any_size(size: float) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 64, generator=random) * size
    x[0, 0, 0] *= 1000
    weight, bias = torch.randn(32, 64, generator=random).half(), torch.randn(32, generator=random)
    found = product(x, weight, bias)
    exact = (x.double() @ weight.double().T + bias).float()
    assert found.dtype == WIDE and bool(found.isfinite().all())
    largest = x.abs().amax(-1, keepdim=True) * weight.float().norm(dim=1)
    assert bool(((found - exact).abs() <= 2e-3 * largest + 1e-6).all())


def test_other_types_are_left_alone() -> None:
    x, weight, bias = torch.randn(3, 4), torch.randn(5, 4), torch.randn(5)
    assert torch.equal(product(x, weight, bias), nn.functional.linear(x, weight, bias))
    assert product(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16


def _with_outliers(model: nn.Module) -> None:
    """Rows of a few weights that are so large that plain float16 overflows, as in Qwen2."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("up_proj.weight", "gate_proj.weight", "q_proj.bias", "k_proj.bias", "mlp_up.weight")):
                weight[0] = weight[0].abs() * 3000 + 300


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("storage", ["bfloat16", "float32"])
def test_a_language_model_with_outliers(tmp_path: Path, attention: str, storage: str) -> None:
    import dataclasses

    config = dataclasses.replace(TINY.language, attention=attention)
    torch.manual_seed(0)
    model = TarLanguageModel(config).eval()
    _with_outliers(model)
    save_language(tmp_path / "part", model, PromptBuilder(train_bpe((), 259), config.vocab), storage)
    exact, half = (load_language(tmp_path / "part", dtype).model for dtype in (WIDE, HALF))
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        plain = load_language(tmp_path / "part", WIDE).model.half()
        broken = plain.logits(plain.hidden(ids))
        assert not bool(broken.isfinite().all()), "the outliers are no test"
        found, right = half.logits(half.hidden(ids)), exact.logits(exact.hidden(ids))
    assert found.dtype == WIDE and bool(found.isfinite().all())
    assert float((found - right).norm() / right.norm()) < 5e-3
    # Weights are float16, everything else is not; the tied table is one.
    types = {name: weight.dtype for name, weight in half.qwen.named_parameters()}
    assert {types[name] for name in types if name.endswith(("proj.weight", "embed_tokens.weight"))} == {HALF}
    assert {types[name] for name in types if "norm" in name or name.endswith("bias")} == {WIDE}
    assert half.qwen.lm_head.weight is half.qwen.model.embed_tokens.weight
    # Batches of unequal lengths go through the mask and the cache.
    prompts = [[1, 2, 3, 4], [5, 6]]
    both = generate_text(half, prompts, 3)
    assert both == [generate_text(half, [prompt], 3)[0] for prompt in prompts]


def test_an_ar_transformer_with_outliers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    painter = ARDetokenizer(ARTransformer(TINY.ar), VQGAN(TINY.vqgan))
    _with_outliers(painter.transformer)
    painter.save(tmp_path / "ar", "bfloat16")
    exact, half = (ARDetokenizer.from_folder(tmp_path / "ar", dtype) for dtype in (WIDE, HALF))
    assert {layer.weight.dtype for layer in half.transformer.modules() if isinstance(layer, nn.Linear)} == {HALF}
    assert half.transformer.positions.dtype == WIDE
    assert {weight.dtype for weight in half.canvas.parameters()} == {WIDE}
    features, codes = torch.randn(2, 9, 16), torch.arange(8).view(2, 4)
    with torch.no_grad():
        found, right = half.transformer(features, codes), exact.transformer(features, codes)
    assert float((found - right).norm() / right.norm()) < 5e-3
    assert half.decode(features.bfloat16()).dtype == WIDE


def test_weights_beyond_float16_are_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    halve(net, "a part")
    assert isinstance(net[0], HalfLinear) and net[0].bias.dtype == WIDE
    net = nn.Sequential(nn.Linear(2, 2))
    net[0].weight.data[0, 0] = 70_000
    with pytest.raises(WeightsError, match="a part: 0 holds numbers too large for float16"):
        halve(net, "a part")
