"""Rows of like length run in groups give the loss of the whole padded batch."""

import torch

from opentar.language.model import LanguageConfig, TarLanguageModel


def test_groups_change_nothing():
    torch.manual_seed(0)
    config = LanguageConfig(
        text_size=40, codebook_size=16, grid_side=6, layers=2, kv_heads=1, hidden=64, heads=1, mlp=96
    )
    model = TarLanguageModel(config)
    lengths = [9, 20, 5, 14, 7, 20, 11]
    ids = torch.full((7, 20), 1)
    labels = torch.full((7, 20), -100)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(2, config.vocab.size, (length,))
        labels[row, 3:length] = ids[row, 3:length]
    whole, grouped = model.loss_parts(ids, labels), model.loss_parts(ids, labels, group=2)
    assert torch.isfinite(whole.total)
    for one, other in zip(whole, grouped, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_by_answer_gives_short_answers_their_say():
    torch.manual_seed(0)
    config = LanguageConfig(
        text_size=40, codebook_size=16, grid_side=6, layers=1, kv_heads=1, hidden=64, heads=1, mlp=96
    )
    model = TarLanguageModel(config)
    ids = torch.randint(2, 40, (1, 12))
    labels = torch.full((1, 12), -100)
    labels[0, 3:4], labels[0, 6:12] = ids[0, 3:4], ids[0, 6:12]
    losses = model._losses(ids, labels)[0]
    parts = model.loss_parts(ids, labels, by_answer=True)
    torch.testing.assert_close(parts.text, (losses[0] + losses[1:].mean()) / 2)
    torch.testing.assert_close(parts.total, losses.mean())
    torch.testing.assert_close(model.loss_parts(ids, labels, by_answer=True, group=1).text, parts.text)
