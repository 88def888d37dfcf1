"""The start of the tokenizer: rows laid onto clusters, rows that tell labels, and what may learn afterwards."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from opentar.core.config import to_dict
from opentar.core.folder import load_part, save_part
from opentar.image_to_tokens.encoder import VisionEncoder
from opentar.image_to_tokens.ta_tok import TATok
from opentar.nano import recipes
from opentar.nano.stages.codebook import lay_codebook
from opentar.nano.stages.heads import DenseHeads, concept_embeddings
from opentar.nano.stages.laying import lay_onto, mean_rows, surprise
from opentar.nano.stages.ta_tok import SceneTATokStage
from opentar.train.stages.ta_tok import few


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """An untrained teacher's result folder."""
    folder, vision = tmp_path_factory.mktemp("teacher"), recipes.smoke().teacher.vision
    torch.manual_seed(0)
    save_part(folder / "encoder", to_dict(vision), VisionEncoder(vision).state_dict())
    heads = DenseHeads(vision.hidden_size, concept_embeddings())
    save_part(folder / "heads", {"width": vision.hidden_size}, heads.state_dict())
    return folder


def small():
    """The smoke recipe's start with few codes: laying 4,096 rows takes too long for a test."""
    settings = recipes.smoke().codebook
    quantizer = replace(settings.model.quantizer, codebook_size=128)
    return replace(settings, model=replace(settings.model, quantizer=quantizer), pictures=64)


@pytest.fixture(scope="module")
def start(teacher, tmp_path_factory):
    """Result of the smallest start."""
    folder = tmp_path_factory.mktemp("codebook")
    scores = lay_codebook(small(), teacher, folder, quiet=True)
    return folder / "result" / "ta_tok", scores


def test_rows_come_closer_to_the_centres_with_every_match():
    generator = torch.Generator().manual_seed(0)
    rows_KE = torch.randn(64, 8, generator=generator)
    centres_KC = (rows_KE @ torch.randn(8, 8, generator=generator) + 1.0)[torch.randperm(64, generator=generator)]
    distances = []
    for rounds in (1, 12):
        projection = nn.Linear(8, 8)
        laid_KC = lay_onto(projection, rows_KE, centres_KC, rounds=rounds)
        assert sorted(map(tuple, laid_KC.tolist())) == sorted(map(tuple, centres_KC.tolist()))
        distances.append(float((projection(rows_KE) - laid_KC).square().sum(-1).mean()))
    assert distances[1] < distances[0] < float(centres_KC.var(0).sum())


def test_surprise_is_small_where_a_row_has_one_label():
    rows = torch.tensor([0] * 50 + [1] * 50 + [2] * 50)
    labels = torch.tensor([3] * 50 + [3, 4] * 25 + [-1] * 50)
    told_KL = surprise(rows, labels, codes=4)
    assert told_KL.shape == (4, 6)
    assert torch.allclose(told_KL.neg().exp().sum(1), torch.ones(4))
    assert told_KL[0, 3] < 0.05 < told_KL[1, 3]
    assert told_KL[1, 3] == pytest.approx(math.log(2), abs=0.05)
    assert told_KL[2, -1] < told_KL[0, -1]


def test_mean_of_a_row_without_cells_is_its_prior():
    prior_KD = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    means_KD, counts_K = mean_rows(torch.tensor([0, 0]), torch.tensor([[3.0, 0.0], [3.0, 0.0]]), prior_KD)
    assert means_KD.tolist() == [[2.0, 0.0], [0.0, 1.0]]
    assert counts_K.tolist() == [2.0, 0.0]


def test_few_takes_each_at_most_once():
    picked = few(torch.arange(10, 20), 6, torch.Generator().manual_seed(1))
    assert len(set(picked.tolist())) == 6 and set(picked.tolist()) <= set(range(10, 20))


def test_start_is_a_tokenizer_with_the_teachers_encoder(start, teacher):
    folder, scores = start
    model = TATok.from_folder(folder)
    taught = load_part(teacher / "encoder")[1]
    assert all(torch.equal(value, taught[name]) for name, value in model.encoder.state_dict().items())
    assert len((folder / "words.txt").read_text().splitlines()) == model.config.quantizer.codebook_size
    assert set(scores) == {
        f"{who}{what}_s{scale}" for who in ("", "teacher_") for what in ("cell", "colour", "scene") for scale in (1, 2)
    }
    assert all(0 <= value <= 1 for value in scores.values())


def test_start_repeats(start, teacher, tmp_path):
    lay_codebook(small(), teacher, tmp_path, quiet=True)
    again = TATok.from_folder(tmp_path / "result" / "ta_tok").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in TATok.from_folder(start[0]).state_dict().items())


def test_only_what_the_recipe_names_learns(start, teacher):
    settings = replace(recipes.nano().ta_tok, model=small().model)
    held = SceneTATokStage(settings, teacher, start[0]).module()
    learning = {name.split(".")[0] for name, weight in held.named_parameters() if weight.requires_grad}
    assert {name for name, weight in held.model.named_parameters() if weight.requires_grad} == {
        f"decoder.{name}" for name, _ in held.model.decoder.named_parameters()
    }
    assert learning == {"model", "painter"} and not held.encoder_learns
    free = SceneTATokStage(replace(settings, learns=("",)), teacher, start[0]).module()
    assert free.encoder_learns
    assert not any(weight.requires_grad for weight in [*free.teacher.parameters(), *free.heads.parameters()])
    assert not free.model.quantizer.embedding.weight.requires_grad
