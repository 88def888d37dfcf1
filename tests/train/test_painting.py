"""Samples for the de-tokenizers: corpora and kinds come as often as the shares say."""

from collections import Counter

import numpy as np
import torch

from opentar.data.scenes import SceneGenerator
from opentar.train import recipes
from opentar.train.corpus import Corpus
from opentar.train.stages.flow import FlowStage


class Grid:
    """Stands where a tokenizer would: only its config is asked for."""

    config = recipes.smoke().ta_tok.model


def corpus(kinds, seed):
    generator, rng = SceneGenerator("train", styles=[recipes.DRAWING_STYLE]), np.random.default_rng(seed)
    specs = tuple(generator.sample(rng, kind) for kind in kinds for _ in range(8))
    codes = tuple(torch.zeros(len(specs), side * side, dtype=torch.int64) for side in (12, 6, 4))
    return Corpus(codes=codes, specs=specs, latents=torch.zeros(len(specs), 4, 16, 16), styles=None)


def drawn(settings, size=300):
    corpora = [corpus(("single", "colour", "two"), 0), corpus(("count",), 1)]
    stage = FlowStage(settings, corpora, Grid(), None)
    codes, latents, specs = stage.draw_samples(np.random.default_rng(2), size)
    assert len(codes) == len(latents) == len(specs) == size
    return Counter(spec.kind for spec in specs)


def test_kinds_come_as_often_as_told():
    polish = recipes.nano().polish
    plain = drawn(recipes.nano().flow)
    assert 0.2 < plain["single"] / 300 < 0.37 and 0.2 < plain["two"] / 300 < 0.37
    weighed = drawn(polish)
    shares = polish.kind_shares
    known = shares["single"] + shares["colour"] + shares["two"]
    for kind in ("single", "colour", "two"):
        assert abs(weighed[kind] / (300 - weighed["count"]) - shares[kind] / known) < 0.1
    assert 0.08 < weighed["count"] / 300 < 0.24, "the second corpus has its own share, and within it what kinds it has"
