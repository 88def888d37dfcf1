"""Where the language stages start from: joint lays the code rows onto the codebook, tune keeps what joint learned."""

import pytest
import torch

from opentar.image_to_tokens.quantizer import QuantizerConfig, TextAlignedQuantizer
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.language.tokenizer import train_bpe
from opentar.train.stage import LoopSettings
from opentar.train.stages.joint import JointSettings, JointStage


@pytest.mark.parametrize("knows_codes", [False, True])
def test_code_rows_start_from_the_codebook_or_stay(knows_codes):
    torch.manual_seed(0)
    tokenizer = train_bpe(("a red apple", "a blue car"), 270)
    config = LanguageConfig(
        text_size=tokenizer.size, codebook_size=32, grid_side=12, layers=1, hidden=16, heads=2, kv_heads=1, head_size=8,
        mlp=32,
    )  # fmt: skip
    start = {name: value.detach().clone() for name, value in TarLanguageModel(config).state().items()}
    codebook = TextAlignedQuantizer(QuantizerConfig(codebook_size=32, width=16, row_width=16)).eval()
    settings = JointSettings(loop=LoopSettings(steps=1, batch_size=1, learning_rate=1e-3), model=config)
    stage = JointStage(settings, [], tokenizer, codebook, None, None, start, knows_codes=knows_codes)
    table, own = stage.module().model.qwen.model.embed_tokens.weight.detach(), start["model.embed_tokens.weight"]
    codes = slice(config.vocab.first_code, config.vocab.size)
    assert torch.equal(table[: codes.start], own[: codes.start])
    assert torch.equal(table[codes], own[codes]) is knows_codes
    if not knows_codes:
        assert torch.cosine_similarity(table[codes], codebook.codebook(), dim=-1).min() > 0.999
