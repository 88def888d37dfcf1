from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from opentar.core.errors import ConfigError
from opentar.image_to_tokens.quantizer import KINDS, QuantizerConfig, TextAlignedQuantizer, choose_rows

CONFIG = QuantizerConfig(codebook_size=32, width=8, row_width=8)


def quantizer_of(config: QuantizerConfig) -> TextAlignedQuantizer:
    torch.manual_seed(0)
    return TextAlignedQuantizer(config)


def features(seed: int = 3) -> torch.Tensor:
    return torch.randn(2, 10, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("l2_normalized", [True, False])
def test_nearest_is_nearest(l2_normalized: bool) -> None:
    quantizer = quantizer_of(replace(CONFIG, l2_normalized=l2_normalized)).eval()
    z_BNC = features()
    table_KC = quantizer.codebook()
    probe = F.normalize(z_BNC, dim=-1) if l2_normalized else z_BNC
    expected = torch.cdist(probe, table_KC.expand(2, -1, -1)).argmin(-1)
    assert torch.equal(quantizer.nearest(z_BNC), expected)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer = quantizer_of(CONFIG).eval()
    whole = quantizer.nearest(features())
    monkeypatch.setattr("opentar.image_to_tokens.quantizer._CHUNK_SCORES", 96)
    assert torch.equal(quantizer.nearest(features()), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_who_learns(kind: str) -> None:
    """Frozen rows never move, their projection does; plain rows do; features always get a gradient."""
    quantizer = quantizer_of(replace(CONFIG, kind=kind))
    before = quantizer.embedding.weight.detach().clone()
    optimizer = torch.optim.SGD([weight for weight in quantizer.parameters() if weight.requires_grad], lr=0.5)
    z_BNC = features().requires_grad_()
    result = quantizer(z_BNC)
    (result.loss + result.quantized_BNC.sum()).backward()
    optimizer.step()
    frozen = kind in ("text", "random")
    assert torch.equal(before, quantizer.embedding.weight) == frozen
    assert z_BNC.grad.abs().sum() > 0
    assert result.loss.item() == pytest.approx(1.0 * result.codebook_loss.item() + 0.25 * result.commitment_loss.item())


def test_training_lowers_the_loss() -> None:
    quantizer = quantizer_of(CONFIG)
    optimizer = torch.optim.Adam(quantizer.embedding_proj.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        result = quantizer(features())
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        losses.append(result.codebook_loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_stop_gradients() -> None:
    quantizer = quantizer_of(CONFIG)
    z_BNC = features().requires_grad_()
    result = quantizer(z_BNC)
    projection = quantizer.embedding_proj.weight
    assert torch.autograd.grad(result.codebook_loss, z_BNC, retain_graph=True, allow_unused=True)[0] is None
    assert torch.autograd.grad(result.commitment_loss, projection, retain_graph=True, allow_unused=True)[0] is None
    assert torch.autograd.grad(result.quantized_BNC.sum(), projection, allow_unused=True)[0] is None


def test_stochastic_in_training_only() -> None:
    config = replace(CONFIG, stochastic=True, temperature=1.0)
    quantizer, plain = quantizer_of(config), quantizer_of(CONFIG)
    z_BNC = features()
    draws = [quantizer(z_BNC, torch.Generator().manual_seed(seed)).codes_BN for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(quantizer.nearest(z_BNC), plain.nearest(z_BNC))
    assert torch.equal(quantizer.eval()(z_BNC).codes_BN, plain.nearest(z_BNC))
    cold = quantizer_of(replace(config, temperature=1e-6))
    assert torch.equal(cold(z_BNC).codes_BN, plain.nearest(z_BNC))
    assert quantizer_of(replace(config, temperature=0.0)).stochastic_temperature_inv.requires_grad


def test_codebook_is_kept_until_weights_change() -> None:
    quantizer = quantizer_of(CONFIG).eval()
    table = quantizer.codebook()
    torch.testing.assert_close(table.norm(dim=-1), torch.ones(32))
    assert quantizer.codebook() is table
    assert not table.requires_grad
    other = TextAlignedQuantizer(CONFIG)
    quantizer.load_state_dict(other.state_dict())
    torch.testing.assert_close(quantizer.codebook(), other.eval().codebook())
    with torch.no_grad():
        quantizer.embedding_proj.weight.mul_(-1)
    assert not torch.allclose(quantizer.codebook(), other.codebook())
    quantizer.train()
    assert quantizer.codebook().requires_grad


def test_codebook_made_in_inference_mode_serves_training() -> None:
    quantizer = quantizer_of(CONFIG).eval()
    with torch.inference_mode():
        quantizer.codebook()
    layer = torch.nn.Linear(8, 8)
    layer(quantizer.look_up(torch.tensor([[1, 2]]))).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_start_from_centres_the_table() -> None:
    rows = torch.randn(32, 8, generator=torch.Generator().manual_seed(5)) + 10.0
    quantizer = quantizer_of(CONFIG).eval()
    quantizer.start_from(rows)
    assert torch.equal(quantizer.embedding.weight, rows)
    assert quantizer.codebook().mean(0).norm() < 0.3
    with pytest.raises(ConfigError, match=r"\(31, 8\).*\(32, 8\)"):
        quantizer.start_from(rows[:31])
    with pytest.raises(ConfigError, match="NaN"):
        quantizer.start_from(rows / 0 - rows / 0)


def restarted(seed: int) -> TextAlignedQuantizer:
    """Six steps on features of one direction: most rows stay without use."""
    quantizer = quantizer_of(replace(CONFIG, kind="learned_restart", restart_after=3))
    generator = torch.Generator().manual_seed(seed)
    for step in range(6):
        quantizer(features(step) * 0.05 + 1.0, generator)
    return quantizer


def test_restarts_fill_dead_rows_and_repeat() -> None:
    one, same, other = restarted(1), restarted(1), restarted(2)
    assert torch.equal(one.embedding.weight, same.embedding.weight)
    assert not torch.equal(one.embedding.weight, other.embedding.weight)
    direction = F.normalize(torch.ones(8), dim=0)
    start = quantizer_of(replace(CONFIG, kind="learned_restart")).embedding.weight

    def near(rows: torch.Tensor) -> int:
        return int((F.normalize(rows, dim=-1) @ direction > 0.9).sum())

    assert near(one.embedding.weight) > near(start) + 10
    assert "idle_K" in one.state_dict()
    assert "idle_K" not in quantizer_of(CONFIG).state_dict()


def test_look_up_refuses_foreign_codes() -> None:
    with pytest.raises(ConfigError, match=r"code 32 .*0 to 31"):
        quantizer_of(CONFIG).look_up(torch.tensor([[3, 32]]))
    with pytest.raises(ConfigError, match="code -1 "):
        quantizer_of(CONFIG).look_up(torch.tensor([[-1]]))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": "texts"}, "text, random, learned"),
        ({"kind": "learned", "row_width": 4}, "has no projection"),
        ({"codebook_size": 0}, "codebook_size is 0"),
        ({"commitment_weight": -1.0}, "not be negative"),
    ],
)
def test_refused_configs(change: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        replace(CONFIG, **change)


def test_choose_rows_equals_brute_force() -> None:
    table = torch.randn(50, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64) + 0.5
    table[7] = 0.0
    excluded = [0, 3, 44]
    left = [row for row in range(50) if row not in (*excluded, 7)]
    unit = F.normalize(table[left], dim=1)
    distance = (1 - unit @ unit.T).sum(1) / (len(left) - 1)
    expected = sorted(left[place] for place in distance.argsort(descending=True)[:12].tolist())
    assert choose_rows(table, 12, excluded).tolist() == expected
    assert choose_rows(table, len(left), torch.tensor(excluded)).tolist() == left


def test_choose_rows_refusals() -> None:
    table = torch.eye(4)
    with pytest.raises(ConfigError, match="asked for 4 codebook rows, but 3 of 4"):
        choose_rows(table, 4, [1])
    with pytest.raises(ConfigError, match="excluded row 9"):
        choose_rows(table, 1, [9])
