"""Our Qwen2 against transformers' on the same random weights: the same names, the same numbers, the same gradients."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2ForCausalLM

from opentar.core.blank import blank
from opentar.language.model import LanguageConfig, TarLanguageModel

SIZES = {"text_size": 40, "codebook_size": 60, "hidden": 32, "layers": 3, "heads": 4, "head_size": 16, "mlp": 48}
IDS = torch.randint(0, 100, (2, 37), generator=torch.Generator().manual_seed(1))


def both(**chosen: object) -> tuple[TarLanguageModel, Qwen2ForCausalLM]:
    torch.manual_seed(0)
    config = LanguageConfig(**SIZES | chosen)
    ours, theirs = TarLanguageModel(config), Qwen2ForCausalLM(config.qwen())
    assert list(ours.qwen.state_dict()) == list(theirs.state_dict())
    with torch.no_grad():
        for weight in ours.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3)
    theirs.load_state_dict(ours.qwen.state_dict())
    return ours, theirs


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("kv_heads", "tie", "theta"), [(4, True, 1e4), (2, False, 1e6), (1, True, 1e6)])
def test_logits_and_gradients_are_those_of_transformers(attention: str, kv_heads: int, tie: bool, theta: float) -> None:
    ours, theirs = both(attention=attention, kv_heads=kv_heads, tie=tie, rope_theta=theta)
    found, wanted = ours.logits(ours.hidden(IDS)), theirs(IDS).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    for logits in (found, wanted):
        logits.logsumexp(-1).sum().backward()
    wanted_of = dict(theirs.named_parameters())
    for name, weight in ours.qwen.named_parameters():
        assert weight.grad is not None, name
        torch.testing.assert_close(weight.grad, wanted_of[name].grad, rtol=1e-4, atol=1e-3)


def test_bfloat16_rounds_where_transformers_does() -> None:
    ours, theirs = both(kv_heads=2)
    ours.bfloat16(), theirs.bfloat16()
    with torch.no_grad():
        assert torch.equal(ours.logits(ours.hidden(IDS)), theirs(IDS).logits)


def test_random_weights_start_as_in_qwen2() -> None:
    torch.manual_seed(0)
    model = TarLanguageModel(LanguageConfig(**SIZES | {"hidden": 128, "mlp": 512}))
    for name, weight in model.qwen.named_parameters():
        if name.endswith("bias"):
            assert not weight.any()
        elif "norm" in name:
            assert bool((weight == 1).all())
        else:
            assert float(weight.std()) == pytest.approx(0.02, rel=0.05)


def test_a_model_without_memory_lacks_its_weights_only() -> None:
    with blank():
        model = TarLanguageModel(LanguageConfig(**SIZES))
    assert all(weight.is_meta for weight in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())
