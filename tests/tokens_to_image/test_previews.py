"""Looks at a picture while it is painted."""

from __future__ import annotations

import pytest
import torch

from opentar.core.errors import ConfigError
from opentar.tokens_to_image import previews
from opentar.tokens_to_image.autoencoder import Autoencoder, AutoencoderConfig
from opentar.tokens_to_image.flow import FlowConfig, FlowDetokenizer, FlowTransformer


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(previews, "time", clock)
    return clock


@pytest.mark.parametrize(("step_seconds", "look_seconds", "seen"), [(0.3, 0.0, [4, 8]), (0.3, 0.5, [4]), (2, 0.1, 9)])
def test_at_most_one_a_second_and_a_fifth_of_the_time(
    clock: Clock, step_seconds: float, look_seconds: float, seen: list[int] | int
) -> None:
    looks: list[int] = []

    def look(done: int) -> torch.Tensor:
        clock.now += look_seconds
        return torch.full((1, 3, 2, 2), float(done))

    counted: list[int] = []
    step = previews.with_previews(
        lambda pixels: looks.append(int(pixels.amax())), lambda done, total, _: counted.append(done)
    )
    for done in range(1, 11):
        clock.now += step_seconds
        step(done, 10, lambda done=done: look(done))
    assert counted == list(range(1, 11))
    assert looks == (list(range(1, 10)) if seen == 9 else seen)


def test_what_is_shown_is_the_flows_own_guess() -> None:
    torch.manual_seed(0)
    shape = FlowConfig(
        feature_size=8, feature_sides=(2,), latent_side=4, hidden_size=16, layers=1, heads=2, mlp_size=16, time_size=16
    )
    canvas = AutoencoderConfig(image_size=32, encoder_channels=(8, 8, 8), decoder_channels=(8, 8, 8))
    painter, features = FlowDetokenizer(FlowTransformer(shape), Autoencoder(canvas)), torch.randn(1, 4, 8)
    shown: list[torch.Tensor] = []
    with_looks = painter.decode(features, steps=4, callback=previews.with_previews(shown.append, seconds=0))
    assert [one.shape for one in shown] == [(1, 3, 32, 32)] * len(shown) and shown
    assert torch.equal(with_looks, painter.decode(features, steps=4))
    with pytest.raises(ConfigError, match="seconds between previews is -1"):
        previews.with_previews(shown.append, seconds=-1)

    def stop(_: torch.Tensor) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        painter.decode(features, steps=4, callback=previews.with_previews(stop, seconds=0))
