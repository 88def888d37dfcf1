"""Where a language stage starts from: its code rows are laid onto the codebook, or stay as they were learned."""

from types import SimpleNamespace

import pytest
import torch

from opentar.image_to_tokens.quantizer import QuantizerConfig, TextAlignedQuantizer
from opentar.language.model import LanguageConfig, TarLanguageModel
from opentar.language.prompt import PromptBuilder
from opentar.language.tokenizer import train_bpe
from opentar.train.stage import LoopSettings
from opentar.train.stages.language import LanguageStage


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
    settings = SimpleNamespace(
        loop=LoopSettings(steps=1, batch_size=1, learning_rate=1e-3), model=config, text_weight=1.0, by_answer=True
    )
    builder, rows = PromptBuilder(tokenizer, config.vocab), None if knows_codes else codebook.codebook()
    stage = LanguageStage(settings, None, builder, name="language", start=start, codebook=rows)
    table, own = stage.module().model.qwen.model.embed_tokens.weight.detach(), start["model.embed_tokens.weight"]
    codes = slice(config.vocab.first_code, config.vocab.size)
    assert torch.equal(table[: codes.start], own[: codes.start])
    assert torch.equal(table[codes], own[codes]) is knows_codes
    if not knows_codes:
        assert torch.cosine_similarity(table[codes], codebook.codebook(), dim=-1).min() > 0.999
