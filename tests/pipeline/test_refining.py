"""Coarse to fine: a draft keeps the scene, arguments win over what the picture says, coarse first is the same way."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from opentar import Tar, refining
from opentar.checkpoints.random_init import init_random
from opentar.checkpoints.sizes import size_of
from opentar.core.errors import ConfigError, ImageError, PromptError
from opentar.core.picture_files import save_picture
from opentar.engine.request import Codes
from opentar.refining import Origin, origin_of
from opentar.tokens_to_image.passes import NAMED

PROMPT = "three red apples on a light blue background"


@pytest.fixture(scope="module")
def tar(tiny_model):
    return Tar.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def coarse(tar):
    return tar.generate(PROMPT, seed=5, scale=2)[0]


def test_a_picture_refines_to_the_next_scale_with_its_own_prompt_and_seed(tar, coarse):
    finer = tar.refine(coarse)
    told = {key: finer.info[key] for key in ("prompt", "seed", "scale", "refined_from", "detok")}
    assert told == {"prompt": PROMPT, "seed": "5", "scale": "1", "refined_from": "2", "detok": "diffusion"}
    assert np.array_equal(finer, tar.refine(coarse, prompt=PROMPT, seed=5, scale=1))
    assert finer.info["model_hash"] == tar.parts.hash


def test_arguments_win_over_what_the_picture_says(tar, coarse):
    finer = tar.refine(coarse, prompt="a dog", seed=6, scale=0, detok="ar")
    told = {key: finer.info[key] for key in ("prompt", "seed", "scale", "detok")}
    assert told == {"prompt": "a dog", "seed": "6", "scale": "0", "detok": "ar"}


def test_a_file_says_what_the_picture_in_memory_says(tar, coarse, tmp_path):
    for name in ("picture.png", "picture.webp"):
        save_picture(coarse, tmp_path / name, coarse.info)
        assert origin_of(tmp_path / name) == Origin(PROMPT, 5, 2, "diffusion") == origin_of(coarse)
    assert np.array_equal(tar.refine(str(tmp_path / "picture.png")), tar.refine(coarse))


def test_without_a_prompt_its_codes_are_painted_on_the_finer_grid(tar, coarse):
    plain = Image.fromarray(np.asarray(coarse))
    again = tar.refine(plain, scale=1, seed=5)
    assert np.array_equal(again, tar.reconstruct(plain, scale=1, seed=5))
    assert np.array_equal(again, tar.refine(coarse, prompt="", scale=1))
    assert "prompt" not in again.info


def test_a_refinement_takes_drafted_codes_and_the_prompt_decides_which(tar, coarse, monkeypatch):
    drawn = []
    import opentar.drawing

    real = opentar.drawing.paint
    monkeypatch.setattr(
        opentar.drawing, "paint", lambda parts, codes, *rest: drawn.append(codes) or real(parts, codes, *rest)
    )
    tar.refine(coarse, scale=1)
    tar.generate(PROMPT, seed=5, scale=1)
    draft = np.asarray(tar.encode(coarse, scale=1).codes).ravel()
    refined, fresh = (codes[0].numpy() for codes in drawn)
    # Random weights find every code about as likely as every other: the draft stays.
    assert np.array_equal(refined, draft)
    assert not np.array_equal(fresh, draft)


@pytest.mark.parametrize("scale", [0, 1])
def test_coarse_first_is_drawing_and_refining(tar, coarse, scale):
    seen, works = [], []
    first = tar.generate(
        PROMPT,
        seed=5,
        scale=scale,
        coarse_first=True,
        callback_on_preview=seen.append,
        callback_on_step_end=lambda work, step, total: works.append(work),
    )[0]
    assert np.array_equal(first, tar.refine(coarse, scale=scale))
    assert len(seen) == 1 and np.array_equal(seen[0][0], coarse)
    assert list(dict.fromkeys(works)) == ["coarse codes", "coarse picture", "codes", "picture"]


def test_the_coarse_picture_is_drawn_in_as_many_passes_as_the_other(tar, monkeypatch):
    asked, real = [], refining.draw_codes
    monkeypatch.setattr(refining, "draw_codes", lambda engine, requests, steps: (
        asked.extend(requests) or real(engine, requests, steps)))  # fmt: skip
    tar.generate(PROMPT, seed=5, scale=1, coarse_first=True, code_passes="jacobi")
    assert [(one.grammar.scale.index, one.grammar.passes) for one in asked] == [(2, NAMED["jacobi"])]


def test_coarse_first_in_batches_draws_what_each_draws_alone(tar):
    together = tar.generate([PROMPT, "a dog"], n=2, seed=3, scale=1, coarse_first=True)
    for place, picture in enumerate(together):
        alone = tar.generate([PROMPT, "a dog"][place // 2], seed=3 + place % 2, scale=1, coarse_first=True)[0]
        assert np.abs(np.asarray(picture, int) - np.asarray(alone, int)).max() <= 1


@pytest.mark.parametrize(
    ("told", "origin"),
    [
        ({"seed": "-1", "scale": "3", "prompt": " "}, Origin()),
        ({"seed": "9" * 30, "scale": "zwei"}, Origin()),
        ({"seed": "٣", "prompt": b"bytes"}, Origin()),
        ({"seed": "7", "detok": "elsewhere"}, Origin(seed=7, detok="elsewhere")),
    ],
)
def test_nonsense_in_a_picture_is_passed_over(tar, coarse, told, origin):
    strange = coarse.copy()
    strange.info = told
    assert origin_of(strange) == origin
    assert tar.refine(strange).info["scale"] == "0"


def test_what_cannot_be_refined_is_refused(tar, coarse, tmp_path):
    with pytest.raises(ConfigError, match="nothing comes before it"):
        tar.generate(PROMPT, scale=2, coarse_first=True)
    with pytest.raises(PromptError, match="only punctuation"):
        tar.refine(coarse, prompt="...")
    with pytest.raises(ConfigError, match="scale 3 does not exist"):
        tar.refine(coarse, scale=3)
    with pytest.raises(ImageError, match="not a picture file"):
        tar.refine(tmp_path / "missing.png")


def test_a_draft_fills_its_grid_and_keep_is_a_share(tar):
    grid = tar.parts.vocab.scale(2)
    with pytest.raises(ConfigError, match="the draft has 3 codes and the grid 16"):
        Codes(scale=grid, draft=(1, 2, 3))
    with pytest.raises(ConfigError, match="keep is 2"):
        dataclasses.replace(Codes(scale=grid), keep=2.0)


def test_models_of_the_published_kind_refine(tmp_path):
    folder = tmp_path / "published"
    init_random(size_of("tar-tiny"), folder, dtype="bf16", parts=("language", "ta_tok", "detok_ar"))
    tar = Tar.from_pretrained(folder)
    coarse = tar.generate("a red apple", scale=2, seed=4)[0]
    finer = tar.refine(coarse)
    assert (finer.info["scale"], finer.info["seed"], finer.info["refined_from"]) == ("1", "4", "2")
    assert np.array_equal(finer, tar.generate("a red apple", scale=1, seed=4, coarse_first=True)[0])
    assert tar.refine(finer).info["scale"] == "0"
