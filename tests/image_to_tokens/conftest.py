"""A real but tiny TA-Tok."""

from __future__ import annotations

import pytest
import torch

from opentar.image_to_tokens.decoder import DecoderConfig
from opentar.image_to_tokens.encoder import VisionConfig
from opentar.image_to_tokens.quantizer import QuantizerConfig
from opentar.image_to_tokens.ta_tok import TATok, TATokConfig
from opentar.vocab import Vocab


@pytest.fixture
def config() -> TATokConfig:
    return TATokConfig(
        vision=VisionConfig(
            image_size=24,
            grid_side=6,
            stem="conv",
            stem_widths=(4, 8),
            hidden_size=16,
            layers=1,
            heads=2,
            mlp_size=16,
            activation="relu",
            attention="matmul",
            final_norm=True,
        ),
        quantizer=QuantizerConfig(codebook_size=64, width=16, row_width=12),
        decoder=DecoderConfig(
            input_size=16, hidden_size=16, output_size=16, layers=1, heads=2, mlp_size=16, position_side=6
        ),
    )


@pytest.fixture
def tokenizer(config: TATokConfig) -> TATok:
    torch.manual_seed(0)
    return TATok(config).eval()


@pytest.fixture
def vocab() -> Vocab:
    return Vocab(text_size=8, codebook_size=64, grid_side=6)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
