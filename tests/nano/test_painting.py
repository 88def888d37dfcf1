"""Samples for what paints: corpora come as often as the shares say, rows and tables are the scenes they stand for."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from opentar.core.errors import ConfigError
from opentar.nano import recipes
from opentar.nano.corpus import SceneCorpus
from opentar.nano.stages.pictures import box_masks
from opentar.nano.world.scenes import SceneGenerator
from opentar.tokens_to_image.draft import Draft
from opentar.train.stages import diffusion as flow
from opentar.train.stages import draft
from opentar.train.stages.diffusion import FlowStage
from opentar.train.stages.draft import DraftModule, DraftStage


class Grid:
    """Stands where a tokenizer would: only its config is asked for."""

    config = recipes.smoke().ta_tok.model


def corpus(kinds, seed):
    generator, rng = SceneGenerator("train", styles=[recipes.DRAWING_STYLE]), np.random.default_rng(seed)
    specs = tuple(generator.sample(rng, kind) for kind in kinds for _ in range(8))
    codes = tuple(torch.zeros(len(specs), side * side, dtype=torch.int64) for side in (12, 6, 4))
    return SceneCorpus(codes=codes, latents=torch.zeros(len(specs), 4, 16, 16), specs=specs, styles=None)


CORPORA = (("single", "colour", "two"), ("count",), ("position",))


def flow_stage_of(settings):
    first = flow_stage()
    return FlowStage(settings, first.corpora, None, Grid(), None, first.draft)


def flow_stage(**given):
    corpora = [corpus(kinds, seed) for seed, kinds in enumerate(CORPORA)]
    weights = Draft(recipes.nano().draft.model).state_dict()
    return FlowStage(recipes.nano().flow, corpora, corpora[0].held_out(), Grid(), None, **({"draft": weights} | given))


def test_corpora_come_as_often_as_told():
    stage = flow_stage()
    picked = stage.pick(np.random.default_rng(2), 1000)[1]
    seen = Counter(stage.corpora[number].specs[index].kind for number, index in picked)
    codes, latents, inside = stage.draw_samples(np.random.default_rng(2), 1000)
    assert len(codes) == len(latents) == len(inside) == 1000
    masks = box_masks([stage.corpora[number].specs[index] for number, index in picked])
    assert torch.equal(inside, masks), "where objects are is told of the very scenes that were picked"
    for kinds, share in zip(CORPORA, recipes.nano().flow.corpus_shares, strict=True):
        assert abs(sum(seen[kind] for kind in kinds) / 1000 - share) < 0.05


def test_what_a_painting_stage_refuses():
    with pytest.raises(ConfigError, match="no draft's weights are given, and the model has a draft"):
        flow_stage(draft=None)
    settings = recipes.nano().flow
    with pytest.raises(ConfigError, match="contrast is -1"):
        replace(settings, contrast=-1)
    for shares in ((0.5, 0.5), (0.5, 0.5, 0.5), (1.5, -0.5, 0.0)):
        with pytest.raises(ConfigError, match=r"corpus_shares is .*; give 3 numbers"):
            FlowStage(
                replace(settings, corpus_shares=shares), flow_stage().corpora, None, Grid(), None, flow_stage().draft
            )
    plain = replace(settings, model=replace(settings.model, draft=None))
    with pytest.raises(ConfigError, match="a draft's weights are given, and the model has no draft"):
        flow_stage_of(plain)


def test_a_picked_row_of_the_draft_is_the_picked_scene():
    """The draft looks its samples up in one long table of all corpora."""
    corpora = [corpus(kinds, seed) for seed, kinds in enumerate(CORPORA)]
    stage = DraftStage(recipes.nano().draft, corpora, None, Grid(), None)
    batch = stage.batch(np.random.default_rng(3), 64)
    scale, picked = stage.pick(np.random.default_rng(3), 64)
    scenes = [spec for one in corpora for spec in one.specs]
    assert int(batch["scale"]) == scale
    assert [scenes[row] for row in batch["rows"]] == [corpora[number].specs[index] for number, index in picked]


class Spelling(torch.nn.Module):
    """A tokenizer whose features say which codes they come from."""

    config = Grid.config

    def decode(self, codes):
        return codes.unsqueeze(-1).float().expand(-1, -1, 256).contiguous()


def test_features_are_the_same_from_the_table_and_decoded_anew(monkeypatch):
    module = DraftModule(recipes.nano().draft.model, [corpus(("single",), 0), corpus(("two",), 1)], Spelling())
    module._codes = [torch.randint(0, 256, codes.shape) for codes in module._codes]
    rows = torch.tensor([3, 11, 0])
    kept = module.features(1, rows)
    assert module._tables, "a small grid is decoded once"
    module._tables.clear()
    monkeypatch.setattr(draft, "_LARGEST_TABLE", 0)
    assert torch.equal(module.features(1, rows), kept) and not module._tables


def test_the_draft_is_compared_with_the_latents_of_its_rows():
    module = DraftModule(recipes.nano().draft.model, [corpus(("single",), 0), corpus(("two",), 1)], Spelling()).eval()
    module._latents = [torch.randn(16, 4, 16, 16, generator=torch.Generator().manual_seed(0))]
    rows = torch.tensor([3, 11])
    loss, _ = module({"scale": torch.tensor(1), "rows": rows})
    drawn = module.model(module.features(1, rows))
    assert loss.item() == pytest.approx((drawn - module._latents[0][rows]).square().mean().item(), rel=1e-4)


def test_the_flow_leaves_its_draft_as_it_was():
    weights = Draft(recipes.nano().draft.model).state_dict()
    stage = FlowStage(recipes.nano().flow, [corpus(kinds, 0) for kinds in CORPORA], None, Grid(), None, weights)
    stage.ta_tok = Spelling()
    module = stage.module()
    assert all(torch.equal(value, weights[name]) for name, value in module.model.draft.state_dict().items())
    loss, _ = module(stage.batch(np.random.default_rng(0), 2))
    loss.backward()
    assert all(weight.grad is None for weight in module.model.draft.parameters())
    assert module.model.draft_in.weight.grad.any(), "the draft is listened to"


def test_small_differences_weigh_more_where_contrast_counts():
    """A thing that varies little inside has the larger weight, plain ground stays ground."""
    latents, covered = torch.zeros(2, 4, 16, 16), torch.zeros(2, 16, 16)
    covered[:, 4:12, 4:12] = 1
    checks = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    latents[0, :, 4:12, 4:12], latents[1, :, 4:12, 4:12] = 0.1 * checks[4:12, 4:12], checks[4:12, 4:12]
    stage = flow_stage()
    stage.recipe = recipes.nano().polish
    weight = stage.weights(latents, covered)
    assert float(weight.mean()) == pytest.approx(1)
    assert weight[0, 8, 8] > 2 * weight[1, 8, 8] > 2 * weight[1, 0, 0] and weight[0, 0, 0] == weight[1, 0, 0]
    stage.recipe = recipes.nano().flow
    plain = stage.weights(latents, covered)
    assert torch.equal(plain[0], plain[1]) and float(plain[0].mean()) == pytest.approx(1)
    assert float(plain[0, 8, 8] / plain[0, 0, 0]) == pytest.approx(recipes.nano().flow.object_weight)


def test_deviation_around_a_position():
    latents = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    around = latents[0, :, 1:4, 1:4].flatten(1)
    assert float(flow.spread(latents)[0, 2, 2]) == pytest.approx(
        float(around.var(1, correction=0).mean().sqrt()), rel=1e-4
    )


def test_polish_goes_on_with_both():
    first = flow_stage()
    first.ta_tok = Spelling()
    weights = first.module().model.state_dict()
    stage = FlowStage(recipes.nano().polish, first.corpora, None, Grid(), None, start=weights, name="polish")
    stage.ta_tok = Spelling()
    module = stage.module()
    assert all(torch.equal(value, weights[name]) for name, value in module.model.state_dict().items())
    module(stage.batch(np.random.default_rng(0), 2))[0].backward()
    assert module.model.draft.gated.weight.grad.any(), "the draft learns on"
