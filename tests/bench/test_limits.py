"""Limits of the machine, and what works need of them."""

from __future__ import annotations

import pytest
import torch

from opentar.bench.cost import LanguageCost, Stage, ar_stages, encoder_stages, fewest_passes, need_of, transformer_flops
from opentar.bench.counted import count_flops
from opentar.bench.limits import KINDS, Limits, mean, measure_limits
from opentar.bench.peak import forget_peak, peak_gb
from opentar.image_to_tokens.encoder import VisionConfig, VisionEncoder
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.tokens_to_image.ar import ARConfig
from opentar.tokens_to_image.passes import Passes

LIMITS = Limits(bytes_per_s=100.0, flops_per_s={"float32": 1000.0, "bfloat16": 2000.0})


def test_limits_are_positive_and_of_known_types() -> None:
    found = measure_limits(buffer=1 << 22, side=64, repeats=2)
    assert found.bytes_per_s > 1e6
    assert {"float32", "bfloat16"} <= set(found.flops_per_s) <= set(KINDS)
    assert all(isinstance(rate, float) and rate > 1e6 for rate in found.flops_per_s.values())
    told = found.to_dict()
    assert told["bandwidth_gb_s"] > 0 and set(told["gemm_gflop_s"]) == set(found.flops_per_s)


def test_the_mean_of_measurements_counts() -> None:
    other = Limits(bytes_per_s=300.0, flops_per_s={"float32": 3000.0})
    both = mean([LIMITS, other])
    assert (both.bytes_per_s, dict(both.flops_per_s)) == (200.0, {"float32": 2000.0})
    assert LIMITS.rate("float16") == LIMITS.rate("bfloat16") == 2000.0
    assert LIMITS.rate("int8") is None


def test_a_stage_takes_the_longer_of_its_two_times() -> None:
    reading = Stage(flops=10.0, bytes=200.0, kind="float32", times=3)
    product = Stage(flops=4000.0, bytes=100.0, kind="bfloat16")
    need = need_of([reading, product], LIMITS)
    assert need is not None
    assert (need.seconds, need.flops, need.bytes) == (8.0, 4030.0, 700.0)
    assert need_of([], LIMITS) is None
    assert need_of([Stage(flops=1.0, bytes=1.0, kind="int8")], LIMITS) is None


@torch.no_grad()
def test_costs_of_the_language_model_are_those_that_torch_counts() -> None:
    config = LanguageConfig(text_size=259, codebook_size=64, hidden=32, layers=2, heads=4, kv_heads=2, head_size=8,
                            mlp=48, max_length=64)  # fmt: skip
    model = TarLanguageModel(config).eval()
    cost = LanguageCost(config=config, kind="float32", weight_bytes=4.0)
    blocks = sum(weight.numel() for weight in model.qwen.model.layers.parameters() if weight.ndim == 2)
    assert cost.block_numbers == blocks
    ids = torch.zeros(1, 16, dtype=torch.int64)
    counted, _ = count_flops(lambda: model.logits(model.hidden(ids)[:, -1]))
    # Torch counts the whole square of scores, the formula the half that is used.
    scores = 2 * config.layers * config.heads * config.head_size * 16**2
    assert cost.prefill(16, config.table_rows).flops + scores == pytest.approx(counted, rel=0.01)
    step = cost.decode(past=16, count=1, head_rows=64)
    assert step.bytes == 4 * (blocks + 64 * 32) + 4 * 2 * config.layers * 2 * 8 * 16.5
    together = cost.decode(past=16, count=1, head_rows=64, batch=8)
    assert together.flops == 8 * step.flops and together.bytes < 2 * step.bytes


@torch.no_grad()
def test_costs_of_an_encoder_are_those_that_torch_counts() -> None:
    vision = VisionConfig(image_size=24, grid_side=12, hidden_size=32, layers=2, heads=2, mlp_size=64)
    encoder = VisionEncoder(vision).eval()
    counted, _ = count_flops(lambda: encoder(torch.zeros(1, 3, 24, 24)))
    stem = 2 * 144 * 32 * 3 * 4
    assert transformer_flops(vision) + stem == pytest.approx(counted, rel=0.01)
    look_up = encoder_stages(1.0, 1.0, "bfloat16", codes=16, codebook=(64, 32))[1]
    assert (look_up.flops, look_up.bytes, look_up.kind) == (2 * 16 * 64 * 32, 4 * 64 * 32, "float32")


def test_costs_of_the_ar() -> None:
    config = ARConfig(feature_size=16, codes=16, codebook_size=32, hidden_size=16, layers=2, heads=2, mlp_size=32)
    numbers = 2 * (4 * 16 * 16 + 3 * 16 * 32) + 16 * 32
    prefix, steps, canvas = ar_stages(config, 4, "bfloat16", guided=True, canvas_flops=7.0)
    alone = ar_stages(config, 4, "bfloat16", guided=False, canvas_flops=7.0)[1]
    assert steps.times == 15 and steps.flops == 2 * alone.flops
    assert numbers * 2 < alone.bytes < steps.bytes < numbers * 4
    assert prefix.bytes == numbers * 2 and canvas.flops == 7.0


def test_the_peak_can_be_forgotten() -> None:
    forget_peak()
    before = peak_gb()
    if before is None:
        pytest.skip("this system does not tell")
    held = torch.ones(16 << 20)
    grown = peak_gb()
    assert grown is not None and grown >= before
    del held


def test_fewest_passes_of_a_grid() -> None:
    assert (
        fewest_passes(Passes(), 729)
        == fewest_passes(Passes(lead=27), 729)
        == fewest_passes(Passes(lead=40), 729)
        == 729
    )
    assert fewest_passes(Passes(lead=3), 729) == 27 + 26 * 3
    assert fewest_passes(Passes(guesses=5), 729) == 122
